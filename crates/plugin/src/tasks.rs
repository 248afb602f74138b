//! Tasks that run on threads of this process: what `submit`, `wait`, `cancel` and `list` need where no one else keeps a
//! record.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use outboard_core::{
    Event, Task, TaskId,
    error::{Error, ErrorKind, Result},
    provider::{Cancelled, TaskSummary},
    task::{Phase, Revision, TaskState, Usage},
};
use outboard_protocol::{TaskResult, envelope::Ending};
use tokio::{sync::watch, time::timeout};

/// How long `cancel` waits for the end of a batch.
const CANCEL_WAIT: Duration = Duration::from_secs(20);

/// Ended tasks are remembered for at least this long, so that whoever asks late still gets the answer.
const KEPT: Duration = Duration::from_secs(600);

/// Tasks of one provider.
#[derive(Debug, Default)]
pub struct Tasks {
    tasks: Mutex<HashMap<TaskId, Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    key: String,
    stop: AtomicBool,
    log: watch::Sender<Log>,
}

#[derive(Debug, Default)]
struct Log {
    started: bool,
    events: Vec<Event>,
    ended: Option<(Phase, Usage, Instant)>,
}

impl Log {
    fn revision(&self) -> u64 {
        1 + u64::from(self.started) + self.events.len() as u64 + u64::from(self.ended.is_some())
    }

    fn state(&self, seen: Revision) -> TaskState {
        let (phase, usage) = match &self.ended {
            Some((phase, usage, _)) => (phase.clone(), Some(*usage)),
            None if self.started => (Phase::Running, None),
            None => (Phase::Queued, None),
        };
        // The first two revisions have no event. One from elsewhere has seen nothing of this log.
        let from = if seen.0 > self.revision() { 0 } else { (seen.0 as usize).saturating_sub(2) };
        let events = self.events.get(from..).unwrap_or_default().to_vec();
        TaskState { revision: Revision(self.revision()), phase, events, usage }
    }
}

/// A task, for the thread that runs it.
#[derive(Clone, Debug)]
pub struct Running(Arc<Entry>);

impl Running {
    /// Says that something happened; the task has started then.
    pub fn observe(&self, event: Event) {
        self.0.log.send_modify(|log| {
            log.started = true;
            log.events.push(event);
        });
    }

    /// Whether the task is to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }
}

impl Tasks {
    /// Runs a task on a thread of its own, unless this attempt does already.
    ///
    /// # Errors
    /// `Unavailable` where there is no thread.
    pub fn submit(
        &self,
        task: &Task,
        run: impl FnOnce(&Running) -> Result<TaskResult> + Send + 'static,
    ) -> Result<TaskId> {
        let id = TaskId(task.attempt.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.contains_key(&id) {
            return Ok(id);
        }
        let is_old = |entry: &Entry| entry.log.borrow().ended.as_ref().is_some_and(|(.., at)| at.elapsed() > KEPT);
        tasks.retain(|_, entry| !is_old(entry));
        let entry =
            Arc::new(Entry { key: task.key.clone(), stop: AtomicBool::new(false), log: watch::Sender::default() });
        let running = Running(entry.clone());
        let work = move || {
            let (phase, usage) = match run(&running) {
                Ok(result) => {
                    let phase = match result.ended {
                        Ending::Finished(outcome) => Phase::Finished(outcome),
                        Ending::Failed(failure) => Phase::Failed(failure.into()),
                        Ending::Cancelled => Phase::Cancelled,
                    };
                    (phase, Usage::timed(result.timings))
                }
                Err(error) => (Phase::Failed(error), Usage::default()),
            };
            running.0.log.send_modify(|log| log.ended = Some((phase, usage, Instant::now())));
        };
        thread::Builder::new()
            .name("task".into())
            .spawn(work)
            .map_err(|e| Error::new(ErrorKind::Unavailable, "no thread can be started for the task").because(e))?;
        tasks.insert(id.clone(), entry);
        Ok(id)
    }

    fn find(&self, id: &TaskId) -> Result<Arc<Entry>> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(id).cloned().ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no task `{id}`")))
    }

    /// As [`ComputeProvider::wait`](outboard_core::ComputeProvider::wait).
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let entry = self.find(id)?;
        let mut log = entry.log.subscribe();
        let is_news = |log: &Log| log.revision() > seen.0 || seen.0 > log.revision();
        // That there is none within the limit is an answer too.
        let _ = timeout(limit, log.wait_for(is_news)).await;
        let state = entry.log.borrow().state(seen);
        Ok(state)
    }

    /// Stops a task and waits for its end.
    ///
    /// # Errors
    /// `NotFound`; `Timeout` where it takes too long.
    pub async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        let entry = self.find(id)?;
        entry.stop.store(true, Ordering::Relaxed);
        let mut log = entry.log.subscribe();
        match timeout(CANCEL_WAIT, log.wait_for(|log| log.ended.is_some())).await {
            Ok(_) => Ok(Cancelled::Stopped),
            Err(_) => Err(Error::new(ErrorKind::Timeout, format!("the task has not ended within {CANCEL_WAIT:?}"))),
        }
    }

    /// The tasks that have not ended.
    #[must_use]
    pub fn list(&self) -> Vec<TaskSummary> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let live = tasks.iter().filter(|(_, entry)| entry.log.borrow().ended.is_none());
        live.map(|(id, entry)| TaskSummary {
            id: id.clone(),
            key: entry.key.clone(),
            running: entry.log.borrow().started,
        })
        .collect()
    }
}

impl Drop for Tasks {
    /// Tasks are asked to end with their provider.
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.values().for_each(|entry| entry.stop.store(true, Ordering::Relaxed));
    }
}
