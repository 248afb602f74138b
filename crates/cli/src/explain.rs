//! `outboard doctor --explain`.

use std::process::ExitCode;

use outboard::{Code, Result, code::CHAPTERS, doctor};
use serde_json::json;

use crate::{
    args::Global,
    output::{Printer, json},
};

/// Columns of a terminal.
const WIDTH: usize = 100;

/// Explains a code; lists them all where `name` is empty.
pub(crate) fn explain(name: &str, global: &Global, printer: &Printer) -> Result<ExitCode> {
    if name.is_empty() {
        for chapter in CHAPTERS {
            if !global.json {
                printer.line(format!("{}:", chapter.title));
            }
            chapter.codes.iter().for_each(|code| match global.json {
                true => object(*code, printer),
                false => printer.line(format!("  {code:<20} {}", code.title)),
            });
        }
        if !global.json {
            printer.line("\nExplain one with: outboard doctor --explain CODE");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let code = doctor::explained(name)?;
    if global.json {
        object(code, printer);
        return Ok(ExitCode::SUCCESS);
    }
    printer.line(format!("{code}: {}", code.title));
    for (title, text) in [("What it means", code.means), ("How to see it", code.see), ("What to do", code.fix)] {
        printer.line(format!("\n{title}"));
        wrapped(text).iter().for_each(|line| printer.line(format!("  {line}")));
    }
    Ok(ExitCode::SUCCESS)
}

fn object(code: Code, printer: &Printer) {
    let Code { name, title, means, see, fix } = code;
    let fields = json!({"event": "code", "schema": json::SCHEMA, "code": name, "title": title, "means": means, "see": see, "fix": fix});
    printer.line(fields.to_string());
}

/// The text in lines, broken between words.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH - 2 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_lose_none() {
        let text = "word ".repeat(50) + &"long".repeat(40) + " end.";
        let lines = wrapped(&text);
        assert_eq!(lines.join(" "), text);
        assert!(lines.iter().all(|line| line.len() < WIDTH || !line.contains(' ')), "{lines:?}");
        assert_eq!(lines.len(), 5);
    }
}
