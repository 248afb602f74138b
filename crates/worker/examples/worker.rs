//! A worker without the rest of `outboard`: `worker --listen ADDRESS --token-file FILE --store FOLDER`.

use std::{env, process::ExitCode, time::Duration};

use outboard_core::error::{Error, Result};
use outboard_worker::{Options, TaskProgram};

fn options() -> Result<Options> {
    let program = env::current_exe().map_err(|e| Error::invalid("this program cannot be found").because(e))?;
    let mut options = Options {
        stdio: false,
        listen: None,
        store: "worker".into(),
        token_file: None,
        tls: None,
        threads: 0,
        max_running: 1,
        max_queued: 16,
        max_blob_bytes: 4 << 30,
        result_ttl: Duration::from_secs(86_400),
        drain: Duration::from_secs(30),
        program: TaskProgram { program, args: Vec::new() },
    };
    let mut arguments = env::args().skip(1);
    while let Some(flag) = arguments.next() {
        if flag == "--stdio" {
            options.stdio = true;
            continue;
        }
        let wrong = || Error::invalid(format!("`{flag}` is unknown, or lacks its value"));
        let value = arguments.next().ok_or_else(wrong)?;
        match flag.as_str() {
            "--listen" => options.listen = Some(value.parse().map_err(|_| wrong())?),
            "--token-file" => options.token_file = Some(value.into()),
            "--store" => options.store = value.into(),
            "--threads" => options.threads = value.parse().map_err(|_| wrong())?,
            "--max-running" => options.max_running = value.parse().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        }
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let run = async { outboard_worker::main(options()?).await };
    match run.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.report());
            ExitCode::FAILURE
        }
    }
}
