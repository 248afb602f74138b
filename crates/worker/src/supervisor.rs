//! Keeps one task process warm, and turns whatever happens to it into a result.

use std::{
    future::Future,
    mem,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    sync::{Mutex as StdMutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::Fuse};
use outboard_core::{
    Event,
    error::{Error, ErrorKind, Result},
    task::{OperationKind, Outcome, Timings},
};
use outboard_protocol::{
    Envelope, PROTOCOL_VERSION, TaskResult,
    envelope::{Ending, Failure},
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout_at},
};

pub use crate::process::TaskProgram;
use crate::{
    preflight,
    process::Process,
    wire::{Hello, Reply, Request},
};

/// How long what can't stop by itself, an evaluation say, is waited for before its process is ended.
pub(crate) const STOPPING: Duration = Duration::from_secs(5);

/// Runs tasks, one after another, in a task process that it keeps warm. A process that dies, hangs or is killed gives a
/// result that says so, and the next task gets a new one.
#[derive(Debug)]
pub struct Supervisor {
    program: TaskProgram,
    variables: Vec<(&'static str, String)>,
    /// Where blobs lie.
    folder: Option<PathBuf>,
    process: Mutex<Option<Process>>,
    pid: StdMutex<Option<u32>>,
    /// What each task is told: found when the process was started.
    warnings: StdMutex<Vec<String>>,
}

impl Supervisor {
    /// A supervisor of `program`, not yet started.
    #[must_use]
    pub fn new(program: TaskProgram) -> Self {
        let (process, pid, warnings) = Default::default();
        Self { program, variables: Vec::new(), folder: None, process, pid, warnings }
    }

    /// The same, with tasks whose blobs lie in `folder`: they are told where its disk is nearly full.
    #[must_use]
    pub fn with_blobs_in(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// The same, with variables for the environment of the task process beside those of this one.
    #[must_use]
    pub fn with_variables(mut self, variables: Vec<(&'static str, String)>) -> Self {
        self.variables = variables;
        self
    }

    /// Starts the task process, if there is none, and says what it is.
    ///
    /// # Errors
    /// `WorkerUnhealthy` where it doesn't start, or the machine gives no random numbers.
    pub async fn start(&self) -> Result<Hello> {
        let mut slot = self.process.lock().await;
        let (process, _) = self.warm(slot.take()).await?;
        let hello = process.hello.clone();
        *slot = Some(process);
        Ok(hello)
    }

    /// The id of the task process, if there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, pid: Option<u32>) {
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner) = pid;
    }

    /// A process that lives, and whether it has been idle: one that dies just now may still look alive.
    async fn warm(&self, process: Option<Process>) -> Result<(Process, bool)> {
        if let Some(mut process) = process
            && process.lives()
        {
            return Ok((process, true));
        }
        *self.warnings.lock().unwrap_or_else(PoisonError::into_inner) = preflight::check(self.folder.as_deref())?;
        let process = Process::start(&self.program, &self.variables).await?;
        self.note(process.id());
        tracing::debug!(pid = process.id(), device = process.hello.device, "task process started");
        Ok((process, false))
    }

    /// Runs a task to its end, handing events to `observe`. Tasks wait for each other. When `stop` completes, training
    /// stops after the batch, with a checkpoint; what can't stop by itself is ended, and what waits never begins. A
    /// dropped run ends its process.
    pub async fn run<S, O>(&self, envelope: &Envelope, stop: S, mut observe: O) -> TaskResult
    where
        S: Future<Output = ()> + Send,
        O: FnMut(Event) + Send,
    {
        let mut stop = pin!(stop.fuse());
        let mut slot = tokio::select! {
            biased;
            slot = self.process.lock() => slot,
            () = &mut stop => return ended(envelope, Ending::Cancelled),
        };
        let began = Instant::now();
        loop {
            let (process, was_idle) = match self.warm(slot.take()).await {
                Ok(warm) => warm,
                Err(error) => return ended(envelope, Ending::Failed((&error).into())),
            };
            let boot = began.elapsed();
            let warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone();
            warnings.into_iter().for_each(|message| observe(Event::Warning { message }));
            let (process, mut result) = match self.supervise(process, envelope, stop.as_mut(), &mut observe).await {
                (process, Ok(result)) => (process, result),
                // It died while it was idle: the task has nothing to do with that.
                (_, Err(error)) if was_idle => {
                    tracing::info!(%error, "the idle task process had ended; another one is started");
                    continue;
                }
                (_, Err(error)) => (None, ended(envelope, Ending::Failed((&error).into()))),
            };
            self.note(process.as_ref().and_then(Process::id));
            *slot = process;
            result.timings.boot = boot.as_secs_f64();
            return result;
        }
    }

    /// The process where it is fit for another task, and the result; an error where the process ended without a sign
    /// that it had taken the task.
    async fn supervise<S, O>(
        &self,
        mut process: Process,
        envelope: &Envelope,
        mut stop: Pin<&mut Fuse<S>>,
        observe: &mut O,
    ) -> (Option<Process>, Result<TaskResult>)
    where
        S: Future<Output = ()> + Send,
        O: FnMut(Event) + Send,
    {
        let task = &envelope.task;
        let patience = patience(envelope);
        let failed = |error: Error| (None, Ok(ended(envelope, Ending::Failed(Failure::from(&error)))));
        if let Err(error) = process.send(&Request::Run(Box::new(envelope.clone())), patience).await {
            return (None, Err(process.end(error).await));
        }
        let mut is_heard = false;
        // When it was asked to stop.
        let mut stopping = None;
        let limit = task.limit.map(|limit| Instant::now() + limit);
        let mut is_late = false;
        let mut heard = Instant::now();
        loop {
            let end = stopping.filter(|_| task.operation.kind() != OperationKind::Train).map(|at| at + STOPPING);
            tokio::select! {
                reply = timeout_at(heard + patience, process.next()) => {
                    heard = Instant::now();
                    let was_heard = mem::replace(&mut is_heard, true);
                    match reply {
                        Ok(Ok(Some(Reply::Event(event)))) => observe(event),
                        Ok(Ok(Some(Reply::Alive(_)))) => {}
                        Ok(Ok(Some(Reply::Result(result))))
                            if result.key == task.key && result.attempt == task.attempt => {
                                return (Some(process), Ok(if is_late { at_limit(*result, task.limit) } else { *result }));
                            }
                        Ok(Ok(Some(Reply::Refused(failure)))) => return failed(process.kill(failure.into()).await),
                        Ok(Ok(Some(Reply::Hello(_) | Reply::Result(_)))) => {
                            let error = Error::new(ErrorKind::WorkerUnhealthy, "the task process spoke out of turn");
                            return failed(process.kill(error).await);
                        }
                        Ok(Ok(None)) if !was_heard => return (None, Err(process.bury().await)),
                        Ok(Ok(None)) => return failed(process.bury().await),
                        Ok(Err(error)) => return failed(process.kill(error).await),
                        Err(_) => {
                            let message = format!("the task process hung: nothing was heard of it for {patience:?}");
                            let error = Error::new(ErrorKind::WorkerUnhealthy, message);
                            return failed(process.kill(error).await);
                        }
                    }
                }
                () = &mut stop, if stopping.is_none() => {
                    stopping = Some(Instant::now());
                    if let Err(error) = process.send(&Request::Stop(task.key.clone()), patience).await {
                        return failed(process.kill(error).await);
                    }
                }
                () = sleep_until(limit.unwrap_or(heard)), if limit.is_some() && stopping.is_none() => {
                    (stopping, is_late) = (Some(Instant::now()), true);
                    if let Err(error) = process.send(&Request::Stop(task.key.clone()), patience).await {
                        return failed(process.kill(error).await);
                    }
                }
                () = sleep_until(end.unwrap_or(heard)), if end.is_some() => {
                    process.kill(Error::new(ErrorKind::Cancelled, "the task was cancelled")).await;
                    let result = ended(envelope, Ending::Cancelled);
                    return (None, Ok(if is_late { at_limit(result, task.limit) } else { result }));
                }
            }
        }
    }
}

/// The result of a task that was stopped because its time was up.
pub(crate) fn at_limit(mut result: TaskResult, limit: Option<Duration>) -> TaskResult {
    let outcome = match result.ended {
        Ending::Finished(outcome) => Ok(outcome),
        Ending::Failed(failure) => Err(failure.into()),
        Ending::Cancelled => Err(Error::new(ErrorKind::Cancelled, "the task was cancelled")),
    };
    result.ended = match Outcome::at_limit(outcome, limit.unwrap_or_default()) {
        Ok(outcome) => Ending::Finished(outcome),
        Err(error) => Ending::Failed((&error).into()),
    };
    result
}

/// An envelope may come from anywhere: kept within bounds.
pub(crate) fn patience(envelope: &Envelope) -> Duration {
    const LEAST: f64 = 0.1;
    const MOST: f64 = 86_400.0;
    let seconds = envelope.patience_seconds;
    Duration::from_secs_f64(if seconds.is_nan() { LEAST } else { seconds.clamp(LEAST, MOST) })
}

/// The result of a task that has no timings of its own.
pub(crate) fn ended(envelope: &Envelope, ended: Ending) -> TaskResult {
    TaskResult {
        protocol: PROTOCOL_VERSION,
        key: envelope.task.key.clone(),
        attempt: envelope.task.attempt.clone(),
        ended,
        timings: Timings::default(),
    }
}
