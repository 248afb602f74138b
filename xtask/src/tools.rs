//! Programs that tests run against, under `target/tools`: built from crates, or taken from packages of Python or npm.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{command, python, workspace::Workspace};

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
            let arguments = format!("install --quiet --debug --locked --features {features} {name}@{version} --root");
            command::run(workspace.cargo(&arguments).arg(root)).with_context(|| format!("cannot build {name}"))?;
        }
        Ok(program)
    }
}

/// A program inside a Python package, in one version. Nothing that the package depends on is installed.
pub(crate) struct Packaged {
    package: &'static str,
    version: &'static str,
    /// The program's path ends so.
    program: &'static str,
}

/// AWS's own emulator of Lambda.
pub(crate) const LAMBDA_RIE: Packaged = Packaged {
    package: "aws-sam-cli",
    version: "1.148.0",
    program: if cfg!(target_arch = "aarch64") { "aws-lambda-rie-arm64" } else { "aws-lambda-rie-x86_64" },
};

/// An emulator of Lambda that runs several machines.
pub(crate) const CARGO_LAMBDA: Packaged =
    Packaged { package: "cargo-lambda", version: "1.9.2", program: "cargo-lambda" };

impl Packaged {
    /// Its path. The package is fetched where it is missing.
    pub(crate) fn install(&self, workspace: &Workspace) -> Result<PathBuf> {
        let Self { package, version, program } = self;
        let root = workspace.target.join("tools").join(format!("{package}-{version}"));
        let path = root.join(program);
        if path.is_file() {
            return Ok(path);
        }
        println!("fetching {package} {version}");
        let wheel = root.join("wheel");
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&wheel)?;
        let mut fetch = python::python(workspace)?;
        fetch.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
        ]);
        fetch.arg("--dest").arg(&wheel).arg(format!("{package}=={version}"));
        command::run(&mut fetch).with_context(|| format!("cannot fetch {package}"))?;
        let files: Vec<_> = fs::read_dir(&wheel)?.collect::<std::io::Result<_>>()?;
        let file = files.first().with_context(|| format!("{package} came without a file"))?.path();
        let unpacked = root.join("unpacked");
        command::run(python::python(workspace)?.args(["-m", "zipfile", "-e"]).arg(file).arg(&unpacked))?;
        let found = find(&unpacked, program)?.with_context(|| format!("{package} {version} has no {program}"))?;
        executable(&found)?;
        // In its place only once it is whole.
        fs::rename(found, &path)?;
        fs::remove_dir_all(unpacked)?;
        fs::remove_dir_all(wheel)?;
        Ok(path)
    }
}

/// A package of npm's, in one version; what it depends on comes along. It needs Node.js.
pub(crate) struct FromNpm {
    name: &'static str,
    packages: &'static [&'static str],
}

/// An emulator of Lambda that tells in headers what Lambda does.
pub(crate) const SERVERLESS_OFFLINE: FromNpm =
    FromNpm { name: "serverless-offline-13.9.0", packages: &["serverless@3.40.0", "serverless-offline@13.9.0"] };

impl FromNpm {
    /// The folder with `node_modules`; none where there is no npm. It is fetched where it is missing.
    pub(crate) fn install(&self, workspace: &Workspace) -> Result<Option<PathBuf>> {
        let root = workspace.target.join("tools").join(self.name);
        if root.join("node_modules").is_dir() {
            return Ok(Some(root));
        }
        if command::stdout(Command::new("npm").arg("--version")).is_err() {
            return Ok(None);
        }
        println!("fetching {}", self.name);
        let partial = root.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial)?;
        let mut fetch = Command::new("npm");
        fetch.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefix", "."]);
        command::run(fetch.args(self.packages).current_dir(&partial))
            .with_context(|| format!("cannot fetch {}", self.name))?;
        // In its place only once it is whole.
        fs::rename(partial, &root)?;
        Ok(Some(root))
    }
}

/// The file of this name somewhere below `folder`.
fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(unix)]
pub(crate) fn executable(program: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(program, fs::Permissions::from_mode(0o755))?)
}

#[cfg(not(unix))]
pub(crate) fn executable(_: &Path) -> Result<()> {
    Ok(())
}
