//! What is known of one task.

use std::time::Duration;

use outboard_core::{
    error::Error,
    task::{Phase, Revision, TaskState, Usage},
};
use outboard_store::TaskLog;
use tokio::time::Instant;

use crate::{api::Job, diagnosis::Watch, job_id::JobId};

/// The first time between two looks, and the longest. It grows while nothing happens.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3);
const GROWTH: f64 = 1.5;
/// What starts or ends within this time is nothing to ask the endpoint's health about.
const GLANCE: Duration = Duration::from_millis(500);

/// How a task stands, in order: it never goes back.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    Queued,
    Running,
    Ended(Phase, Option<Usage>),
}

#[derive(Debug)]
pub(crate) struct Follow {
    pub(crate) id: JobId,
    pub(crate) stage: Stage,
    pub(crate) log: TaskLog,
    /// When nothing can run any more.
    pub(crate) until: Instant,
    /// What `runsync` answered: as good as the first look.
    pub(crate) answered: Option<Job>,
    /// Its job isn't known: only the bucket tells of it.
    pub(crate) is_elsewhere: bool,
    /// Since when it is being cancelled.
    pub(crate) cancelling: Option<Instant>,
    /// Since when it is known to run.
    pub(crate) running: Option<Instant>,
    /// It waited while no worker was ready: for a start, not for its turn.
    pub(crate) is_cold: bool,
    /// Why it is given up, where that isn't confirmed yet.
    pub(crate) given_up: Option<Error>,
    pub(crate) watch: Watch,
    /// When the endpoint's health is to be looked at.
    pub(crate) health_at: Instant,
    /// Since when no worker of the endpoint runs, though the task does; or nothing says that the task is there.
    pub(crate) lost: Option<Instant>,
    pub(crate) bytes_down: u64,
    pub(crate) looks: u64,
    pub(crate) delay: Duration,
    pub(crate) next_look: Instant,
}

impl Follow {
    pub(crate) fn new(id: JobId, left: Duration) -> Self {
        let now = Instant::now();
        Self {
            log: TaskLog::new(&id.key, &id.attempt),
            is_elsewhere: id.job.is_none(),
            id,
            stage: Stage::Queued,
            until: now + left,
            answered: None,
            cancelling: None,
            running: None,
            is_cold: false,
            given_up: None,
            watch: Watch::default(),
            health_at: now + GLANCE,
            lost: None,
            bytes_down: 0,
            looks: 0,
            delay: FIRST,
            next_look: now,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Ended(..))
    }

    /// How much longer it may run at most.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// A look begins.
    pub(crate) fn begin_look(&mut self) {
        self.looks += 1;
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
            self.running = Some(Instant::now());
        }
    }

    pub(crate) fn end(&mut self, phase: Phase, usage: Option<Usage>) {
        if !self.is_over() {
            self.stage = Stage::Ended(phase, usage);
        }
    }

    pub(crate) fn fail(&mut self, error: Error, usage: Option<Usage>) {
        let error = self.locate(error);
        self.end(Phase::Failed(error), usage);
    }

    /// Adds where it happened.
    pub(crate) fn locate(&self, error: Error) -> Error {
        let error = error.with_provider("runpod").at("endpoint", &self.id.endpoint);
        match &self.id.job {
            Some(job) => error.at("RunPod job", job),
            None => error,
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        if self.looks == 0 {
            return Revision::default();
        }
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
