//! `outboard cuda`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use outboard::{Config, Error, ErrorKind, Result};
use outboard_cuda::provider::WORKER;
use serde_json::json;
use tokio::process::Command;

use crate::{
    args::{Cuda, Global},
    aws::{built, run},
    output::Printer,
};

/// The libtorch that the worker is made for, as PyPI has it.
const TORCH: &str = "torch==2.13.0";
/// Of the worker, in Outboard's source.
const MANIFEST: &str = "providers/cuda/worker/Cargo.toml";

pub(crate) async fn cuda(config: &Config, command: Cuda, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let Cuda::Install { source, libtorch, rebuild } = command;
    let manifest = source.join(MANIFEST);
    if !manifest.is_file() {
        let message = format!("{} is not a folder with Outboard's source", source.display());
        return Err(Error::invalid(message).hint("run it in a checkout, or name one with --source"));
    }
    let folder = config.home.join("cuda");
    let libtorch = match libtorch {
        Some(libtorch) => checked(libtorch)?,
        None => fetch(&folder.join("venv")).await?,
    };
    let program = build(&manifest, &libtorch, rebuild).await?;
    let worker = config.home.join(WORKER);
    place(&program, &worker)?;
    match global.json {
        true => {
            printer.line(json!({"event": "installed", "schema": 1, "worker": worker, "libtorch": libtorch}).to_string())
        }
        false => {
            printer.line(format!("libtorch  {}", libtorch.display()));
            printer.line(format!("worker    {}", worker.display()));
            printer.line("\n`outboard doctor --provider cuda --bench` tries it");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A folder that holds libtorch, made absolute: the worker looks for it there.
fn checked(libtorch: PathBuf) -> Result<PathBuf> {
    let absolute = fs::canonicalize(&libtorch).unwrap_or_else(|_| libtorch.clone());
    if absolute.join("lib/libtorch.so").is_file() && absolute.join("include").is_dir() {
        return Ok(absolute);
    }
    Err(Error::invalid(format!("{} does not hold libtorch: it has no lib/libtorch.so and include", libtorch.display()))
        .at("flag", "--libtorch")
        .hint("name the folder `torch` in the site-packages of a Python that has PyTorch"))
}

/// Libtorch from PyPI, in a virtual environment of its own.
async fn fetch(venv: &Path) -> Result<PathBuf> {
    let python = venv.join("bin/python");
    if !python.is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(venv), "python3", "install Python 3 with its venv module")
            .await?;
    }
    eprintln!("installing {TORCH} from PyPI: about 2.4 GB the first time");
    let pip = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet", TORCH];
    run(Command::new(&python).args(pip), "pip", "see what it says above").await?;
    let find = "import sysconfig; print(sysconfig.get_path('platlib'))";
    let packages = run(Command::new(&python).args(["-c", find]), "python", "remove the folder, and try again").await?;
    checked(Path::new(packages.trim()).join("torch"))
}

/// The worker, built against libtorch.
async fn build(manifest: &Path, libtorch: &Path, rebuild: bool) -> Result<PathBuf> {
    const RUST: &str = "install Rust: rustup.rs";
    let cargo = || Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    if rebuild {
        let clean = ["clean", "--release", "--package", "torch-sys", "--package", "tch", "--manifest-path"];
        run(cargo().args(clean).arg(manifest), "cargo", RUST).await?;
    }
    eprintln!("building the worker: some minutes the first time");
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--bin", "outboard-cuda-worker", "--manifest-path"]).arg(manifest);
    build.args(["--message-format", "json-render-diagnostics"]).env("LIBTORCH", libtorch);
    built(&run(&mut build, "cargo", RUST).await?)
}

/// Puts a program in its place, whole.
fn place(program: &Path, to: &Path) -> Result<()> {
    let cannot = |e: std::io::Error| {
        Error::new(ErrorKind::Unexpected, format!("the worker cannot be put at {}", to.display())).because(e)
    };
    let beside = to.with_extension("new");
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(cannot)?;
    }
    // The permissions go along.
    fs::copy(program, &beside).map_err(cannot)?;
    fs::rename(&beside, to).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_libtorch_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = checked(folder.path().into()).unwrap_err();
        assert!(
            error.to_string().ends_with("does not hold libtorch: it has no lib/libtorch.so and include"),
            "{error}"
        );
        fs::create_dir_all(folder.path().join("include")).unwrap();
        fs::create_dir_all(folder.path().join("lib")).unwrap();
        fs::write(folder.path().join("lib/libtorch.so"), "").unwrap();
        assert!(checked(folder.path().into()).is_ok());
    }

    #[test]
    fn a_worker_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (built, to) = (folder.path().join("built"), folder.path().join("cuda/bin/worker"));
        for content in ["one", "two"] {
            fs::write(&built, content).unwrap();
            place(&built, &to).unwrap();
            assert_eq!(fs::read_to_string(&to).unwrap(), content);
        }
    }
}
