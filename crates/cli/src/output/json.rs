//! One JSON object per line; `docs/json.md` is the schema.

use outboard::{Error, Event, Report, RunEvent, Status, task::Progress};
use serde_json::{Map, Value, json};

use super::Printer;

/// Version of the lines' schema.
pub(crate) const SCHEMA: u32 = 1;

/// Prints [`object`].
pub(crate) fn line(printer: &Printer, event: &str, job: Option<&str>, fields: Value) {
    printer.line(object(event, job, fields).to_string());
}

/// An object with `event`, `schema` and `job` beside its fields.
pub(crate) fn object(event: &str, job: Option<&str>, fields: Value) -> Value {
    let mut object = Map::new();
    object.insert("event".into(), event.into());
    object.insert("schema".into(), SCHEMA.into());
    object.insert("job".into(), job.into());
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    Value::Object(object)
}

/// Prints an event of a run.
pub(crate) fn event(printer: &Printer, job: &str, event: &RunEvent) {
    let encoded =
        |name, value: Result<Value, serde_json::Error>| line(printer, name, Some(job), value.unwrap_or_default());
    match event {
        RunEvent::Started(started) => line(
            printer,
            "started",
            Some(job),
            json!({
                "provider": started.provider,
                "device": started.device,
                "rows": started.rows,
                "validation_rows": started.validation_rows,
                "parameters": started.parameters,
                "epochs": started.epochs,
                "resumed_at": started.resumed_at.map(|(epoch, step)| json!({"epoch": epoch, "step": step})),
            }),
        ),
        RunEvent::Task(Event::Epoch(epoch)) => encoded("epoch", serde_json::to_value(epoch)),
        RunEvent::Task(Event::Progress(progress)) => encoded("progress", serde_json::to_value(finite(*progress))),
        RunEvent::Task(Event::Checkpoint(checkpoint)) => encoded("checkpoint", serde_json::to_value(checkpoint)),
        RunEvent::Task(Event::Warning { message }) => line(printer, "warning", Some(job), json!({"message": message})),
        RunEvent::Task(_) => {}
    }
}

/// JSON has no infinity.
fn finite(progress: Progress) -> Progress {
    Progress { eta_seconds: progress.eta_seconds.min(f64::MAX), ..progress }
}

/// Prints the last line of a run.
pub(crate) fn finished(printer: &Printer, report: &Report, resume: &str) {
    let status = if report.status == Status::Succeeded { "succeeded" } else { "interrupted" };
    let mut fields = json!({
        "status": status,
        "provider": report.provider,
        "epochs": report.epochs,
        "metrics": report.metrics,
        "seconds": report.seconds,
        "cost_usd": report.cost.as_usd(),
        "timings": report.timings,
        "moves": report.moves,
        "model": report.model,
        "output": report.output,
        "stopped_early": report.stopped_early,
        "best_epoch": report.best_epoch,
    });
    if report.status != Status::Succeeded {
        fields["resume"] = resume.into();
    }
    line(printer, "finished", Some(&report.job), fields);
}

/// Prints the last line of what failed.
pub(crate) fn failed(printer: &Printer, job: Option<&str>, error: &Error) {
    let context: Map<_, _> =
        error.context().iter().map(|(what, value)| (what.to_string(), value.as_str().into())).collect();
    let fields = json!({
        "status": "failed",
        "error": {"kind": error.kind(), "code": error.code(), "message": error.to_string(), "context": context, "try": error.advice()},
    });
    line(printer, "finished", job, fields);
}
