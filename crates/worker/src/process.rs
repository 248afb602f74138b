//! A task process as its supervisor sees it.

use std::{
    collections::VecDeque,
    ffi::OsString,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use outboard_core::{
    code,
    error::{CHECK, EXIT_STATUS, Error, ErrorKind, Result},
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    memory::Memory,
    wire::{self, Hello, MAX_LINE_BYTES, Reply, Request},
};

/// Longest time from the start of a task process to its first line.
const BOOT: Duration = Duration::from_secs(60);
/// Longest time for which a process that was killed, or closed its output, is waited for.
const BURIAL: Duration = Duration::from_secs(5);
/// Log lines that are kept.
const LOG_LINES: usize = 20;
/// What libstdc++ says of, where a library clashes with it or a device doesn't read.
const RANDOM_DEVICE: &str = "random_device";
/// Longest log line, in bytes; a longer one counts as several.
const LOG_LINE_BYTES: usize = 1024;

/// How a task process is started: a program that speaks [`crate::wire`] on its standard input and output.
#[derive(Clone, Debug)]
pub struct TaskProgram {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

type Log = Arc<Mutex<VecDeque<String>>>;

/// A running task process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    line: Vec<u8>,
    log: Log,
    logging: JoinHandle<()>,
    memory: Memory,
    pub(crate) hello: Hello,
}

impl Process {
    /// Starts one and waits until it is ready.
    pub(crate) async fn start(program: &TaskProgram, variables: &[(&str, String)]) -> Result<Self> {
        let shown = program.program.display();
        let unhealthy = |what: &str| Error::new(ErrorKind::WorkerUnhealthy, format!("the task process {shown} {what}"));
        let mut child = Command::new(&program.program)
            .args(&program.args)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| unhealthy("cannot be started").because(e))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(unhealthy("has no pipes"));
        };
        let log = Log::default();
        let logging = tokio::spawn(keep_log(BufReader::new(stderr), log.clone(), child.id()));
        let hello = Hello { protocol: 0, device: String::new(), numerics: String::new(), layers: Vec::new() };
        let memory = Memory::watch(child.id());
        let stdout = BufReader::new(stdout);
        let mut process = Self { child, stdin, stdout, line: Vec::new(), log, logging, memory, hello };
        let first = timeout(BOOT, process.next()).await;
        process.hello = match first {
            Ok(Ok(Some(Reply::Hello(hello)))) => hello,
            Ok(Ok(Some(_))) => return Err(unhealthy("does not speak as a task process should")),
            Ok(Ok(None)) => return Err(process.bury().await),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(process.kill(unhealthy(&format!("was not ready within {BOOT:?}"))).await),
        };
        Ok(process)
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it may take another task.
    pub(crate) fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) async fn send(&mut self, request: &Request, limit: Duration) -> Result<()> {
        let line = wire::line(request)?;
        let sent = timeout(limit, async {
            self.stdin.write_all(&line).await?;
            self.stdin.flush().await
        });
        let failed = |why: String| {
            Error::new(ErrorKind::WorkerUnhealthy, format!("the task process does not take requests: {why}"))
        };
        match sent.await {
            Ok(sent) => sent.map_err(|e| failed(e.to_string())),
            Err(_) => Err(failed(format!("no answer for {limit:?}"))),
        }
    }

    /// The next reply; none at the end. May be abandoned and called again.
    pub(crate) async fn next(&mut self) -> Result<Option<Reply>> {
        let unreadable = |why: String| Error::new(ErrorKind::WorkerUnhealthy, why);
        let end = read_line(&mut self.stdout, &mut self.line, MAX_LINE_BYTES).await;
        match end {
            Err(e) => Err(unreadable(format!("the task process cannot be read: {e}"))),
            Ok(End::Line) => {
                let reply = Reply::read(&self.line);
                self.line.clear();
                reply.map(Some).map_err(|e| unreadable(format!("the task process said what cannot be read: {e}")))
            }
            Ok(End::TooLong) => {
                Err(unreadable(format!("the task process wrote a line of more than {MAX_LINE_BYTES} bytes")))
            }
            Ok(End::Over) => Ok(None),
        }
    }

    /// What it leaves behind, for an error: its peak of memory and its last log lines.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let error = match self.memory.used() {
            Some(used) => error.at("peak memory", used),
            None => error,
        };
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.is_empty() {
            return error;
        }
        error.at("last log lines", log.iter().map(String::as_str).collect::<Vec<_>>().join("\n"))
    }

    /// Ends it, for the reason that `error` gives.
    pub(crate) async fn kill(mut self, error: Error) -> Error {
        // Where it is gone already there is nothing to kill.
        let _ = self.child.start_kill();
        let _ = timeout(BURIAL, self.child.wait()).await;
        let _ = timeout(BURIAL, &mut self.logging).await;
        self.explain(error)
    }

    /// Why it takes nothing any more: it has died, or else `error` says it and it is ended.
    pub(crate) async fn end(mut self, error: Error) -> Error {
        match timeout(BURIAL, self.child.wait()).await {
            Ok(Ok(_)) => self.bury().await,
            _ => self.kill(error).await,
        }
    }

    /// Why it died, without our doing: its output has ended.
    pub(crate) async fn bury(mut self) -> Error {
        let Ok(Ok(status)) = timeout(BURIAL, self.child.wait()).await else {
            return self.kill(Error::new(ErrorKind::WorkerUnhealthy, "the task process closed its output")).await;
        };
        let _ = timeout(BURIAL, &mut self.logging).await;
        let said = |words: &str| {
            let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            log.iter().any(|line| line.contains(words))
        };
        let out_of_memory = |message: String| {
            Error::new(ErrorKind::OutOfMemory, message).hint("use a smaller batch_size, or a worker with more memory")
        };
        let error = if was_killed(status) && self.memory.was_exhausted() {
            let used = self.memory.used().map(|used| format!(" at {used}")).unwrap_or_default();
            out_of_memory(format!("the task process was killed for memory{used}"))
        } else if was_killed(status) {
            out_of_memory("the task process was killed, probably for memory".into())
        } else if said("memory allocation of ") {
            // The allocator's last words; the signal is that of any abort.
            out_of_memory("the task process ran out of memory".into())
        } else if said(RANDOM_DEVICE) {
            let message = format!("the task process died in libstdc++ ({status}): {RANDOM_DEVICE} failed");
            Error::new(ErrorKind::WorkerUnhealthy, message).at(CHECK, code::CLASH).hint(
                "see docs/random-device.md; the worker's preflight tells a clash of libraries (OB-CLASH) from a device \
                 that doesn't read (OB-RANDOM-DEVICE)",
            )
        } else {
            Error::new(ErrorKind::WorkerUnhealthy, format!("the task process died ({status})"))
        };
        self.explain(error.at(EXIT_STATUS, status))
    }
}

#[cfg(unix)]
fn was_killed(status: ExitStatus) -> bool {
    const SIGKILL: i32 = 9;
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(SIGKILL)
}

#[cfg(not(unix))]
fn was_killed(_: ExitStatus) -> bool {
    false
}

async fn keep_log(mut stderr: impl AsyncBufRead + Unpin, log: Log, pid: Option<u32>) {
    let mut bytes = Vec::new();
    loop {
        let end = read_line(&mut stderr, &mut bytes, LOG_LINE_BYTES).await.unwrap_or(End::Over);
        if !bytes.is_empty() {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_string();
            tracing::info!(target: "outboard_worker::task_log", pid, "{line}");
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() == LOG_LINES {
                log.pop_front();
            }
            log.push_back(line);
            bytes.clear();
        }
        if end == End::Over {
            return;
        }
    }
}

/// How a line ended.
#[derive(PartialEq)]
enum End {
    Line,
    TooLong,
    Over,
}

/// Reads on until `line` is one. May be abandoned: what was read stays in `line`.
async fn read_line(input: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>, limit: usize) -> std::io::Result<End> {
    let left = (limit + 1).saturating_sub(line.len());
    input.take(left as u64).read_until(b'\n', line).await?;
    Ok(match line.last() {
        Some(b'\n') => End::Line,
        _ if line.len() > limit => End::TooLong,
        _ => End::Over,
    })
}
