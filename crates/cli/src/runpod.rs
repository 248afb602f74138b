//! `outboard runpod`.

use std::{path::Path, process::ExitCode};

use outboard::{
    Config, Error, ErrorKind, Result,
    config::{self, Sources},
    deploy,
    finding::Verdict,
};
use serde_json::json;

use crate::{
    args::{Global, RunPod},
    output::Printer,
};

/// Makes, shows or removes an endpoint.
pub(crate) async fn runpod(
    config: &Config,
    sources: &Sources,
    asked: &RunPod,
    global: &Global,
    printer: &Printer,
) -> Result<ExitCode> {
    let file = config::file(sources)?;
    let say = |event: &str, lines: &[String]| match global.json {
        true => printer.line(json!({"event": event, "schema": 1, "lines": lines}).to_string()),
        false => lines.iter().for_each(|line| printer.line(line)),
    };
    match asked {
        RunPod::Deploy { dry_run, max_cost } => {
            let (deployment, mut changes, idling) = deploy::plan(config).await?;
            if changes.is_empty() {
                changes.push("nothing is to be changed".into());
            }
            changes.push(idling);
            say("plan", &changes);
            if *dry_run {
                return Ok(ExitCode::SUCCESS);
            }
            let endpoint = deployment.apply().await?;
            say("made", &[format!("endpoint {}; a small task tries it: a new image takes minutes", endpoint.id)]);
            let found = deploy::try_out(config, &endpoint, *max_cost).await?;
            let told = |finding: &outboard::finding::Finding| {
                let remedy = finding.remedy.as_ref().map_or_else(String::new, |remedy| format!("; try: {remedy}"));
                format!("{}  {}: {}{remedy}", finding.verdict.as_str(), finding.code, finding.evidence)
            };
            say("tried", &found.iter().map(told).collect::<Vec<_>>());
            if let Some(failed) = found.iter().find(|finding| finding.verdict == Verdict::Fail) {
                return Err(Error::new(
                    ErrorKind::WorkerUnhealthy,
                    format!("the endpoint {} doesn't work", endpoint.id),
                )
                .at("check", &failed.evidence)
                .hint("mend it and deploy again, or remove it with `outboard runpod destroy --yes`"));
            }
            deploy::add(&file, &endpoint)?;
            say("configured", &[format!("{} names it", shown(&file))]);
        }
        RunPod::Status => {
            let deployment = deploy::existing(config).await?;
            let status = deployment.status().await?;
            let nothing = || vec!["nothing is deployed: `outboard runpod deploy` does it".to_string()];
            say("status", &status.unwrap_or_else(nothing));
        }
        RunPod::Destroy { yes } => {
            let deployment = deploy::existing(config).await?;
            let remains = deployment.remains();
            if remains.is_empty() {
                say("destroyed", &["there is nothing to remove".to_string()]);
            } else if !yes {
                return Err(Error::invalid(format!("this would remove {}", remains.join(", ")))
                    .at("flag", "--yes")
                    .hint("run `outboard runpod destroy --yes`; jobs that wait there are lost"));
            } else {
                deployment.destroy().await?;
                if let Some(id) = deployment.endpoint() {
                    deploy::remove(&file, id)?;
                }
                say("destroyed", &[format!("removed {}", remains.join(", "))]);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}
