//! What a contributor runs besides cargo itself: `cargo xtask test`, `cargo xtask bench engine`.
//!
//! # Layout
//!
//! - [`mod@test`]: everything that must pass, as suites with one table at the end
//! - [`mod@bench`]: our engine against PyTorch
//! - [`libtorch`]: what the worker of `providers/cuda` is built against
//! - [`postgres`]: a server for tests
//! - [`python`]: the virtual environment that both use
//! - [`tools`]: programs that tests run against
//! - [`workspace`]: where things are, and the programs we build
//! - [`command`]: running other programs

mod bench;
mod command;
mod libtorch;
mod postgres;
mod python;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::workspace::Workspace;

/// Tests and benchmarks.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Sets up what the tests need, runs them, prints one table
    Test(test::Arguments),
    /// Measures
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Fetches libtorch for a CPU, and prints its folder, for the variable LIBTORCH
    Libtorch,
}

fn main() -> anyhow::Result<ExitCode> {
    let task = Task::parse();
    let workspace = Workspace::find()?;
    let passed = match task {
        Task::Test(arguments) => test::run(&workspace, &arguments)?,
        Task::Libtorch => {
            println!("{}", libtorch::fetch(&workspace)?.display());
            true
        }
        Task::Bench(bench) => {
            bench::run(&workspace, &bench)?;
            true
        }
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
