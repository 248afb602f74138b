//! A place where tasks run: the trait, what it says of itself, what it bills.

use std::{
    fmt::Debug,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    error::{Result, Retry},
    money::NanoUsd,
    task::{Event, OperationKind, Outcome, Revision, Task, TaskId, TaskState},
};

/// A place where tasks run: a provider, a wrapper around one, or a plugin.
///
/// No default bodies: a wrapper that forgets a method must not compile.
#[async_trait]
pub trait ComputeProvider: Debug + Send + Sync + 'static {
    /// Identity. No I/O.
    fn info(&self) -> &ProviderInfo;

    /// What it can do, and its limits. No I/O.
    fn capabilities(&self) -> &Capabilities;

    /// What is billed and how it is rounded, with date and source.
    ///
    /// # Errors
    /// An unknown price is an error, never zero.
    async fn price(&self) -> Result<PriceModel>;

    /// Whether it could take a task now, and if not, why, in words a user can act on.
    async fn health(&self) -> Result<Health>;

    /// Hands the task over; returns once the provider accepted it. Billing may have started.
    /// The same attempt handed over again gives the same id and runs once.
    async fn submit(&self, task: &Task) -> Result<TaskId>;

    /// Returns as soon as the state is newer than `seen`, at the latest after `limit`.
    ///
    /// # Errors
    /// `NotFound` for a task it doesn't know. A task that failed is a state, not an error.
    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState>;

    /// Stops the task. Training stops at the end of a batch, with a checkpoint.
    async fn cancel(&self, id: &TaskId) -> Result<Cancelled>;

    /// Live tasks of ours.
    ///
    /// # Errors
    /// `Unsupported` where the provider can't tell.
    async fn list(&self) -> Result<Vec<TaskSummary>>;

    /// The task that an attempt at a key became, for whoever lost its id; none where the provider doesn't have it.
    ///
    /// # Errors
    /// `Unsupported` where the provider can't tell.
    async fn find_attempt(&self, attempt: &str, key: &str) -> Result<Option<TaskId>> {
        // A task that lives is at most one attempt's.
        let _ = attempt;
        Ok(self.list().await?.into_iter().find(|live| live.key == key).map(|live| live.id))
    }
}

/// What users of a provider call; never overridden.
#[async_trait]
pub trait ComputeProviderExt: ComputeProvider {
    /// Submits `task` and waits for its end, handing events to `observe`. When `stop` completes, the task is
    /// cancelled and its last state awaited.
    ///
    /// # Errors
    /// The task's own error; `Cancelled` where it was stopped before it had an outcome; those of
    /// [`follow`](Self::follow).
    async fn run<S, O>(&self, task: &Task, stop: S, observe: O) -> Result<Outcome>
    where
        S: Future<Output = ()> + Send,
        O: FnMut(Event) + Send,
    {
        let id = self.submit(task).await?;
        self.follow(&id, stop, observe).await?.outcome()
    }

    /// Waits for the end of a task that was handed over, as [`run`](Self::run) does; its last state. All its events
    /// go to `observe`, also those that an earlier call has seen. A cancellation that fails is tried again.
    ///
    /// # Errors
    /// Those of [`wait`](ComputeProvider::wait): nothing is known of the task then. How the task ended is no error here.
    async fn follow<S, O>(&self, id: &TaskId, stop: S, mut observe: O) -> Result<TaskState>
    where
        S: Future<Output = ()> + Send,
        O: FnMut(Event) + Send,
    {
        let mut stop = pin!(stop);
        let mut stopping = false;
        // Set where it was tried in vain.
        let mut must_cancel = false;
        let mut seen = Revision::default();
        loop {
            let state = {
                let mut wait = pin!(self.wait(id, seen, Duration::from_secs(10)));
                poll_fn(|context| match wait.as_mut().poll(context) {
                    Poll::Ready(state) => Poll::Ready(Some(state)),
                    Poll::Pending if !stopping && stop.as_mut().poll(context).is_ready() => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                })
                .await
            };
            if let Some(state) = state {
                let mut state = state?;
                seen = state.revision;
                state.events.drain(..).for_each(&mut observe);
                if state.phase.is_final() {
                    return Ok(state);
                }
            } else {
                (stopping, must_cancel) = (true, true);
            }
            if must_cancel {
                // The task may run on, so it is waited for all the same.
                let cancelled = self.cancel(id).await;
                must_cancel = cancelled.is_err_and(|error| error.retry() != Retry::Never);
            }
        }
    }
}

impl<P: ComputeProvider + ?Sized> ComputeProviderExt for P {}

/// Identity of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderInfo {
    /// Its id: config key, metric label.
    pub id: String,
    /// Its kind, such as `cpu`.
    pub kind: String,
    /// What it computes on, in words.
    pub device: String,
    /// Where it is, if that means something.
    pub region: Option<String>,
}

/// What a provider can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Operations it runs.
    pub operations: Vec<OperationKind>,
    /// Layers it knows, by `type`.
    pub layers: Vec<String>,
    /// Whether a running task can be stopped.
    pub cancels: bool,
    /// Whether it can tell its live tasks.
    pub lists: bool,
    /// Whether events arrive while a task runs.
    pub reports_progress: bool,
    /// Largest request or reply in bytes.
    pub max_payload_bytes: Option<u64>,
    /// Longest task.
    pub max_task_time: Option<Duration>,
    /// Tasks that run at the same time; more wait.
    pub max_concurrent_tasks: Option<u32>,
}

/// What a provider bills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceModel {
    /// For each task.
    pub per_task: NanoUsd,
    /// For each hour of billed time.
    pub per_hour: NanoUsd,
    /// Billed time is rounded up to a multiple of this.
    pub granularity: Duration,
    /// Billed beyond a task's own time, at most: the start and the idle tail of its machine.
    pub overhead: Duration,
    /// Of that, how long a machine with nothing to do is kept. Zero where none is, where it isn't billed, and where the
    /// next task may go to another machine.
    pub idle: Duration,
    /// Since when this is known, as `YYYY-MM-DD`; `as configured` for what the user set; empty for what can't change.
    pub as_of: String,
    /// Where it was found.
    pub source: String,
}

impl PriceModel {
    /// Costs nothing.
    #[must_use]
    pub fn free(source: &str) -> Self {
        Self {
            per_task: NanoUsd::ZERO,
            per_hour: NanoUsd::ZERO,
            granularity: Duration::ZERO,
            overhead: Duration::ZERO,
            idle: Duration::ZERO,
            as_of: String::new(),
            source: source.into(),
        }
    }

    /// What one task costs at most that may run for `limit`.
    #[must_use]
    pub fn worst(&self, limit: Duration) -> NanoUsd {
        self.cost(limit.saturating_add(self.overhead))
    }

    /// Whether it costs nothing, however long a task runs.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.per_task == NanoUsd::ZERO && self.per_hour == NanoUsd::ZERO
    }

    /// Cost of one task for which `time` is billed, rounded up.
    #[must_use]
    pub fn cost(&self, time: Duration) -> NanoUsd {
        const NANOS_PER_HOUR: u128 = 3_600_000_000_000;
        let step = self.granularity.as_nanos().max(1);
        let billed = time.as_nanos().div_ceil(step).saturating_mul(step);
        let for_time = u128::from(self.per_hour.0).saturating_mul(billed).div_ceil(NANOS_PER_HOUR);
        NanoUsd(self.per_task.0.saturating_add(u64::try_from(for_time).unwrap_or(u64::MAX)))
    }
}

/// Whether a provider could take a task now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It could.
    Ready,
    /// It couldn't: why, and what the user can do.
    Unavailable(String),
}

/// The answer to a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// Nothing runs or bills any more.
    Stopped,
    /// The provider can't stop it: it may bill for this much longer.
    StillBilled {
        /// The time at most.
        until: Duration,
    },
}

/// A live task, as a provider lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSummary {
    /// Its id there.
    pub id: TaskId,
    /// Its key.
    pub key: String,
    /// Whether it has started.
    pub running: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_rounds_up_at_every_step() {
        let price = PriceModel {
            per_task: NanoUsd(200),
            per_hour: NanoUsd(1_116_000_000),
            granularity: Duration::from_secs(1),
            ..PriceModel::free("test")
        };
        assert_eq!(price.cost(Duration::ZERO), NanoUsd(200));
        assert_eq!(price.cost(Duration::from_millis(1)), NanoUsd(200 + 310_000));
        assert_eq!(price.cost(Duration::from_millis(1001)), NanoUsd(200 + 620_000));
        let one = PriceModel { per_hour: NanoUsd(1), ..PriceModel::free("test") };
        assert_eq!(one.cost(Duration::from_nanos(1)), NanoUsd(1));
        assert_eq!(
            one.cost(Duration::MAX),
            NanoUsd(u64::try_from(Duration::MAX.as_nanos().div_ceil(3_600_000_000_000)).unwrap_or(u64::MAX))
        );
    }
}
