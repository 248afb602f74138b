//! Everything that must pass: suites, cheap ones first, one table at the end.
//!
//! # Layout
//!
//! - [`outcome`]: what a suite reports
//! - [`output`]: reading the output of cargo's tests and of pytest
//! - [`programs`]: all crates, built once
//! - [`suites`]: the suites that run other programs
//! - [`licences`], [`text`]: the checks of our own

mod licences;
mod outcome;
mod output;
mod programs;
mod suites;
mod text;

use std::{thread, time::Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};

use self::outcome::{Outcome, Row};
use crate::{python, workspace::Workspace};

/// Which suites to run.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Runs the slow suites too, and drills with their full counts
    #[arg(long)]
    all: bool,
    /// Runs only these; with `--all` in full
    suites: Vec<Suite>,
}

/// A group of tests, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// The layout of the code
    Format,
    /// Lints
    Clippy,
    /// The documentation builds without a warning
    Docs,
    /// Every dependency may be used
    Licences,
    /// The default build stays free of libtorch and OpenSSL
    Dependencies,
    /// No file names a machine's folders or a package host
    Text,
    /// Tests of all other crates, with those in the documentation
    Unit,
    /// Texts by `tokenizer.json`, against the Python library
    Tokenizers,
    /// Buckets, against a real S3 server
    Store,
    /// The provider `runpod`, with RunPod's own worker SDK, with a bucket and without
    Runpod,
    /// The provider `aws-lambda`, with our worker in AWS's emulator and in another one, with a bucket and without
    Aws,
    /// The ledger, on SQLite and on a PostgreSQL server
    Ledger,
    /// The example programs and the example job
    Examples,
    /// The real program, as a user runs it
    E2e,
    /// What PyTorch computes is still what the vectors say
    Vectors,
    /// The worker for PyTorch, and the layout and types of all Python
    Worker,
    /// The worker on libtorch, and the provider `cuda` with it, on libtorch's CPU
    Cuda,
    /// The Python package
    Python,
    /// The crash "random_device could not be read", with the libraries that cause it
    RandomDevice,
    /// The program from scratch
    BuildTime,
}

impl Suite {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn runs_by_default(self, workspace: &Workspace, all: bool) -> bool {
        match self {
            Self::RandomDevice | Self::BuildTime => all,
            // Elsewhere PyPI's libtorch is another one.
            Self::Cuda => cfg!(target_os = "linux"),
            Self::Python => workspace.root.join(suites::PYTHON_TESTS).is_dir(),
            _ => true,
        }
    }

    fn needs_python(self) -> bool {
        matches!(
            self,
            Self::Tokenizers | Self::Runpod | Self::Aws | Self::Vectors | Self::Worker | Self::Cuda | Self::Python
        )
    }

    fn run(self, workspace: &Workspace, thorough: bool) -> Result<Outcome> {
        match self {
            Self::Format => suites::format(workspace),
            Self::Clippy => suites::clippy(workspace),
            Self::Docs => suites::docs(workspace),
            Self::Licences => licences::check(workspace),
            Self::Dependencies => suites::dependencies(workspace),
            Self::Text => text::check(workspace),
            Self::Unit => suites::unit(workspace),
            Self::Tokenizers => suites::tokenizers(workspace),
            Self::Store => suites::store(workspace),
            Self::Runpod => suites::runpod(workspace, thorough),
            Self::Aws => suites::aws(workspace, thorough),
            Self::Ledger => suites::ledger(workspace),
            Self::Examples => suites::examples(workspace),
            Self::E2e => suites::e2e(workspace, thorough),
            Self::Vectors => suites::vectors(workspace),
            Self::Worker => suites::worker(workspace),
            Self::Cuda => suites::cuda(workspace),
            Self::Python => suites::python(workspace),
            Self::RandomDevice => suites::random_device(workspace),
            Self::BuildTime => suites::build_time(workspace),
        }
    }
}

/// Runs the suites and prints the table. Whether all passed.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<bool> {
    let chosen = |suite: Suite| match arguments.suites.as_slice() {
        [] => suite.runs_by_default(workspace, arguments.all),
        named => named.contains(&suite),
    };
    let suites: Vec<_> = Suite::value_variants().iter().copied().filter(|suite| chosen(*suite)).collect();
    let rows = thread::scope(|scope| {
        if suites.len() > 1 && suites.iter().any(|suite| suite.needs_python()) {
            // The network is slow, and the first suites need none. What fails here is told by the suite that needs it.
            scope.spawn(|| python::interpreter(workspace));
        }
        suites.iter().map(|suite| row(workspace, *suite, arguments.all)).collect::<Vec<_>>()
    });
    print!("\n{}", outcome::table(&rows));
    Ok(rows.iter().all(|row| row.outcome.passes()))
}

fn row(workspace: &Workspace, suite: Suite, thorough: bool) -> Row {
    println!("\n== {}", suite.name());
    let start = Instant::now();
    let outcome = suite.run(workspace, thorough).unwrap_or_else(|error| Outcome::problems(&[format!("{error:#}")]));
    Row { suite: suite.name(), outcome, time: start.elapsed() }
}
