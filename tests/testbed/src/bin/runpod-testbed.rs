//! RunPod serverless on loopback, as a program: `runpod-testbed KEY ENDPOINT [--speed N] [-- PROGRAM ARGUMENT...]`.
//!
//! It prints the address of its job API, and ends with its standard input. Workers are started by the command given,
//! or by somebody else.

use std::{env, process::ExitCode};

use outboard_testbed::runpod::{EndpointSettings, RunPod, Settings, WorkerCommand};
use tokio::io::AsyncReadExt;

const USAGE: &str = "runpod-testbed KEY ENDPOINT [--speed N] [-- PROGRAM ARGUMENT...]";

fn settings(mut arguments: impl Iterator<Item = String>) -> Option<Settings> {
    let (key, endpoint) = (arguments.next()?, arguments.next()?);
    let mut settings = Settings::one(&key, EndpointSettings::new(&endpoint, None));
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--speed" => settings.speed = arguments.next()?.parse().ok().filter(|speed| *speed > 0.0)?,
            "--" => {
                let program = arguments.next()?.into();
                let args = arguments.by_ref().collect();
                let log = env::var_os("RUNPOD_TESTBED_LOG").map(Into::into);
                settings.endpoints[0].worker = Some(WorkerCommand { program, args, env: Vec::new(), log });
            }
            _ => return None,
        }
    }
    Some(settings)
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(settings) = settings(env::args().skip(1)) else {
        eprintln!("usage: {USAGE}");
        return ExitCode::FAILURE;
    };
    let runpod = match RunPod::start(settings).await {
        Ok(runpod) => runpod,
        Err(error) => {
            eprintln!("cannot listen on loopback: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", runpod.base_url());
    // Whoever started it holds the other end.
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    drop(runpod);
    ExitCode::SUCCESS
}
