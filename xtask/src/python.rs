//! Virtual environments of Python under the build folder.

use std::{
    fs,
    io::ErrorKind,
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};

use crate::{command, workspace::Workspace};

/// A virtual environment with the packages of a file.
pub(crate) struct Environment {
    folder: &'static str,
    requirements: &'static str,
    /// The Python that it is made with.
    python: &'static str,
}

/// What tests and PyTorch need.
const TESTS: Environment = Environment { folder: "venv", requirements: "tests/requirements.txt", python: "python3" };

/// Libraries that clash. The newest Python for which they were built.
pub(crate) const RANDOM_DEVICE: Environment =
    Environment { folder: "venv-random-device", requirements: "tests/python/random-device.txt", python: "python3.11" };

impl Environment {
    /// Whether there is the Python that it is made with.
    pub(crate) fn has_python(&self) -> bool {
        Command::new(self.python).arg("--version").output().is_ok_and(|said| said.status.success())
    }

    /// Its interpreter. It is made anew when the requirements or the system's Python change.
    pub(crate) fn interpreter(&self, workspace: &Workspace) -> Result<PathBuf> {
        // Two that ask at the same time wait for the same one.
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = workspace.target.join(self.folder);
        let requirements = workspace.root.join(self.requirements);
        let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
        let version = command::stdout(Command::new(self.python).arg("--version")).context("install Python 3")?;
        let wanted = version + &fs::read_to_string(&requirements)?;
        let stamp = folder.join("made-from");
        if fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == wanted) {
            return Ok(python);
        }

        println!("making {} with {}; the first time this takes minutes", folder.display(), self.requirements);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        command::run(Command::new(self.python).args(["-m", "venv"]).arg(&folder))
            .context("install Python's venv module (Debian, Ubuntu: python3-venv)")?;
        let mut install = Command::new(&python);
        install
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(requirements);
        command::run(&mut install).with_context(|| format!("cannot install {}", self.requirements))?;
        fs::write(stamp, wanted)?;
        Ok(python)
    }
}

/// The interpreter with what tests and PyTorch need.
pub(crate) fn interpreter(workspace: &Workspace) -> Result<PathBuf> {
    TESTS.interpreter(workspace)
}

/// The interpreter, ready to run something at the root. It leaves no `__pycache__` among the sources.
pub(crate) fn python(workspace: &Workspace) -> Result<Command> {
    let mut python = workspace.command(interpreter(workspace)?);
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(python)
}
