//! A plugin in a process of its own, as its host sees it. Both say one JSON value per line, see [`super::serve`].

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use outboard_core::error::{Error, ErrorKind, Result};
use outboard_worker::TaskProgram;
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, ChildStdout, Command},
    sync::{Mutex as AsyncMutex, oneshot, watch},
};

use super::{
    PluginConfig,
    callbacks::runtime,
    serve::{Call, Return, Setup},
};
use crate::message::Answer;

/// Lines of its error output that are told when it has died.
const LOG_LINES: usize = 5;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>>;

/// A plugin's process, started when it is needed, and again when it has ended.
#[derive(Debug)]
pub(super) struct Child {
    program: Program,
    running: AsyncMutex<Option<Running>>,
    /// Told to end the process; a new one has a new channel.
    kill: Mutex<Option<watch::Sender<bool>>>,
    next: AtomicU64,
}

/// What is started.
#[derive(Clone, Debug)]
struct Program {
    id: String,
    program: TaskProgram,
    setup: Setup,
}

#[derive(Debug)]
struct Running {
    stdin: ChildStdin,
    waiting: Waiting,
    /// Why it has ended, once it has.
    ended: watch::Receiver<Option<String>>,
}

impl Child {
    pub(super) fn new(id: &str, path: PathBuf, config: &PluginConfig, program: TaskProgram) -> Self {
        let setup = Setup { name: id.into(), path, blake3: config.blake3.clone(), config: config.config.clone() };
        let program = Program { id: id.into(), program, setup };
        Self { program, running: AsyncMutex::default(), kill: Mutex::default(), next: AtomicU64::new(1) }
    }

    /// An operation. Dropping the future abandons it.
    pub(super) async fn call(&self, operation: &'static str, request: Vec<u8>) -> Result<Vec<u8>> {
        let request = raw(request)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, mut ended) = {
            let mut slot = self.running.lock().await;
            if slot.as_ref().is_none_or(|running| running.ended.borrow().is_some()) {
                // By the runtime that lives as long as the process does.
                let started = runtime()?.spawn(self.program.clone().start()).await;
                let (running, kill) = started.map_err(|_| self.program.died("it cannot be started"))??;
                *self.kill.lock().unwrap_or_else(PoisonError::into_inner) = Some(kill);
                *slot = Some(running);
            }
            let Some(running) = slot.as_mut() else { return Err(self.program.died("it is not there")) };
            let (tell, answer) = oneshot::channel();
            running.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, tell);
            let mut line = outboard_protocol::envelope::encode(&Call { number, operation: operation.into(), request })?;
            line.push(b'\n');
            // That it can't be written shows in `ended`, with the reason.
            let _ = running.stdin.write_all(&line).await;
            (answer, running.ended.clone())
        };
        tokio::select! {
            biased;
            Ok(answer) = answer => Ok(answer),
            Ok(why) = ended.wait_for(Option::is_some) => Err(self.program.died(why.as_deref().unwrap_or_default())),
            else => Err(self.program.died("it is gone")),
        }
    }

    /// Ends the process.
    pub(super) fn kill(&self) {
        if let Some(kill) = &*self.kill.lock().unwrap_or_else(PoisonError::into_inner) {
            kill.send_replace(true);
        }
    }
}

impl Program {
    fn died(&self, why: &str) -> Error {
        Error::new(ErrorKind::WorkerUnhealthy, format!("the process of the plugin `{}` has ended: {why}", self.id))
            .with_provider(&self.id)
            .hint("the next call starts it again; tell the plugin's author what it said")
    }

    /// A process that is ready, and what ends it.
    async fn start(self) -> Result<(Running, watch::Sender<bool>)> {
        let mut child = Command::new(&self.program.program)
            .args(&self.program.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| self.died("it cannot be started").because(e))?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(self.died("it has no pipes"));
        };
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let logging = tokio::spawn({
            let (log, plugin) = (log.clone(), self.id.clone());
            async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    tracing::info!(plugin, "{line}");
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push_back(line);
                    if log.len() > LOG_LINES {
                        log.pop_front();
                    }
                }
            }
        });
        let mut setup = outboard_protocol::envelope::encode(&self.setup)?;
        setup.push(b'\n');
        let mut stdout = BufReader::new(stdout);
        let mut first = String::new();
        let begun = async {
            stdin.write_all(&setup).await?;
            stdout.read_line(&mut first).await
        };
        let begun = begun.await;
        match serde_json::from_str(&first) {
            Ok(Answer::Ok(())) => {}
            Ok(Answer::Error(failure)) => return Err(failure.into()),
            Err(_) => {
                drop(begun);
                let status = child.wait().await;
                let _ = logging.await;
                return Err(self.died(&last_words(status, &log)));
            }
        }
        let (kill, mut killed) = watch::channel(false);
        let (tell_ended, ended) = watch::channel(None);
        let waiting = Waiting::default();
        let answers = waiting.clone();
        tokio::spawn(async move {
            let mut why = tokio::select! {
                why = read_answers(&mut stdout, &answers) => why,
                // Also when the provider is dropped.
                _ = killed.wait_for(|killed| *killed) => Some("it was ended, as it gave no answer in time".to_string()),
            };
            let _ = child.start_kill();
            let status = child.wait().await;
            let _ = logging.await;
            let why = why.take().unwrap_or_else(|| last_words(status, &log));
            tell_ended.send_replace(Some(why));
            answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        Ok((Running { stdin, waiting, ended }, kill))
    }
}

/// Hands answers to who waits for them, until there are no more; why, where that isn't the end of the process.
async fn read_answers(stdout: &mut BufReader<ChildStdout>, waiting: &Waiting) -> Option<String> {
    let mut line = Vec::new();
    loop {
        line.clear();
        match stdout.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
        let answer: Return = match serde_json::from_slice(&line) {
            Ok(answer) => answer,
            Err(e) => return Some(format!("it said what cannot be read: {e}")),
        };
        let waits = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&answer.number);
        if let Some(waits) = waits {
            let _ = waits.send(answer.answer.get().as_bytes().to_vec());
        }
    }
}

fn last_words(status: std::io::Result<std::process::ExitStatus>, log: &Mutex<VecDeque<String>>) -> String {
    let status = status.map_or_else(|e| e.to_string(), |status| status.to_string());
    let log = log.lock().unwrap_or_else(PoisonError::into_inner);
    let said = log.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    if said.is_empty() { status } else { format!("{status}; its last words: {said}") }
}

fn raw(bytes: Vec<u8>) -> Result<Box<RawValue>> {
    let text = String::from_utf8(bytes).ok();
    text.and_then(|text| RawValue::from_string(text).ok())
        .ok_or_else(|| Error::new(ErrorKind::Unexpected, "a request is not JSON"))
}
