//! Tasks that only this process knows: what `submit`, `wait`, `cancel` and `list` need where nobody else keeps a record.
//! The provider `cuda` uses it too.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use outboard_core::{
    Event, Task, TaskId,
    error::{Error, ErrorKind, Result},
    provider::{Cancelled, TaskSummary},
    task::{Outcome, Phase, Revision, TaskState, Usage},
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

/// Past so many tasks the old ones are forgotten.
const REMEMBERED: usize = 256;

/// How long an ended task is remembered at least, so that whoever asks late still gets the answer.
const KEPT: Duration = Duration::from_secs(60);

/// How long `cancel` waits for the end of a batch.
const CANCEL_WAIT: Duration = Duration::from_secs(10);

/// Nothing bounds a batch; none that is worth training here takes longer.
const LONGEST_BATCH: Duration = Duration::from_secs(3600);

/// The tasks of one provider.
#[derive(Debug)]
pub struct Tasks {
    provider: &'static str,
    tasks: Mutex<HashMap<TaskId, Arc<Live>>>,
}

/// A task that was handed over.
#[derive(Debug)]
pub struct Live {
    provider: &'static str,
    key: String,
    stop: AtomicBool,
    /// Told when `stop` is set.
    stopped: Notify,
    log: watch::Sender<Log>,
}

/// Everything that happened so far, in order.
#[derive(Debug, Default)]
struct Log {
    entries: Vec<Entry>,
    usage: Option<Usage>,
    ended: Option<Instant>,
}

#[derive(Debug)]
enum Entry {
    Started,
    Happened(Event),
    Ended(Phase),
}

impl Log {
    fn state(&self, seen: Revision) -> TaskState {
        let phase = match self.entries.last() {
            Some(Entry::Ended(phase)) => phase.clone(),
            Some(_) => Phase::Running,
            None => Phase::Queued,
        };
        // Revision n has seen n - 1 entries. One from elsewhere has seen nothing of this log.
        let from = (seen.0 as usize).saturating_sub(1);
        let new = self.entries.get(from..).unwrap_or(&self.entries);
        let events =
            new.iter().filter_map(|entry| if let Entry::Happened(event) = entry { Some(event.clone()) } else { None });
        TaskState { revision: self.revision(), phase, events: events.collect(), usage: self.usage }
    }

    fn revision(&self) -> Revision {
        Revision(self.entries.len() as u64 + 1)
    }

    fn is_ended(&self) -> bool {
        matches!(self.entries.last(), Some(Entry::Ended(_)))
    }
}

impl Live {
    /// Set once the task is to end.
    #[must_use]
    pub fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// Completes once the task is to end. Only one may wait at a time.
    pub async fn stopped(&self) {
        if !self.stop.load(Ordering::Relaxed) {
            self.stopped.notified().await;
        }
    }

    fn push(&self, entry: Entry) {
        self.log.send_modify(|log| log.entries.push(entry));
    }

    /// The task has started.
    pub fn start(&self) {
        self.push(Entry::Started);
    }

    /// Something happened.
    pub fn observe(&self, event: Event) {
        self.push(Entry::Happened(event));
    }

    /// The task has ended.
    pub fn end(&self, outcome: Result<Outcome>, usage: Usage) {
        let phase = match outcome {
            Ok(outcome) => Phase::Finished(outcome),
            Err(error) if error.kind() == ErrorKind::Cancelled => Phase::Cancelled,
            Err(error) => Phase::Failed(error.with_provider(self.provider)),
        };
        self.log.send_modify(|log| {
            log.usage = Some(usage);
            log.ended = Some(Instant::now());
            log.entries.push(Entry::Ended(phase));
        });
    }
}

impl Tasks {
    /// None yet, of the provider of this id.
    #[must_use]
    pub fn new(provider: &'static str) -> Self {
        Self { provider, tasks: Mutex::default() }
    }

    /// Takes a task; nothing is to be done where its attempt is known.
    pub fn take(&self, task: &Task) -> (TaskId, Option<Arc<Live>>) {
        let id = TaskId(task.attempt.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.contains_key(&id) {
            return (id, None);
        }
        if tasks.len() >= REMEMBERED {
            tasks.retain(|_, task| task.log.borrow().ended.is_none_or(|ended| ended.elapsed() < KEPT));
        }
        let live = Arc::new(Live {
            provider: self.provider,
            key: task.key.clone(),
            stop: AtomicBool::new(false),
            stopped: Notify::new(),
            log: watch::Sender::default(),
        });
        tasks.insert(id.clone(), live.clone());
        (id, Some(live))
    }

    fn find(&self, id: &TaskId) -> Result<Arc<Live>> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(id).cloned().ok_or_else(|| {
            let provider = self.provider;
            Error::new(ErrorKind::NotFound, format!("the {provider} provider knows no task `{id}`"))
                .with_provider(provider)
        })
    }

    /// As [`ComputeProvider::wait`](outboard_core::ComputeProvider::wait).
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let mut log = self.find(id)?.log.subscribe();
        let newer = log.wait_for(|log| log.revision() != seen);
        // Past the limit the state is as it was seen.
        let _ = timeout(limit, newer).await;
        let state = log.borrow().state(seen);
        Ok(state)
    }

    /// As [`ComputeProvider::cancel`](outboard_core::ComputeProvider::cancel).
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        let live = self.find(id)?;
        live.stop.store(true, Ordering::Relaxed);
        live.stopped.notify_one();
        // Whoever trains looks after every batch.
        let mut log = live.log.subscribe();
        Ok(match timeout(CANCEL_WAIT, log.wait_for(Log::is_ended)).await {
            Ok(_) => Cancelled::Stopped,
            Err(_) => Cancelled::StillBilled { until: LONGEST_BATCH },
        })
    }

    /// Those that have not ended.
    #[must_use]
    pub fn list(&self) -> Vec<TaskSummary> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let live = tasks.iter().filter(|(_, task)| !task.log.borrow().is_ended());
        live.map(|(id, task)| TaskSummary {
            id: id.clone(),
            key: task.key.clone(),
            running: !task.log.borrow().entries.is_empty(),
        })
        .collect()
    }
}
