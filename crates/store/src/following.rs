//! A task that a worker runs elsewhere, while somebody waits for it.

use std::time::Duration;

use outboard_core::task::{Phase, Revision, TaskState, Usage};
use tokio::time::Instant;

use crate::TaskLog;

/// The first time between two looks, and the longest. It grows while nothing happens.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3);
const GROWTH: f64 = 1.5;

/// How a task stands, in order: it never goes back.
#[derive(Clone, Debug)]
pub enum Stage {
    /// It waits for its turn.
    Queued,
    /// A worker has it.
    Running,
    /// It is over.
    Ended(Phase, Option<Usage>),
}

/// How a task stands, what happened to it, and when to look at it again.
#[derive(Debug)]
pub struct Following {
    /// What happened.
    pub log: TaskLog,
    stage: Stage,
    until: Instant,
    looks: u64,
    delay: Duration,
    next_look: Instant,
}

impl Following {
    /// A task of which nothing is known yet, and of which nothing can run any more after `longest`.
    #[must_use]
    pub fn new(key: impl Into<String>, attempt: impl Into<String>, longest: Duration) -> Self {
        let now = Instant::now();
        Self {
            log: TaskLog::new(key, attempt),
            stage: Stage::Queued,
            until: now + longest,
            looks: 0,
            delay: FIRST,
            next_look: now,
        }
    }

    /// How it stands.
    #[must_use]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Whether it waits for its turn.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        matches!(self.stage, Stage::Queued)
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Ended(..))
    }

    /// It may run for `longest` from now.
    pub fn lasts(&mut self, longest: Duration) {
        self.until = Instant::now() + longest;
    }

    /// How much longer it may run at most.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Looks so far.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// When it is to be looked at again.
    #[must_use]
    pub fn next_look(&self) -> Instant {
        self.next_look
    }

    /// A look begins.
    pub fn begin_look(&mut self) {
        self.looks += 1;
        self.next_look = Instant::now() + self.delay;
        self.delay = self.delay.mul_f64(GROWTH).min(LONGEST);
    }

    /// Something happened: more is likely to.
    pub fn hurry(&mut self) {
        self.delay = FIRST;
        self.next_look = Instant::now() + FIRST;
    }

    /// A worker has it.
    pub fn runs(&mut self) {
        if self.is_queued() {
            self.stage = Stage::Running;
        }
    }

    /// It is over; its first end counts.
    pub fn end(&mut self, phase: Phase, usage: Option<Usage>) {
        if !self.is_over() {
            self.stage = Stage::Ended(phase, usage);
        }
    }

    /// Grows with every event and every stage; never zero.
    #[must_use]
    pub fn revision(&self) -> Revision {
        let stage = match self.stage {
            Stage::Queued => 0,
            Stage::Running => 1,
            Stage::Ended(..) => 2,
        };
        Revision(1 + 4 * self.log.events().len() as u64 + stage)
    }

    /// As it stands, with what happened since a revision.
    #[must_use]
    pub fn state(&self, seen: Revision) -> TaskState {
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

#[cfg(test)]
mod tests {
    use outboard_core::{
        Event,
        task::{Metrics, Outcome},
    };
    use outboard_protocol::{InlineReply, PROTOCOL_VERSION, TaskResult, envelope::Ending};

    use super::*;
    use crate::FolderStore;

    #[tokio::test(start_paused = true)]
    async fn looks_grow_rare_while_nothing_happens() {
        let mut task = Following::new("k", "k#1", Duration::from_secs(60));
        let mut times = Vec::new();
        for _ in 0..12 {
            tokio::time::sleep_until(task.next_look()).await;
            task.begin_look();
            times.push((task.next_look() - Instant::now()).as_millis());
        }
        assert_eq!((times[0], times[1], times[11], task.looks()), (100, 150, 3000, 12));
        task.hurry();
        assert_eq!((task.next_look() - Instant::now()).as_millis(), 100);
        assert!(task.left() < Duration::from_secs(60));
        task.lasts(Duration::from_secs(90));
        assert_eq!(task.left(), Duration::from_secs(90));
    }

    #[tokio::test]
    async fn a_state_has_what_is_new_and_the_first_end_counts() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        let mut task = Following::new("k", "k#1", Duration::from_secs(60));
        let queued = task.state(Revision::default());
        assert!(matches!(queued.phase, Phase::Queued) && queued.revision > Revision::default());
        task.runs();
        let running = task.revision();
        assert!(running > queued.revision);
        let outcome = Outcome::Evaluate(Metrics { loss: 0.5, accuracy: None, rows: 3 });
        let result = TaskResult {
            protocol: PROTOCOL_VERSION,
            key: "k".into(),
            attempt: "k#1".into(),
            ended: Ending::Finished(outcome.clone()),
            timings: Default::default(),
        };
        let event = |n: u32| Event::Warning { message: n.to_string() };
        let reply = InlineReply { result, events: vec![event(1), event(2)], blobs: vec![] };
        task.log.take(reply, &store).await.unwrap();
        assert_eq!(task.state(running).events, [event(1), event(2)]);
        let all = task.revision();
        assert!(all > running);
        task.end(Phase::Finished(outcome), None);
        task.end(Phase::Cancelled, None);
        task.runs();
        let last = task.state(all);
        assert!(matches!(last.phase, Phase::Finished(_)) && last.revision > all && last.events.is_empty());
        // A revision of somebody else's tells all.
        assert_eq!(task.state(Revision(u64::MAX)).events.len(), 2);
    }
}
