//! `outboard worker` as a process of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use crate::clean_command;

/// A worker on loopback; killed when dropped.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Worker {
    /// The token of all workers.
    pub const TOKEN: &str = "0123456789abcdef-e2e";

    /// Starts one whose store and token lie in `folder`.
    ///
    /// # Panics
    /// Where it doesn't start.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, |command| command)
    }

    /// As [`start`](Self::start), by the command that `change` makes of the usual one.
    ///
    /// # Panics
    /// Where it doesn't start.
    #[must_use]
    pub fn start_with(folder: &Path, change: impl FnOnce(Command) -> Command) -> Self {
        fs::create_dir_all(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let token = folder.join("token");
        fs::write(&token, Self::TOKEN).unwrap_or_else(|e| panic!("{}: {e}", token.display()));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let private = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&token, private).unwrap_or_else(|e| panic!("{}: {e}", token.display()));
        }
        let (child, address) = spawn(folder, "127.0.0.1:0", change);
        Self { child, folder: folder.into(), address }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// Where it can't be killed.
    pub fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Starts it again, on the same address and store.
    ///
    /// # Panics
    /// Where it doesn't start.
    pub fn restart(&mut self) {
        self.kill();
        (self.child, _) = spawn(&self.folder, &self.address.to_string(), |command| command);
    }

    /// Its entry in `providers.http.workers`, at `address`.
    #[must_use]
    pub fn entry(address: SocketAddr) -> String {
        format!("{{ url = \"http://{address}\", token = \"{}\" }}", Self::TOKEN)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path, address: &str, change: impl FnOnce(Command) -> Command) -> (Child, SocketAddr) {
    let mut command = clean_command();
    command
        .args(["worker", "--threads", "1", "--listen", address, "--token-file"])
        .arg(folder.join("token"))
        .arg("--store")
        .arg(folder.join("store"))
        .env("OUTBOARD_HOME", folder);
    let mut child =
        change(command).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{e}"));
    let stderr = child.stderr.take().unwrap_or_else(|| panic!("no standard error"));
    let mut lines = BufReader::new(stderr).lines();
    let mut said = String::new();
    let address = loop {
        let line = match lines.next() {
            Some(Ok(line)) => line,
            _ => panic!("the worker ended early: {said}"),
        };
        if let Some(rest) = line.strip_prefix("listening on ").and_then(|url| url.split_once("://")) {
            let address = rest.1.split(' ').next().and_then(|address| address.parse().ok());
            break address.unwrap_or_else(|| panic!("{line}"));
        }
        said += &line;
        said += "\n";
    };
    // Whoever reads on keeps the worker from blocking.
    thread::spawn(move || lines.for_each(drop));
    (child, address)
}
