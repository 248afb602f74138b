//! What is known of one task.

use std::time::Duration;

use outboard_core::{
    error::Error,
    task::{Phase, Revision, TaskState, Usage},
};
use outboard_store::TaskLog;
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};

use crate::{connection::Answer, task_name::TaskName};

/// The first time between two looks into the bucket, and the longest. It grows while nothing happens.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3);
const GROWTH: f64 = 1.5;

/// How a task stands, in order: it never goes back.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// It waits for its turn.
    Queued,
    Running,
    Ended(Phase, Option<Usage>),
}

/// A task, shared by whoever waits for it and by its invocation.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) state: Mutex<Follow>,
    /// Something is to be looked at.
    pub(crate) news: Notify,
    /// It needs no turn any more.
    pub(crate) dropped: Notify,
}

impl Followed {
    pub(crate) fn new(follow: Follow) -> Self {
        Self { state: Mutex::new(follow), news: Notify::new(), dropped: Notify::new() }
    }
}

#[derive(Debug)]
pub(crate) struct Follow {
    pub(crate) name: TaskName,
    pub(crate) stage: Stage,
    pub(crate) log: TaskLog,
    /// When nothing can run any more.
    pub(crate) until: Instant,
    /// What came of the invocation, until that was looked at.
    pub(crate) answer: Option<Answer>,
    /// Only the bucket tells of it: another client invoked it, or the reply was lost.
    pub(crate) is_elsewhere: bool,
    /// The reply was lost, and nothing else tells of it.
    pub(crate) lost: Option<Error>,
    /// How long it waited for its turn.
    pub(crate) queued: Duration,
    pub(crate) bytes_down: u64,
    delay: Duration,
    pub(crate) next_look: Instant,
}

impl Follow {
    pub(crate) fn new(name: TaskName, longest: Duration) -> Self {
        let now = Instant::now();
        Self {
            log: TaskLog::new(&name.key, &name.attempt),
            name,
            stage: Stage::Queued,
            until: now + longest,
            answer: None,
            is_elsewhere: false,
            lost: None,
            queued: Duration::ZERO,
            bytes_down: 0,
            delay: FIRST,
            next_look: now,
        }
    }

    /// One that only the bucket tells of.
    pub(crate) fn elsewhere(name: TaskName, longest: Duration) -> Self {
        Self { is_elsewhere: true, ..Self::new(name, longest) }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Ended(..))
    }

    /// How much longer it may run at most.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// A look into the bucket begins.
    pub(crate) fn begin_look(&mut self) {
        self.next_look = Instant::now() + self.delay;
        self.delay = self.delay.mul_f64(GROWTH).min(LONGEST);
    }

    /// Something happened: more is likely to.
    pub(crate) fn hurry(&mut self) {
        self.delay = FIRST;
        self.next_look = Instant::now() + FIRST;
    }

    pub(crate) fn runs(&mut self) {
        if matches!(self.stage, Stage::Queued) {
            self.stage = Stage::Running;
        }
    }

    pub(crate) fn end(&mut self, phase: Phase, usage: Option<Usage>) {
        if !self.is_over() {
            self.stage = Stage::Ended(phase, usage);
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        let stage = match self.stage {
            Stage::Queued => 0,
            Stage::Running => 1,
            Stage::Ended(..) => 2,
        };
        Revision(1 + 4 * self.log.events().len() as u64 + stage)
    }

    /// As it stands, with what happened since a revision.
    pub(crate) fn state(&self, seen: Revision) -> TaskState {
        let revision = self.revision();
        let from = match seen.0.checked_sub(1) {
            Some(n) if seen <= revision => usize::try_from(n / 4).unwrap_or_default(),
            _ => 0,
        };
        let (phase, usage) = match &self.stage {
            Stage::Queued => (Phase::Queued, None),
            Stage::Running => (Phase::Running, None),
            Stage::Ended(phase, usage) => (phase.clone(), *usage),
        };
        TaskState { revision, phase, events: self.log.events().get(from..).unwrap_or_default().to_vec(), usage }
    }
}
