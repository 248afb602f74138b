//! `outboard train`.

use std::{future::Future, process::ExitCode};

use outboard::{Client, Error, ErrorKind, Result, RunEvent, Status, read_job};

use crate::{
    args::{Global, Train},
    exit_code,
    output::{Printer, json, program, text, text::Text},
};

/// Trains a job, or goes on with one.
pub(crate) async fn train(client: &Client, arguments: Train, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let interrupted = interruption()?;
    let run = match (&arguments.resume, &arguments.job) {
        (Some(id), _) => client.resume(id).await?,
        (None, Some(path)) => {
            let mut job = read_job(path)?;
            if !arguments.on.is_empty() {
                job.routing.providers = arguments.on;
            }
            job.limits.max_cost_usd = arguments.max_cost.or(job.limits.max_cost_usd);
            if job.name.is_none() {
                job.name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            }
            if let Some(output) = arguments.output {
                job.output = Some(
                    std::path::absolute(&output).map_err(|e| Error::invalid("`--output` is not a path").because(e))?,
                );
            }
            client.start(job).await.map_err(|error| error.at("job file", path.display()))?
        }
        (None, None) => return Err(Error::invalid("neither a job file nor `--resume JOB` was given")),
    };
    let id = run.id().to_string();
    let data = run.data().to_path_buf();
    let mut lines = Text::new(printer);
    let observe = |event: RunEvent| match global.json {
        true => json::event(printer, &id, &event),
        false => lines.event(&id, &event),
    };
    match run.drive(interrupted, observe).await {
        Ok(report) => {
            if global.json {
                json::finished(printer, &report, &format!("{} train --resume {id}", program()));
            } else {
                lines.finished(&report, Some(&data));
                // Where the user looks: whoever starts the next job should know.
                if let Ok(budgets) = client.budgets().await {
                    budgets.crossed.iter().for_each(|crossed| lines.note(&format!("budget    {crossed}")));
                }
            }
            Ok(if report.status == Status::Succeeded { ExitCode::SUCCESS } else { exit_code(ErrorKind::Cancelled) })
        }
        Err(error) => {
            if global.json {
                json::failed(printer, Some(&id), &error);
            }
            lines.clear();
            text::error(&error);
            Ok(exit_code(error.kind()))
        }
    }
}

/// Completes at the first Ctrl-C or SIGTERM. The second ends the process on the spot: the last checkpoint is whole.
fn interruption() -> Result<impl Future<Output = ()> + Send> {
    let cannot = |e| Error::new(ErrorKind::Unexpected, "cannot listen for signals").because(e);
    let (first, wait) = tokio::sync::oneshot::channel::<()>();
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(cannot)?;
    #[cfg(unix)]
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).map_err(cannot)?;
    let mut next = async move || {
        #[cfg(unix)]
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    };
    tokio::spawn(async move {
        next().await;
        let _ = first.send(());
        next().await;
        std::process::exit(4);
    });
    Ok(async move {
        // The sender is dropped only after it has sent.
        let _ = wait.await;
    })
}
