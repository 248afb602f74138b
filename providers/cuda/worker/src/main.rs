//! The program `outboard-cuda-worker`: a task process on libtorch.

use std::{path::PathBuf, process::ExitCode, thread::available_parallelism};

use clap::Parser;
use outboard_core::error::{Error, ErrorKind, Result};
use outboard_cuda_worker::{CALLERS, Choice, Libtorch};
use outboard_store::FolderStore;
use outboard_worker::serve_stdio_on;
use rayon::ThreadPoolBuilder;

/// Runs tasks from standard input on libtorch
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Speaks with a supervisor on standard input and output
    #[arg(long, required = true)]
    stdio: bool,
    /// Folder of the store
    #[arg(long)]
    store: PathBuf,
    /// What to compute on: auto, cpu, or cuda:N
    #[arg(long, default_value = "auto")]
    device: Choice,
    /// Threads of the CPU; 0 is one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Makes products of 16-bit floats: faster, and less precise
    #[arg(long)]
    bf16: bool,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match serve(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.report());
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<()> {
    let threads = match arguments.threads {
        0 => available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let libtorch = Libtorch::open(arguments.device, arguments.bf16, threads)?;
    let store = FolderStore::open(&arguments.store)?;
    let pool = ThreadPoolBuilder::new().num_threads(CALLERS).build();
    let pool = pool.map_err(|e| Error::new(ErrorKind::Unexpected, "cannot start the worker's threads").because(e))?;
    let device = libtorch.words().to_string();
    serve_stdio_on(libtorch, device, store, &pool)
}
