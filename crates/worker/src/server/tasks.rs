//! The tasks of a worker: known, queued, running, ended.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use outboard_core::{
    BlobStore, Digest, Event,
    error::{Error, ErrorKind, Result, Retry},
    task::{Ended, Operation, Outcome},
};
use outboard_protocol::{
    Envelope, TaskResult,
    envelope::{Ending, Failure, StateMessage, WirePhase},
};
use outboard_store::FolderStore;
use serde::Serialize;
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::timeout,
};

use super::{history::History, log::Log, refused::Refused};
use crate::supervisor::{Supervisor, TaskProgram, ended};

/// Ended tasks that are kept in memory; the folder has the others.
const REMEMBERED: usize = 256;
/// Longest key, in bytes.
const MAX_KEY: usize = 1024;
/// When a full queue is worth another try.
const RETRY_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Tasks {
    program: TaskProgram,
    store: FolderStore,
    history: History,
    max_running: u32,
    max_queued: u32,
    table: Mutex<HashMap<String, Arc<Live>>>,
    /// First come, first served.
    turn: Semaphore,
    idle: Mutex<Vec<Supervisor>>,
    draining: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    No,
    Cancelled,
    Draining,
}

/// A task that is known.
#[derive(Debug)]
struct Live {
    attempt: String,
    since: Instant,
    log: watch::Sender<Log>,
    stop: watch::Sender<Stop>,
}

impl Live {
    fn new(attempt: String, log: Log) -> Arc<Self> {
        let (log, stop) = (watch::Sender::new(log), watch::Sender::new(Stop::No));
        Arc::new(Self { attempt, since: Instant::now(), log, stop })
    }

    fn is_ended(&self) -> bool {
        self.log.borrow().result().is_some()
    }

    /// Asks it to stop; the first who asks gives the reason.
    fn stop(&self, why: Stop) {
        self.stop.send_if_modified(|stop| {
            *stop == Stop::No && {
                *stop = why;
                true
            }
        });
    }

    async fn stopped(&self) {
        // The sender is ours, so this ends only when it is stopped.
        let _ = self.stop.subscribe().wait_for(|stop| *stop != Stop::No).await;
    }
}

/// A live task, as `GET /v1/tasks` tells it.
#[derive(Serialize)]
pub(super) struct Summary {
    key: String,
    attempt: String,
    running: bool,
}

impl Tasks {
    /// `first` is the supervisor of a task process that runs already.
    pub(super) fn new(
        program: TaskProgram,
        first: Supervisor,
        store: FolderStore,
        history: History,
        max_running: u32,
        max_queued: u32,
    ) -> Self {
        Self {
            program,
            store,
            history,
            max_running,
            max_queued,
            table: Mutex::default(),
            turn: Semaphore::new(max_running as usize),
            idle: Mutex::new(vec![first]),
            draining: AtomicBool::new(false),
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a task, or says how it stands where it is known. A key that ended without an outcome may be tried again
    /// under another attempt.
    pub(super) async fn accept(self: &Arc<Self>, envelope: Envelope) -> Result<(StatusCode, StateMessage), Refused> {
        let (key, attempt) = (&envelope.task.key, &envelope.task.attempt);
        if key.is_empty() || key.len().max(attempt.len()) > MAX_KEY {
            let message = format!("a task's key and attempt have between 1 and {MAX_KEY} bytes");
            return Err(Error::invalid(message).into());
        }
        let known = self.find(key).await?;
        if let Some(live) = &known
            && !self.may_run_again(live, attempt).await?
        {
            return Ok((StatusCode::OK, live.log.borrow().since(0)));
        }
        envelope.check_time()?;
        self.check_blobs(&envelope.task.operation).await?;
        let live = Live::new(attempt.clone(), Log::new(WirePhase::Queued, Vec::new()));
        if let Some(other) = self.enter(key, &live, known.as_ref())? {
            return Ok((StatusCode::OK, other.log.borrow().since(0)));
        }
        let state = live.log.borrow().since(0);
        // Apart from the request, which ends when the client goes away.
        let admitted = tokio::spawn(self.clone().admit(live, envelope)).await;
        admitted.map_err(|e| Error::new(ErrorKind::Unexpected, "a task could not be accepted").because(e))??;
        Ok((StatusCode::ACCEPTED, state))
    }

    /// Takes the lease of a task that is in the table, and lets it run.
    async fn admit(self: Arc<Self>, live: Arc<Live>, envelope: Envelope) -> Result<(), Refused> {
        let task = &envelope.task;
        if let Err(error) = self.history.begin(&task.key, &task.attempt).await {
            self.table().remove(&task.key);
            // Whoever found it meanwhile must not wait for ever.
            live.log.send_modify(|log| log.end(ended(&envelope, Ending::Failed((&error).into()))));
            return Err(Refused::store(error));
        }
        tokio::spawn(self.carry_out(live, envelope));
        Ok(())
    }

    /// Enters a task into the table, in place of `known`; another one who was faster is returned.
    fn enter(&self, key: &str, live: &Arc<Live>, known: Option<&Arc<Live>>) -> Result<Option<Arc<Live>>> {
        let mut table = self.table();
        if let Some(other) = table.get(key)
            && !known.is_some_and(|known| Arc::ptr_eq(known, other))
        {
            return Ok(Some(other.clone()));
        }
        // Read under the lock under which draining looks for tasks to stop.
        if self.draining.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, "the worker is shutting down").with_retry(Retry::Other));
        }
        let room = self.max_running as usize + self.max_queued as usize;
        if table.values().filter(|live| !live.is_ended()).count() >= room {
            let message =
                format!("the worker has {room} tasks, {} of them running, and takes no more", self.max_running);
            let retry = Retry::Same { after: Some(RETRY_AFTER) };
            return Err(Error::new(ErrorKind::RateLimited, message).with_retry(retry));
        }
        table.insert(key.into(), live.clone());
        Ok(None)
    }

    /// A task by its key: from memory, or from what earlier runs of this program left.
    async fn find(&self, key: &str) -> Result<Option<Arc<Live>>, Refused> {
        if let Some(live) = self.table().get(key) {
            return Ok(Some(live.clone()));
        }
        let Some((attempt, log)) = self.history.recall(key).await.map_err(Refused::store)? else { return Ok(None) };
        let live = Live::new(attempt, log);
        Ok(Some(self.table().entry(key.into()).or_insert(live).clone()))
    }

    async fn known(&self, key: &str) -> Result<Arc<Live>, Refused> {
        self.find(key).await?.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no task `{key}` is known")).into())
    }

    /// Whether a task has ended without an outcome that could be fetched, and this is another attempt.
    async fn may_run_again(&self, live: &Live, attempt: &str) -> Result<bool, Refused> {
        let outcome = match live.log.borrow().result() {
            None => return Ok(false),
            Some(_) if live.attempt == attempt => return Ok(false),
            Some(TaskResult { ended: Ending::Finished(outcome), .. }) => outcome.clone(),
            Some(_) => return Ok(true),
        };
        match outcome.blob() {
            _ if matches!(outcome, Outcome::Train { ended: Ended::Cancelled, .. }) => Ok(true),
            Some(digest) => Ok(!self.store.has(&digest).await.map_err(Refused::store)?),
            None => Ok(false),
        }
    }

    async fn check_blobs(&self, operation: &Operation) -> Result<(), Refused> {
        let mut missing = Vec::new();
        for digest in operation.needs() {
            let store = self.store.clone();
            let renewed = spawn_blocking(move || store.renew(&digest)).await.unwrap_or_else(|panic| {
                Err(Error::new(ErrorKind::Unexpected, "the store's thread ended early").because(panic))
            });
            if !renewed.map_err(Refused::store)? {
                missing.push(digest);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let error = Error::new(ErrorKind::NotFound, "blobs of the task are missing").hint("send them first");
        let error = missing.into_iter().fold(error, |error, digest| error.at("blob", digest));
        Err(Refused::new(StatusCode::FAILED_DEPENDENCY, error.with_retry(Retry::Same { after: None })))
    }

    /// From the queue to the end.
    async fn carry_out(self: Arc<Self>, live: Arc<Live>, envelope: Envelope) {
        let mut result = tokio::select! {
            // What was stopped doesn't start, though its turn has come.
            biased;
            () = live.stopped() => ended(&envelope, Ending::Cancelled),
            turn = self.turn.acquire() => match (turn, envelope.check_time()) {
                (Ok(_turn), Ok(())) => self.run(&live, &envelope).await,
                (_, Err(late)) => ended(&envelope, Ending::Failed((&late).into())),
                (Err(_), _) => ended(&envelope, Ending::Cancelled),
            },
        };
        if *live.stop.borrow() == Stop::Draining {
            preempt(&mut result);
        }
        self.history.finish(&result).await;
        let kind = match &result.ended {
            Ending::Finished(_) => "finished",
            Ending::Failed(_) => "failed",
            Ending::Cancelled => "cancelled",
        };
        tracing::info!(
            key = result.key,
            attempt = result.attempt,
            seconds = live.since.elapsed().as_secs_f64(),
            "{kind}"
        );
        live.log.send_modify(|log| log.end(result));
    }

    async fn run(&self, live: &Live, envelope: &Envelope) -> TaskResult {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fresh = || Supervisor::new(self.program.clone()).with_blobs_in(self.store.folder());
        let supervisor = idle.unwrap_or_else(fresh);
        let queued = live.since.elapsed();
        live.log.send_modify(Log::start);
        let mut notes = self.history.notes(&envelope.task.key).await;
        let observe = |event: Event| {
            notes.add(&event);
            let mut overtaken = None;
            live.log.send_modify(|log| overtaken = log.push(event));
            if let Some(digest) = overtaken
                && let Err(error) = self.store.remove(&digest)
            {
                tracing::warn!(%digest, %error, "cannot remove a checkpoint that nobody needs");
            }
        };
        let mut result = supervisor.run(envelope, live.stopped(), observe).await;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(supervisor);
        result.timings.queue = queued.as_secs_f64();
        result
    }

    /// The state as soon as it is news to whoever has seen `seen`, at the latest after `limit`.
    pub(super) async fn wait(&self, key: &str, seen: u64, limit: Duration) -> Result<StateMessage, Refused> {
        let live = self.known(key).await?;
        let _ = timeout(limit, live.log.subscribe().wait_for(|log| log.is_news(seen))).await;
        let state = live.log.borrow().since(seen);
        Ok(state)
    }

    /// Asks a task to stop; its state once it has ended, at the latest after `limit`.
    pub(super) async fn cancel(&self, key: &str, limit: Duration) -> Result<StateMessage, Refused> {
        let live = self.known(key).await?;
        live.stop(Stop::Cancelled);
        let _ = timeout(limit, live.log.subscribe().wait_for(|log| log.result().is_some())).await;
        let state = live.log.borrow().since(0);
        Ok(state)
    }

    pub(super) fn list(&self) -> Vec<Summary> {
        let table = self.table();
        let live = table.iter().filter(|(_, live)| !live.is_ended());
        live.map(|(key, live)| Summary {
            key: key.clone(),
            attempt: live.attempt.clone(),
            running: live.log.borrow().is_running(),
        })
        .collect()
    }

    /// Tasks that run, and tasks that wait.
    pub(super) fn counts(&self) -> (u32, u32) {
        let table = self.table();
        let count = |is: fn(&Log) -> bool| table.values().filter(|live| is(&live.log.borrow())).count() as u32;
        (count(Log::is_running), count(Log::is_queued))
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Takes no more tasks and asks all to stop; returns once they have, at the latest after `limit`.
    pub(super) async fn drain(&self, limit: Duration) {
        let live: Vec<_> = {
            let table = self.table();
            self.draining.store(true, Ordering::Relaxed);
            table.values().filter(|live| !live.is_ended()).cloned().collect()
        };
        live.iter().for_each(|live| live.stop(Stop::Draining));
        let all = async {
            for live in &live {
                let _ = live.log.subscribe().wait_for(|log| log.result().is_some()).await;
            }
        };
        if timeout(limit, all).await.is_err() {
            tracing::warn!("tasks did not stop within {limit:?} and are ended");
        }
    }

    /// Forgets what ended longer than `age` ago, what there are too many of in memory, and blobs that nobody has needed
    /// for `blob_age`.
    pub(super) async fn forget(&self, age: Duration, blob_age: Duration) {
        let live = {
            let mut table = self.table();
            let mut over: Vec<_> = table.iter().filter(|(_, live)| live.is_ended()).collect();
            over.sort_by_key(|(_, live)| live.since);
            let surplus = over.len().saturating_sub(REMEMBERED);
            let old = over.iter().enumerate().filter(|(i, (_, live))| *i < surplus || live.since.elapsed() >= age);
            let old: Vec<String> = old.map(|(_, (key, _))| key.to_string()).collect();
            old.iter().for_each(|key| drop(table.remove(key)));
            let live = table.iter().filter(|(_, live)| !live.is_ended());
            live.map(|(key, _)| Digest::of(key.as_bytes())).collect()
        };
        self.history.forget(age, live).await;
        let store = self.store.clone();
        match spawn_blocking(move || store.expire(blob_age)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::info!(count, "blobs that nobody needed were removed"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot remove blobs that nobody needs"),
            Err(error) => tracing::warn!(%error, "the store's thread ended early"),
        }
    }
}

/// The client didn't ask for the stop: to it the machine was taken away.
fn preempt(result: &mut TaskResult) {
    let error = Error::new(ErrorKind::Preempted, "the worker is shutting down");
    let error = match &result.ended {
        Ending::Cancelled => error,
        Ending::Finished(Outcome::Train { checkpoint, ended: Ended::Cancelled }) => {
            error.at("checkpoint", checkpoint.digest)
        }
        _ => return,
    };
    result.ended = Ending::Failed(Failure::from(&error));
}
