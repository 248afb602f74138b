//! A process that trains on request: a line of JSON in, a line of JSON out.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command;

/// A running peer, ended when dropped.
pub(super) struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let requests = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, requests, answers })
    }

    /// The number called `key` in the answer to a request.
    pub(super) fn ask(&mut self, request: &Value, key: &str) -> Result<f64> {
        writeln!(self.requests, "{request}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        ensure!(!answer.is_empty(), "the peer ended at {request}");
        number(&answer, key)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that trained one step and ended.
pub(super) struct FirstStep {
    /// From its start to its end.
    pub(super) time: Duration,
    /// The most memory it held.
    pub(super) peak_rss_bytes: f64,
}

impl FirstStep {
    /// Runs a peer's command, which must have the argument `--first-step`.
    pub(super) fn measure(command: &mut Command) -> Result<Self> {
        let start = Instant::now();
        let output = command::stdout(command)?;
        let time = start.elapsed();
        Ok(Self { time, peak_rss_bytes: number(&output, "peak_rss_bytes")? })
    }
}

fn number(answer: &str, key: &str) -> Result<f64> {
    let answer: Value = serde_json::from_str(answer).with_context(|| format!("not JSON: {answer}"))?;
    answer[key].as_f64().with_context(|| format!("no {key} in {answer}"))
}
