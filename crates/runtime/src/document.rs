//! A TOML document that came from a user: its text, its values, and the line of each key.

mod key;
mod misfit;
mod secrets;

use std::{fs::File, io::Read, path::Path};

use figment::value::{Dict, Value};
use outboard_core::{Error, ErrorKind, Result, error::IoContext};
use toml::de::{DeTable, DeValue};

pub(crate) use self::{
    key::{Key, Step},
    misfit::{Misfit, Problem, fit},
    secrets::{displayed, is_secret},
};

/// What people write by hand is smaller by far.
const MAX_BYTES: u64 = 4 << 20;

/// Reads a text file.
///
/// # Errors
/// `NotFound` and `InvalidRequest` for what the file system refuses; `kind` for a file that isn't text or is too large.
pub(crate) fn read_text(path: &Path, kind: ErrorKind) -> Result<String> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).doing("read", path)?;
    let wrong = |what: String| Error::new(kind, format!("{} {what}", path.display())).at("file", path.display());
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong("is larger than 4 MiB".into()).hint("name a TOML file, such as `job.toml`"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        wrong(format!("is not text: byte {at} is not UTF-8")).hint("name a TOML file, or save it as UTF-8")
    })
}

/// Parses TOML.
///
/// # Errors
/// `kind`, with file, line and column. The text itself isn't repeated, since it may hold secrets.
pub(crate) fn parse(text: &str, path: &Path, kind: ErrorKind) -> Result<Dict> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let what = error.message().trim_end().replace('\n', ", ");
        let mut refused =
            Error::new(kind, format!("{} is not valid TOML: {what}", path.display())).at("file", path.display());
        if let Some(span) = error.span() {
            let (line, column) = position(text, span.start);
            refused = refused.at("line", line).at("column", column);
        }
        refused.hint("correct it there: a table starts with `[name]`, a value is `key = value`, text is in quotes")
    })
}

/// The value that `key` names.
pub(crate) fn lookup<'v>(values: &'v Dict, key: &[Step]) -> Option<&'v Value> {
    let (first, rest) = key.split_first()?;
    let Step::Name(name) = first else { return None };
    rest.iter().try_fold(values.get(name)?, |value, step| match step {
        Step::Name(name) => value.as_dict()?.get(name),
        Step::Index(index) => value.as_array()?.get(*index),
    })
}

/// The line of `key`, or of the innermost table around it that is in the text.
pub(crate) fn line_of(text: &str, key: &[Step]) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut steps = key.iter();
    let Step::Name(first) = steps.next()? else { return None };
    let (name, mut value) = document.get_ref().iter().find(|(name, _)| name.get_ref() == first)?;
    let mut start = name.span().start;
    for step in steps {
        let inner = match (step, value.get_ref()) {
            (Step::Name(wanted), DeValue::Table(table)) => {
                table.iter().find(|(name, _)| name.get_ref() == wanted).map(|(name, value)| (name.span(), value))
            }
            (Step::Index(index), DeValue::Array(array)) => array.get(*index).map(|value| (value.span(), value)),
            _ => None,
        };
        let Some((span, next)) = inner else { break };
        (start, value) = (span.start, next);
    }
    Some(position(text, start).0)
}

/// Line and column, both from 1, of a byte.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(byte)];
    let line = before.rsplit('\n').next().unwrap_or_default();
    (1 + before.matches('\n').count(), 1 + line.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_line_of_a_key_or_of_what_is_around_it() {
        let text = "\u{feff}a = 1\r\n[b]\nc = [\n  { d = 1 },\n  { d = 2 },\n]\n[[e]]\nf = 1\n[[e]]\nf = 2\n";
        for (key, line) in [
            ("a", Some(1)),
            ("b", Some(2)),
            ("b.c", Some(3)),
            ("b.c[1]", Some(5)),
            ("b.c[1].d", Some(5)),
            ("b.c[7].d", Some(3)),
            ("b.x.y", Some(2)),
            ("e[1].f", Some(10)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(line_of(text, key.parse::<Key>().unwrap().steps()), line, "{key}");
        }
    }

    #[test]
    fn positions_count_characters_and_stay_inside() {
        assert_eq!(position("é = \n ü x", 9), (2, 3));
        assert_eq!(position("é", 1), (1, 1));
        assert_eq!(position("", 99), (1, 1));
    }
}
