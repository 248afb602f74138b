//! A machine on which command lines can be run.

use std::{
    fmt,
    io::{self, Write},
    process::{Command, Output, Stdio},
    thread,
};

use outboard_core::{
    Digest,
    error::{Error, ErrorKind, Result},
};
use outboard_plugin::HostHandle;
use outboard_worker::TaskProgram;

/// A machine, and the folder of the store there.
#[derive(Debug)]
pub(crate) struct Remote {
    program: String,
    args: Vec<String>,
    folder: String,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the machine behind `{}`", [std::slice::from_ref(&self.program), &self.args].concat().join(" "))
    }
}

impl Remote {
    pub(crate) fn new(command: Vec<String>, folder: String) -> Result<Self> {
        let wrong = |what: &str| Err(Error::new(ErrorKind::InvalidConfig, what));
        let mut command = command.into_iter();
        let Some(program) = command.next() else {
            return wrong(
                "`command` is empty, but must be what runs a command line there, such as [\"ssh\", \"me@box\"]",
            );
        };
        if !folder.chars().all(|c| c.is_ascii_alphanumeric() || "/._-~".contains(c)) || folder.is_empty() {
            return wrong("`folder` must be a path of letters, digits and /._-~");
        }
        Ok(Self { program, args: command.collect(), folder })
    }

    /// The task process there, as one here.
    pub(crate) fn task_program(&self, program: &str) -> TaskProgram {
        let line = format!("exec {program} worker --stdio --store {}", self.folder);
        TaskProgram { program: (&self.program).into(), args: self.args.iter().chain([&line]).map(Into::into).collect() }
    }

    /// Whether it can be reached.
    pub(crate) fn probe(&self) -> Result<()> {
        self.run(&format!("mkdir -p {}/blobs", self.folder), &[]).map(|_| ())
    }

    /// Copies a blob there, unless it is there.
    pub(crate) fn put(&self, host: &HostHandle, digest: &Digest) -> Result<()> {
        let blobs = format!("{}/blobs", self.folder);
        // The folder is made for the whole task; the answer says whether the blob is there.
        let there = self.run(&format!("mkdir -p {blobs} && ls {blobs}/{digest} 2>/dev/null || true"), &[])?;
        if !there.is_empty() {
            return Ok(());
        }
        let file = format!("{blobs}/{digest}");
        let line = format!("cat > {file}.$$ && mv {file}.$$ {file}");
        host.get(digest, |blob| self.run(&line, blob)).and_then(|sent| sent.map(|_| ()))
    }

    /// Copies a blob here, unless it is here.
    pub(crate) fn get(&self, host: &HostHandle, digest: &Digest) -> Result<()> {
        if host.has(digest) {
            return Ok(());
        }
        let blob = self.run(&format!("cat {}/blobs/{digest}", self.folder), &[])?;
        let came = host.put(&blob)?;
        if came != *digest {
            return Err(Error::new(ErrorKind::CorruptPayload, format!("the blob {digest} came back as {came}")));
        }
        Ok(())
    }

    /// Runs a line, with `input` on its standard input; what it printed.
    fn run(&self, line: &str, input: &[u8]) -> Result<Vec<u8>> {
        let output = self
            .output(line, input)
            .map_err(|e| Error::new(ErrorKind::Unavailable, format!("`{}` cannot be run", self.program)).because(e))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().lines().last().unwrap_or("it didn't say why");
        Err(Error::new(ErrorKind::Unavailable, format!("{self} cannot be reached: {said}")).hint(format!(
            "try `{} {} true` yourself",
            self.program,
            self.args.join(" ")
        )))
    }

    fn output(&self, line: &str, input: &[u8]) -> io::Result<Output> {
        let pipe = Stdio::piped;
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .arg(line)
            .stdin(pipe())
            .stdout(pipe())
            .stderr(pipe())
            .spawn()?;
        let stdin = child.stdin.take();
        thread::scope(|scope| {
            // That it stops reading shows in its status.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
            child.wait_with_output()
        })
    }
}
