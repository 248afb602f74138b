//! `outboard jobs` and `outboard reap`.

use std::process::ExitCode;

use outboard::{Client, JobDetails, Reaped, Result, ledger::Attempt};
use serde_json::{Value, json};

use crate::{
    args::{Global, Jobs, OneJob},
    output::{Printer, program, table},
};

/// Lists jobs, shows or stops one.
pub(crate) async fn jobs(client: &Client, asked: &Jobs, global: &Global, printer: &Printer) -> Result<ExitCode> {
    match &asked.command {
        None => list(client, asked.limit, global, printer).await?,
        Some(OneJob::Show { job }) => show(&client.job_details(job).await?, global, printer),
        Some(OneJob::Cancel { job } | OneJob::Resume { job }) => {
            let was_asked = client.cancel_job(job).await?;
            let what = match was_asked {
                true => "its process was asked to stop, with a checkpoint",
                false => "no process works on it; nothing of it is left running",
            };
            match global.json {
                true => {
                    printer.line(json!({"event": "cancelled", "schema": 1, "job": job, "asked": was_asked}).to_string())
                }
                false => {
                    printer.line(what);
                    printer.line(format!("go on with: {} train --resume {job}", program()));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, limit: u32, global: &Global, printer: &Printer) -> Result<()> {
    let rows = client.list_jobs(limit).await?;
    if global.json {
        for row in rows {
            let object = json!({
                "event": "job", "schema": 1, "job": row.id, "status": row.status, "folder": row.folder,
                "created_at": time(row.created_at), "max_cost_usd": row.max_cost.map(|limit| limit.as_usd()),
            });
            printer.line(object.to_string());
        }
        return Ok(());
    }
    if rows.is_empty() {
        printer.line("no job was started yet");
        return Ok(());
    }
    let mut cells = vec![["job", "status", "started"].map(String::from)];
    cells.extend(rows.into_iter().map(|row| [row.id, row.status, time(row.created_at)]));
    table::print(printer, &cells, &[]);
    Ok(())
}

fn show(details: &JobDetails, global: &Global, printer: &Printer) {
    let JobDetails { row, report, attempts, is_running } = details;
    let moves = report.as_ref().map(|report| report.moves.as_slice()).unwrap_or_default();
    if global.json {
        let attempts: Vec<_> = attempts.iter().map(attempt).collect();
        let object = json!({
            "event": "job", "schema": 1, "job": row.id, "status": row.status, "running": is_running,
            "folder": row.folder, "created_at": time(row.created_at),
            "max_cost_usd": row.max_cost.map(|limit| limit.as_usd()), "attempts": attempts, "moves": moves,
        });
        printer.line(object.to_string());
        return;
    }
    printer.line(format!("job {}: {}", row.id, if *is_running { "running" } else { &row.status }));
    if let Some(report) = report {
        printer.line(format!("{} epochs, {:.2} s, {}", report.epochs, report.seconds, report.cost));
    }
    let mut cells = vec![["attempt", "provider", "state", "reserved", "charged", "ended"].map(String::from)];
    cells.extend(attempts.iter().map(|attempt| {
        [
            attempt.id.clone(),
            attempt.provider.clone(),
            attempt.state.as_str().into(),
            attempt.reserved.to_string(),
            attempt.charged.to_string(),
            attempt.ending().0.into(),
        ]
    }));
    table::print(printer, &cells, &[3, 4]);
    for attempt in attempts {
        let (_, evidence) = attempt.ending();
        if !evidence.is_empty() {
            printer.line(format!("{} left behind:", attempt.id));
            evidence.into_iter().for_each(|line| printer.line(line));
        }
    }
    for step in moves {
        printer.line(format!("moved from {} to {} after epoch {}: {}", step.from, step.to, step.epoch, step.why));
    }
}

fn attempt(attempt: &Attempt) -> Value {
    let (outcome, evidence) = attempt.ending();
    json!({
        "attempt": attempt.id, "provider": attempt.provider, "state": attempt.state.as_str(),
        "reserved_usd": attempt.reserved.as_usd(), "charged_usd": attempt.charged.as_usd(),
        "billed_seconds": attempt.billed.map(|billed| billed.as_secs_f64()), "evidence": evidence,
        "outcome": attempt.outcome.as_ref().map(|_| outcome), "task_id": attempt.task_id,
        "reserved_at": time(attempt.reserved_at),
    })
}

/// Stops what dead clients left behind.
pub(crate) async fn reap(client: &Client, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let reaped = client.reap().await?;
    if reaped.is_empty() && !global.json {
        printer.line("nothing was left running or reserved");
    }
    for Reaped { attempt, provider, reserved, charged, what } in reaped {
        match global.json {
            true => printer.line(
                json!({
                    "event": "reaped", "schema": 1, "attempt": attempt, "provider": provider,
                    "reserved_usd": reserved.as_usd(), "charged_usd": charged.map(|charged| charged.as_usd()),
                    "what": what,
                })
                .to_string(),
            ),
            false => {
                let charged = charged.map_or("still held".into(), |charged| format!("charged {charged}"));
                printer.line(format!("{attempt} on {provider}: {what} (reserved {reserved}, {charged})"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn time(time: std::time::SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
