//! Carries out the one task that comes on standard input: `run_envelope --store FOLDER < REQUEST > REPLY`.
//!
//! SIGTERM stops it: training stops after the batch, with a checkpoint.

use std::{env, io::Read, path::PathBuf, process::ExitCode};

use outboard_core::error::{Error, ErrorKind, Result};
use outboard_protocol::{InlineRequest, envelope::encode};
use outboard_store::FolderStore;
use outboard_worker::{Supervisor, TaskProgram, inline, serve_stdio};

/// A request is refused beyond this many bytes.
const MAX_REQUEST_BYTES: u64 = 32 << 20;
/// What a reply's blob may have: what base64 leaves of RunPod's 20 MB.
const MAX_REPLY_BLOB: usize = 14_000_000;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.report());
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let (mut is_task_process, mut folder) = (false, None);
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--stdio" => is_task_process = true,
            "--store" => folder = arguments.next().map(PathBuf::from),
            _ => return Err(Error::invalid(format!("`{flag}` is unknown"))),
        }
    }
    let folder = folder.ok_or_else(|| Error::invalid("no folder is given").hint("add --store FOLDER"))?;
    let store = FolderStore::open(&folder)?;
    if is_task_process {
        return tokio::task::spawn_blocking(move || serve_stdio(store, 1))
            .await
            .map_err(|e| Error::new(ErrorKind::Unexpected, "the task process failed").because(e))?;
    }
    let failed = |what: &str| Error::new(ErrorKind::Unexpected, format!("{what} failed"));
    let mut bytes = Vec::new();
    let mut input = std::io::stdin().take(MAX_REQUEST_BYTES);
    input.read_to_end(&mut bytes).map_err(|e| failed("reading standard input").because(e))?;
    let request: InlineRequest = serde_json::from_slice(&bytes)
        .map_err(|e| Error::new(ErrorKind::CorruptPayload, format!("the request can't be read: {e}")))?;
    let program = env::current_exe().map_err(|e| failed("finding this program").because(e))?;
    let args = ["--stdio".into(), "--store".into(), folder.into()].to_vec();
    let supervisor = Supervisor::new(TaskProgram { program, args });
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|e| failed("listening to signals").because(e))?;
    let stop = async move {
        terminate.recv().await;
    };
    let reply = inline::run(request, &supervisor, &store, MAX_REPLY_BLOB, stop).await;
    println!("{}", String::from_utf8_lossy(&encode(&reply)?));
    Ok(())
}
