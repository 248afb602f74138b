//! `outboard plan` and `outboard providers`.

use std::{path::Path, process::ExitCode};

use outboard::{
    Client, Result,
    provider::Health,
    read_job,
    router::{Candidate, Estimate, Phases, Row, Verdict},
};
use serde_json::{Value, json};

use crate::{
    args::Global,
    output::{Printer, table, text::grouped},
};

/// Prints where a job would run.
pub(crate) async fn plan(client: &Client, file: &Path, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let planned = client.plan(read_job(file)?).await.map_err(|error| error.at("job file", file.display()))?;
    if global.json {
        let rows: Vec<_> = planned.plan.rows.iter().map(row).collect();
        let crossed: Vec<_> = planned.plan.crossed.iter().map(ToString::to_string).collect();
        let object = json!({
            "event": "plan", "schema": 1, "rows": planned.rows, "validation_rows": planned.validation_rows,
            "parameters": planned.parameters, "epochs": planned.epochs, "policy": planned.plan.policy,
            "providers": rows, "crossed": crossed, "notes": planned.notes,
        });
        printer.line(object.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    printer.line(format!(
        "{} rows ({} held out), {} parameters, {} epochs\n",
        grouped(planned.rows),
        grouped(planned.validation_rows),
        grouped(planned.parameters),
        planned.epochs
    ));
    let columns = ["provider", "queue", "start", "download", "load", "compute", "upload", "in all", "cost", "at most"];
    let mut rows = vec![columns.map(String::from)];
    for Row { provider, quote, .. } in &planned.plan.rows {
        let Some(quote) = quote else { continue };
        let Phases { queue, start, download, load, compute, upload } = quote.phases;
        rows.push([
            provider.clone(),
            seconds(queue),
            seconds(start),
            seconds(download),
            seconds(load),
            seconds(compute),
            seconds(upload),
            seconds(quote.expected_time.as_secs_f64()),
            quote.expected_cost.to_string(),
            quote.worst_cost.to_string(),
        ]);
    }
    if rows.len() > 1 {
        table::print(printer, &rows, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        printer.line("the phases and \"at most\" are those of the first task; the rest is for the whole job\n");
    }
    printer.line(planned.plan.to_string().trim_end());
    planned.notes.iter().for_each(|note| printer.line(format!("note: {note}")));
    Ok(ExitCode::SUCCESS)
}

fn row(row: &Row) -> Value {
    let Row { provider, device, quote, verdict } = row;
    let (verdict, reason) = match verdict {
        Verdict::Chosen => ("chosen", None),
        Verdict::Possible { .. } => ("possible", None),
        Verdict::Excluded(reason) => ("excluded", Some(reason)),
    };
    let quote = quote.map(|quote| {
        let Phases { queue, start, download, load, compute, upload } = quote.phases;
        json!({
            "epochs": quote.epochs, "tasks": quote.tasks,
            "phases": {"queue": queue, "start": start, "download": download, "load": load, "compute": compute,
                       "upload": upload},
            "expected_seconds": quote.expected_time.as_secs_f64(), "expected_cost_usd": quote.expected_cost.as_usd(),
            "limit_seconds": quote.limit.map(|limit| limit.as_secs_f64()), "worst_cost_usd": quote.worst_cost.as_usd(),
            "between": quote.between.map(|between| json!({
                "idle_seconds": between.idle.as_secs_f64(), "gap_seconds": between.gap.map(|gap| gap.as_secs_f64()),
                "kept_seconds": between.until.as_secs_f64(), "kept_cost_usd": between.cost.as_usd(),
                "longer_idle_seconds": between.longer.map(|longer| longer.as_secs_f64()),
            })),
        })
    });
    json!({
        "provider": provider, "device": device, "verdict": verdict, "reason": reason.map(ToString::to_string),
        "try": reason.and_then(|reason| reason.help(provider)), "quote": quote,
    })
}

/// Prints the providers.
pub(crate) async fn providers(client: &Client, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let known = client.providers().await?;
    if global.json {
        known.enabled.iter().for_each(|candidate| printer.line(candidate_json(candidate, known.now).to_string()));
        for (key, _) in known.disabled {
            let id = key.rsplit('.').next();
            printer.line(json!({"event": "provider", "schema": 1, "provider": id, "enabled": false}).to_string());
        }
        return Ok(ExitCode::SUCCESS);
    }
    for candidate in &known.enabled {
        printer.line(format!("{} ({})", candidate.id, candidate.device));
        let row = |name: &str, text: String| printer.line(format!("  {name:<9} {text}"));
        row("state", state(candidate, known.now));
        row("price", price(candidate));
        let learned = &candidate.learned;
        row("start", format!("{}, needed {} of the time", of(&learned.cold_start, seconds), percent(&learned.cold)));
        row("speed", of(&learned.flops, |rate| format!("{:.1} GFLOP/s", rate / 1e9)));
        row("transfer", format!("{} there, {} back", bandwidth(&learned.down), bandwidth(&learned.up)));
        row("losses", format!("one per {} of running", of(&learned.mtbf, seconds)));
    }
    for (key, why) in known.disabled {
        let id = key.rsplit('.').next().unwrap_or_default();
        printer.line(format!("{id}\n  state     {why}"));
    }
    known.notes.iter().for_each(|note| printer.line(format!("note: {note}")));
    Ok(ExitCode::SUCCESS)
}

fn candidate_json(candidate: &Candidate, now: u64) -> Value {
    let estimate = |estimate: &Estimate| json!({"value": estimate.value, "observations": estimate.observations});
    let learned = &candidate.learned;
    let price = candidate.price.as_ref().ok().map(|price| {
        json!({"usd_per_task": price.per_task.as_usd(), "usd_per_hour": price.per_hour.as_usd(),
               "granularity_seconds": price.granularity.as_secs_f64(), "as_of": price.as_of, "source": price.source})
    });
    json!({
        "event": "provider", "schema": 1, "provider": candidate.id, "enabled": true, "device": candidate.device,
        "ready": candidate.health == Health::Ready, "state": state(candidate, now), "price": price,
        "learned": {
            "queue_seconds": estimate(&learned.queue), "cold_share": estimate(&learned.cold),
            "cold_start_seconds": estimate(&learned.cold_start), "load_seconds": estimate(&learned.load),
            "down_bytes_per_second": estimate(&learned.down), "up_bytes_per_second": estimate(&learned.up),
            "flops_per_second": estimate(&learned.flops), "mtbf_seconds": estimate(&learned.mtbf),
        },
    })
}

/// In words: what its breaker says, then what it says itself.
fn state(candidate: &Candidate, now: u64) -> String {
    match (candidate.breaker.words(now), &candidate.health) {
        (Some(pause), _) => pause,
        (None, Health::Ready) => "ready".into(),
        (None, Health::Unavailable(why)) => why.replace('\n', "\n            "),
    }
}

fn price(candidate: &Candidate) -> String {
    match &candidate.price {
        Ok(price) if price.is_free() => format!("free ({})", price.source),
        Ok(price) => {
            let date = if price.as_of.is_empty() { String::new() } else { format!(", {}", price.as_of) };
            format!("{} an hour, {} a task ({}{date})", price.per_hour, price.per_task, price.source)
        }
        Err(why) => format!("unknown: {why}"),
    }
}

fn of(estimate: &Estimate, show: impl Fn(f64) -> String) -> String {
    let rests_on = match estimate.observations {
        0 => "assumed".into(),
        1 => "1 observation".into(),
        n => format!("{n} observations"),
    };
    format!("{} ({rests_on})", show(estimate.value))
}

fn percent(share: &Estimate) -> String {
    format!("{:.0} %", share.value * 100.0)
}

fn bandwidth(estimate: &Estimate) -> String {
    of(estimate, |rate| format!("{:.1} MB/s", rate / 1e6))
}

/// A time with two digits or three.
fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.0005 => "0 s".into(),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 600.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}
