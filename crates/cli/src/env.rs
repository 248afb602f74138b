//! `outboard doctor env`.

use std::process::ExitCode;

use outboard::{
    Result,
    config::Sources,
    doctor::{Comparison, Fact, Place},
};
use serde_json::json;

use crate::{
    args::{Env, Global},
    output::{self, Printer, json::SCHEMA, table},
};

/// A value that has more columns is printed below its row.
const WIDTH: usize = 40;

/// Prints how this machine differs from a provider's; the exit code is 1 where the task failed.
pub(crate) async fn env(sources: &Sources, asked: Env, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let Env { provider, python, max_cost, all } = asked;
    let place = Place { provider: provider.clone(), python, most: max_cost }.open(sources).await?;
    match place.compare().await {
        Ok(found) => {
            match global.json {
                true => objects(&provider, &found, all, printer),
                false => text(&provider, &found, all, printer),
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            output::error(global, printer, &error);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn objects(provider: &str, found: &Comparison, all: bool, printer: &Printer) {
    for Fact { name, here, there, differs, so } in found.facts.iter().filter(|fact| all || fact.differs) {
        printer.line(
            json!({
                "event": "fact", "schema": SCHEMA, "name": name, "here": here, "there": there, "differs": differs, "so": so,
            })
            .to_string(),
        );
    }
    let differ = found.facts.iter().filter(|fact| fact.differs).count();
    printer.line(
        json!({
            "event": "compared", "schema": SCHEMA, "provider": provider, "device": found.device,
            "facts": found.facts.len(), "differences": differ, "notes": found.notes, "cost_usd": found.cost.as_usd(),
        })
        .to_string(),
    );
}

fn text(provider: &str, found: &Comparison, all: bool, printer: &Printer) {
    let Comparison { device, facts, notes, cost } = found;
    let shown: Vec<_> = facts.iter().filter(|fact| all || fact.differs).collect();
    if !shown.is_empty() {
        let head = ["fact".to_string(), "here".into(), "there".into()];
        let rows = shown.iter().map(|fact| [fact.name.clone(), cell(&fact.here), cell(&fact.there)]);
        let lines = table::lines(&[head].into_iter().chain(rows).collect::<Vec<_>>(), &[]);
        let mut lines = lines.into_iter();
        lines.next().into_iter().for_each(|head| printer.line(head));
        for (line, fact) in lines.zip(shown) {
            printer.line(line);
            for (side, value) in [("here", &fact.here), ("there", &fact.there)] {
                if let Some(value) = value.as_ref().filter(|value| value.chars().count() > WIDTH) {
                    printer.line(format!("    {side}: {value}"));
                }
            }
            if let Some(so) = &fact.so {
                printer.line(format!("    so: {so}"));
            }
        }
        printer.line("");
    }
    notes.iter().for_each(|note| printer.line(format!("note: {note}")));
    let differ = facts.iter().filter(|fact| fact.differs).count();
    let rest = if all || differ == facts.len() { "" } else { "; `--all` shows the others too" };
    printer.line(format!(
        "{differ} of {} facts differ from those of {provider} ({device}){rest}; charged {cost}",
        facts.len()
    ));
}

fn cell(value: &Option<String>) -> String {
    match value {
        Some(value) if value.chars().count() > WIDTH => value.chars().take(WIDTH - 3).chain("...".chars()).collect(),
        Some(value) if value.is_empty() => "\"\"".into(),
        Some(value) => value.clone(),
        None => "-".into(),
    }
}
