//! The `outboard` program: arguments in, exit code out.

mod apply;
mod args;
mod aws;
mod costs;
mod cuda;
mod doctor;
mod env;
mod explain;
mod jobs;
mod output;
mod plan;
mod plugin;
mod runpod;
mod show;
mod train;
mod worker;

use std::{io::IsTerminal, process::ExitCode};

use args::{Arguments, Command, Global, LogFormat};
use clap::{CommandFactory, Parser};
use outboard::{Client, Config, Error, ErrorKind, Result, config::Sources};
use output::Printer;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let Arguments { command, global } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::usage(&error),
    };
    let printer = Printer::default();
    match run(command, &global, &printer) {
        Ok(code) => code,
        Err(error) => {
            output::error(&global, &printer, &error);
            exit_code(error.kind())
        }
    }
}

fn run(command: Command, global: &Global, printer: &Printer) -> Result<ExitCode> {
    log(global)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot start the runtime").because(e))?;
    let sources = Sources::from_process(global.set.clone())?;
    let client = || Client::new(Config::load(&sources)?);
    let code = match command {
        // A job that is done is done, whether or not its lines could be printed.
        Command::Train(arguments) => return runtime.block_on(train::train(&client()?, arguments, global, printer)),
        Command::Plan { job } => runtime.block_on(plan::plan(&client()?, &job, global, printer)),
        Command::Providers => runtime.block_on(plan::providers(&client()?, global, printer)),
        Command::Costs(arguments) => runtime.block_on(costs::costs(&client()?, &arguments, global, printer)),
        Command::Jobs(args::Jobs { command: Some(args::OneJob::Resume { job }), .. }) => {
            let arguments = args::Train { resume: Some(job), ..args::Train::default() };
            return runtime.block_on(train::train(&client()?, arguments, global, printer));
        }
        Command::Jobs(arguments) => runtime.block_on(jobs::jobs(&client()?, &arguments, global, printer)),
        Command::Reap => runtime.block_on(jobs::reap(&client()?, global, printer)),
        Command::Evaluate(arguments) => runtime.block_on(apply::evaluate(&client()?, &arguments, global, printer)),
        Command::Predict(arguments) => runtime.block_on(apply::predict(&client()?, &arguments, global, printer)),
        Command::Worker(arguments) => runtime.block_on(worker::worker(&Config::load(&sources)?, arguments)),
        Command::Aws(command) => runtime.block_on(aws::aws(&Config::load(&sources)?, command, global, printer)),
        Command::Cuda(command) => runtime.block_on(cuda::cuda(&Config::load(&sources)?, command, global, printer)),
        Command::Doctor(args::Doctor { command: Some(args::Examine::Env(asked)), .. }) => {
            runtime.block_on(env::env(&sources, asked, global, printer))
        }
        Command::Doctor(args::Doctor { explain: Some(code), .. }) => explain::explain(&code, global, printer),
        Command::Doctor(arguments) => runtime.block_on(doctor::doctor(&sources, arguments, global, printer)),
        Command::RunPod(asked) => {
            runtime.block_on(runpod::runpod(&Config::load(&sources)?, &sources, &asked, global, printer))
        }
        Command::Plugin(args::Plugin::New { name, lang }) => plugin::new(&name, lang, global, printer),
        Command::Plugin(args::Plugin::Check(arguments)) => plugin::check(&runtime, &arguments, global, printer),
        Command::Plugin(args::Plugin::Serve { store }) => runtime.block_on(plugin::serve(&store)),
        Command::Gc => runtime.block_on(show::gc(&client()?, global, printer)),
        Command::Model(args::Model::Show { file }) => show::model(&file, global, printer),
        Command::Config(args::Config::Show) => show::config(&sources, global, printer),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "outboard", &mut script);
            printer.line(String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::SUCCESS)
        }
    }?;
    printer.check().map(|()| code)
}

/// The documented exit code of a failure.
fn exit_code(kind: ErrorKind) -> ExitCode {
    use ErrorKind::*;
    ExitCode::from(match kind {
        Unexpected => 1,
        InvalidConfig | InvalidRequest | NotFound | Conflict | BudgetExceeded | CorruptPayload | Unsupported => 2,
        Cancelled => 4,
        _ => 3,
    })
}

fn log(global: &Global) -> Result<()> {
    let filter = EnvFilter::try_new(&global.log).map_err(|e| {
        Error::new(ErrorKind::InvalidConfig, format!("`{}` is not a log level: {e}", global.log))
            .at("flag", "--log")
            .hint("use error, warn, info, debug or trace")
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would panic where standard error is closed.
        .log_internal_errors(false);
    match global.log_format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}
