//! The virtual environment with the packages of `tests/requirements.txt`.

use std::{fs, io::ErrorKind, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{command, workspace::Workspace};

/// Its interpreter. The environment is made anew when the requirements or the system's Python change.
pub(crate) fn interpreter(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target.join("venv");
    let requirements = workspace.root.join("tests/requirements.txt");
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let version = command::stdout(Command::new("python3").arg("--version")).context("install Python 3")?;
    let wanted = version + &fs::read_to_string(&requirements)?;
    let stamp = folder.join("made-from");
    if fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == wanted) {
        return Ok(python);
    }

    println!("making {} with PyTorch; the first time this takes minutes", folder.display());
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    command::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))
        .context("install Python's venv module (Debian, Ubuntu: python3-venv)")?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(requirements);
    command::run(&mut install).context("cannot install tests/requirements.txt")?;
    fs::write(stamp, wanted)?;
    Ok(python)
}

/// The interpreter, ready to run something at the root. It leaves no `__pycache__` among the sources.
pub(crate) fn python(workspace: &Workspace) -> Result<Command> {
    let mut python = workspace.command(interpreter(workspace)?);
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(python)
}
