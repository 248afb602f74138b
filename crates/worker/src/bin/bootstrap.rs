//! The worker as an AWS Lambda function: Lambda's custom runtimes start a program of this name.

use std::{env, process::ExitCode};

/// All that runs beside the engine's threads waits.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    // Lambda's one folder that may be written to, and that stays while a machine does.
    match outboard_worker::lambda::main(&env::temp_dir().join("outboard")).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.report());
            ExitCode::FAILURE
        }
    }
}
