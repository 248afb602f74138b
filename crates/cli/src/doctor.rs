//! `outboard doctor`.

use std::{path::Path, process::ExitCode};

use outboard::{
    Config, Result, code,
    config::Sources,
    doctor,
    finding::{Finding, Verdict},
};
use serde_json::{Value, json};

use crate::{
    args::{Doctor, Global},
    output::Printer,
};

/// Prints what was found; the exit code is 1 where something fails.
pub(crate) async fn doctor(sources: &Sources, asked: Doctor, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let report = asked.bench.then_some(asked.report);
    let asked = doctor::Asked { live: asked.live.then_some(asked.max_cost), providers: asked.provider, job: asked.job };
    let mut found = doctor::examine(sources, &asked).await?;
    if let Some(path) = report {
        found.extend(compare(&Config::load(sources)?, &path).await?);
    }
    for finding in &found {
        match global.json {
            true => printer.line(object(finding).to_string()),
            false => text(finding, printer),
        }
    }
    let count = |verdict: Verdict| found.iter().filter(|finding| finding.verdict == verdict).count();
    let (passed, warnings, failed) = (count(Verdict::Pass), count(Verdict::Warn), count(Verdict::Fail));
    match global.json {
        true => printer.line(
            json!({"event": "examined", "schema": 1, "passed": passed, "warnings": warnings, "failed": failed})
                .to_string(),
        ),
        false => printer.line(format!("\n{passed} passed, {warnings} warnings, {failed} failed")),
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn object(Finding { code, of, verdict, evidence, remedy }: &Finding) -> Value {
    json!({
        "event": "check", "schema": 1, "code": code, "of": of, "verdict": verdict.as_str(), "evidence": evidence,
        "try": remedy,
    })
}

fn text(Finding { code, of, verdict, evidence, remedy }: &Finding, printer: &Printer) {
    printer.line(format!("{}  {code} ({of}): {}", verdict.as_str(), evidence.replace('\n', "\n      ")));
    if let Some(remedy) = remedy {
        printer.line(format!("      try: {remedy}"));
    }
}

/// Compares this machine's GPU with the CPU engine, and writes what was measured.
async fn compare(config: &Config, path: &Path) -> Result<Vec<Finding>> {
    let (mut found, report) = outboard_cuda::bench(&config.providers.cuda, &config.home).await?;
    if let Some(report) = report {
        outboard::write_file(path, format!("{:#}\n", json!(report)).as_bytes())?;
        let told = format!("what was measured is in {}: please send it to us", path.display());
        found.push(Finding::pass(code::CUDA_SPEED, "cuda", told));
    }
    Ok(found)
}
