//! Where things are, and the programs we build.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;

/// The Python package that is the worker for PyTorch.
pub(crate) const WORKER: &str = "providers/runpod/worker";

/// This repository on this machine.
pub(crate) struct Workspace {
    /// The repository.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, which may lie elsewhere.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn find() -> Result<Self> {
        let metadata = command::stdout(cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
        let metadata: Value = serde_json::from_str(&metadata)?;
        let path = |key: &str| metadata[key].as_str().map(PathBuf::from).with_context(|| format!("no {key}"));
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }

    /// A program that will run at the root.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(&self.root);
        command
    }

    /// Cargo that will run at the root with these space-separated arguments.
    pub(crate) fn cargo(&self, arguments: &str) -> Command {
        let mut cargo = cargo();
        cargo.current_dir(&self.root).args(arguments.split_whitespace());
        cargo
    }

    /// Builds the program as users get it.
    pub(crate) fn program(&self) -> Result<PathBuf> {
        self.release("--package outboard-cli", "outboard")
    }

    /// Builds with optimisation what the cargo arguments select; its path.
    pub(crate) fn release(&self, arguments: &str, name: &str) -> Result<PathBuf> {
        command::run(&mut self.cargo(&format!("build --quiet --release {arguments}")))?;
        Ok(self.target.join("release").join(name).with_extension(env::consts::EXE_EXTENSION))
    }
}

/// The cargo that runs us.
fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
