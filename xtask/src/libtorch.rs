//! Libtorch for the worker of `providers/cuda`, and cargo for that worker, which is a workspace of its own.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{command, python, workspace::Workspace};

/// The worker's workspace.
pub(crate) const MANIFEST: &str = "providers/cuda/worker/Cargo.toml";

/// As `tch` wants it.
const TORCH: &str = "torch==2.13.0";

/// What libtorch for a CPU needs besides: two libraries of CUDA's, which start without a GPU.
const NVIDIA: [&str; 2] = ["nvidia-cuda-runtime==13.0.*", "nvidia-cuda-cupti==13.0.*"];

/// What of the packages is unpacked: headers, and the libraries that a CPU needs.
const UNPACK: &str = r#"
import fnmatch, pathlib, sys, zipfile
wanted = ["torch/include/*", "torch/lib/libtorch_cpu.so", "torch/lib/libc10.so", "torch/lib/libgomp.so*",
          "*/lib/libcudart.so*", "*/lib/libcupti.so*"]
for wheel in pathlib.Path(sys.argv[1]).glob("*.whl"):
    with zipfile.ZipFile(wheel) as file:
        for name in file.namelist():
            if any(fnmatch.fnmatch(name, pattern) for pattern in wanted):
                file.extract(name, sys.argv[2])
"#;

/// Libtorch: that of the virtual environment where that was made, or else the small set for a CPU.
pub(crate) fn folder(workspace: &Workspace) -> Result<PathBuf> {
    if workspace.target.join("venv/made-from").is_file() {
        let find = "import sysconfig; print(sysconfig.get_path('platlib'))";
        let packages = command::stdout(python::python(workspace)?.args(["-c", find]))?;
        return Ok(Path::new(packages.trim()).join("torch"));
    }
    fetch(workspace)
}

/// Fetches the small set: about 540 MB, of which 490 stay.
pub(crate) fn fetch(workspace: &Workspace) -> Result<PathBuf> {
    ensure!(
        cfg!(target_os = "linux"),
        "the small libtorch is for Linux; elsewhere `cargo xtask test` makes a whole one"
    );
    let root = workspace.target.join("tools").join("libtorch-2.13.0");
    let torch = root.join("torch");
    if torch.join("lib/libtorch.so").is_file() {
        return Ok(torch);
    }
    println!("fetching {TORCH} for a CPU");
    let (wheels, fresh) = (root.join("wheels"), root.join("fresh"));
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&wheels)?;
    let mut fetch = Command::new("python3");
    fetch.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]);
    command::run(fetch.arg("--dest").arg(&wheels).arg(TORCH).args(NVIDIA)).context("cannot fetch libtorch")?;
    command::run(Command::new("python3").args(["-c", UNPACK]).args([&wheels, &fresh]))?;
    fs::remove_dir_all(wheels)?;
    // PyPI's libtorch.so asks for libtorch_cuda.so, which asks for a driver: one that doesn't stands in for it.
    let lib = fresh.join("torch/lib");
    let mut link = Command::new("cc");
    link.args(["-shared", "-fPIC", "-Wl,-soname,libtorch.so", "-Wl,--no-as-needed", "-x", "c", "/dev/null", "-L"]);
    link.arg(&lib).args(["-l:libtorch_cpu.so", "-o"]).arg(lib.join("libtorch.so"));
    command::run(&mut link).context("cannot link libtorch.so")?;
    // In its place only once it is whole.
    for entry in fs::read_dir(&fresh)? {
        let entry = entry?;
        fs::rename(entry.path(), root.join(entry.file_name()))?;
    }
    fs::remove_dir(fresh)?;
    Ok(torch)
}

/// Cargo for the worker.
pub(crate) fn cargo(workspace: &Workspace, subcommand: &str) -> Result<Command> {
    let mut cargo = workspace.cargo(subcommand);
    cargo.args(["--manifest-path", MANIFEST, "--target-dir"]).arg(&workspace.target);
    cargo.env("LIBTORCH", folder(workspace)?);
    Ok(cargo)
}

/// Builds a program of the worker's with optimisation; its path.
pub(crate) fn release(workspace: &Workspace, what: &str, name: &str) -> Result<PathBuf> {
    command::run(cargo(workspace, "build --quiet --release")?.args(what.split_whitespace()))?;
    Ok(workspace.target.join("release").join(name).with_extension(env::consts::EXE_EXTENSION))
}
