//! `outboard worker`.

use std::{process::ExitCode, time::Duration};

use outboard::{Config, Error, ErrorKind, Result};
use outboard_worker::{Options, TaskProgram};

use crate::args::Worker;

/// Largest blob that is taken.
const MAX_BLOB_BYTES: u64 = 4 << 30;

/// How long a result waits for whoever asked for it.
const RESULT_TTL: Duration = Duration::from_secs(86_400);

/// How long running tasks have for a last checkpoint when the worker is asked to end.
const DRAIN: Duration = Duration::from_secs(30);

/// Runs tasks until the worker is asked to end.
pub(crate) async fn worker(config: &Config, arguments: Worker) -> Result<ExitCode> {
    let program = std::env::current_exe()
        .map_err(|e| Error::new(ErrorKind::Unexpected, "this program cannot be found").because(e))?;
    outboard_worker::main(Options {
        stdio: arguments.stdio,
        listen: arguments.listen,
        store: arguments.store.unwrap_or_else(|| config.home.join("worker")),
        token_file: arguments.token_file,
        tls: arguments.tls_cert.zip(arguments.tls_key),
        threads: arguments.threads,
        max_running: arguments.max_running,
        max_queued: arguments.max_queued,
        max_blob_bytes: MAX_BLOB_BYTES,
        result_ttl: RESULT_TTL,
        drain: DRAIN,
        program: TaskProgram { program, args: vec!["worker".into()] },
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
