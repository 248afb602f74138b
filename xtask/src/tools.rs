//! Programs that tests run against, built from crates.io under `target/tools`.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};

use crate::{command, workspace::Workspace};

/// A program of a crate, in one version.
pub(crate) struct Tool {
    /// The crate and the program.
    name: &'static str,
    version: &'static str,
    features: &'static str,
}

/// An S3 server that checks signatures and their time.
pub(crate) const S3_SERVER: Tool = Tool { name: "s3s-fs", version: "0.14.1", features: "binary" };

impl Tool {
    /// Its path. It is built where it is missing.
    pub(crate) fn install(&self, workspace: &Workspace) -> Result<PathBuf> {
        let Self { name, version, features } = self;
        // A folder for each version, so that what is there is the right one.
        let root = workspace.target.join("tools").join(format!("{name}-{version}"));
        let program = root.join("bin").join(name).with_extension(env::consts::EXE_EXTENSION);
        if !program.is_file() {
            println!("building {name} {version}; the first time this takes minutes");
            let arguments = format!("install --quiet --locked --features {features} {name}@{version} --root");
            command::run(workspace.cargo(&arguments).arg(root)).with_context(|| format!("cannot build {name}"))?;
        }
        Ok(program)
    }
}
