//! Keeps one task process warm, and turns whatever happens to it into a result.

use std::{
    future::Future,
    pin::pin,
    sync::{Mutex as StdMutex, PoisonError},
    time::Duration,
};

use outboard_core::{
    Event,
    error::{Error, ErrorKind, Result},
    task::OperationKind,
};
use outboard_protocol::{
    Envelope, PROTOCOL_VERSION, TaskResult, Timings,
    envelope::{Ending, Failure},
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout_at},
};

pub use crate::process::TaskProgram;
use crate::{
    process::Process,
    wire::{Hello, Reply, Request},
};

/// How long what can't stop by itself, an evaluation say, is waited for before its process is ended.
const STOPPING: Duration = Duration::from_secs(5);

/// Runs tasks, one after another, in a task process that it keeps warm. A process that dies, hangs or is killed gives a
/// result that says so, and the next task gets a new one.
#[derive(Debug)]
pub struct Supervisor {
    program: TaskProgram,
    process: Mutex<Option<Process>>,
    pid: StdMutex<Option<u32>>,
}

impl Supervisor {
    /// A supervisor of `program`, not yet started.
    #[must_use]
    pub fn new(program: TaskProgram) -> Self {
        Self { program, process: Mutex::default(), pid: StdMutex::default() }
    }

    /// Starts the task process, if there is none, and says what it is.
    ///
    /// # Errors
    /// `WorkerUnhealthy` where it doesn't start.
    pub async fn start(&self) -> Result<Hello> {
        let mut slot = self.process.lock().await;
        let process = self.warm(slot.take()).await?;
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

    async fn warm(&self, process: Option<Process>) -> Result<Process> {
        if let Some(mut process) = process
            && process.lives()
        {
            return Ok(process);
        }
        let process = Process::start(&self.program).await?;
        self.note(process.id());
        tracing::debug!(pid = process.id(), device = process.hello.device, "task process started");
        Ok(process)
    }

    /// Runs a task to its end, handing events to `observe`. When `stop` completes, training stops after the batch, with
    /// a checkpoint; what can't stop by itself is ended. Tasks wait for each other. A dropped run ends its process.
    pub async fn run<S, O>(&self, envelope: &Envelope, stop: S, observe: O) -> TaskResult
    where
        S: Future<Output = ()> + Send,
        O: FnMut(Event) + Send,
    {
        let mut slot = self.process.lock().await;
        let began = Instant::now();
        let process = match self.warm(slot.take()).await {
            Ok(process) => process,
            Err(error) => return ended(envelope, Ending::Failed((&error).into())),
        };
        let boot = began.elapsed();
        let mut result = match self.supervise(process, envelope, stop, observe).await {
            (Some(process), result) => {
                *slot = Some(process);
                result
            }
            (None, result) => {
                self.note(None);
                result
            }
        };
        result.timings.boot = boot.as_secs_f64();
        result
    }

    /// The result, and the process where it is fit for another task.
    async fn supervise<S, O>(
        &self,
        mut process: Process,
        envelope: &Envelope,
        stop: S,
        mut observe: O,
    ) -> (Option<Process>, TaskResult)
    where
        S: Future<Output = ()> + Send,
        O: FnMut(Event) + Send,
    {
        let task = &envelope.task;
        let patience = patience(envelope);
        let failed = |error: Error| (None, ended(envelope, Ending::Failed(Failure::from(&error))));
        if let Err(error) = process.send(&Request::Run(Box::new(envelope.clone())), patience).await {
            return failed(process.kill(error).await);
        }
        let mut stop = pin!(stop);
        // When it was asked to stop.
        let mut stopping = None;
        let mut heard = Instant::now();
        loop {
            let end = stopping.filter(|_| task.operation.kind() != OperationKind::Train).map(|at| at + STOPPING);
            tokio::select! {
                reply = timeout_at(heard + patience, process.next()) => {
                    heard = Instant::now();
                    match reply {
                        Ok(Ok(Some(Reply::Event(event)))) => observe(event),
                        Ok(Ok(Some(Reply::Alive(_)))) => {}
                        Ok(Ok(Some(Reply::Result(result))))
                            if result.key == task.key && result.attempt == task.attempt => return (Some(process), *result),
                        Ok(Ok(Some(Reply::Refused(failure)))) => return failed(process.kill(failure.into()).await),
                        Ok(Ok(Some(Reply::Hello(_) | Reply::Result(_)))) => {
                            let error = Error::new(ErrorKind::WorkerUnhealthy, "the task process spoke out of turn");
                            return failed(process.kill(error).await);
                        }
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
                () = sleep_until(end.unwrap_or(heard)), if end.is_some() => {
                    process.kill(Error::new(ErrorKind::Cancelled, "the task was cancelled")).await;
                    return (None, ended(envelope, Ending::Cancelled));
                }
            }
        }
    }
}

/// An envelope may come from anywhere: kept within bounds.
fn patience(envelope: &Envelope) -> Duration {
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
