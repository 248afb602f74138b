//! What a task takes on a provider: expected time, expected cost, and the most it can cost.

use std::time::Duration;

use outboard_core::{NanoUsd, provider::PriceModel};

use crate::{Between, Candidate, Demand, Warmth};

/// What a provider is expected to take, and the bound that is enforced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quote {
    /// Epochs of the next task.
    pub epochs: u32,
    /// Tasks of that length until the end.
    pub tasks: u32,
    /// Where the time of the next task goes.
    pub phases: Phases,
    /// Expected time of all that is left.
    pub expected_time: Duration,
    /// Expected cost of all that is left.
    pub expected_cost: NanoUsd,
    /// Longest time of the next task from its start to its end, which its worker enforces. Free local providers have
    /// none.
    pub limit: Option<Duration>,
    /// What the next task costs at most: the limit through the price model. This is what gets reserved.
    pub worst_cost: NanoUsd,
    /// What becomes of its worker between two tasks; none where that costs nothing.
    pub between: Option<Between>,
}

/// Expected seconds of one task.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Phases {
    /// Waiting for its turn.
    pub queue: f64,
    /// Starting a machine or a process, times the probability that this is needed.
    pub start: f64,
    /// Blobs to the worker.
    pub download: f64,
    /// Decoding them.
    pub load: f64,
    /// The epochs.
    pub compute: f64,
    /// The result.
    pub upload: f64,
}

/// A task that takes this much longer than expected, and some, has gone wrong. One that trains ends there with a
/// checkpoint, so that little is lost if it has not.
const LIMIT_FACTOR: f64 = 2.0;
pub(crate) const LIMIT_SLACK: f64 = 30.0;

/// Of a provider that was hardly seen at work the expected time is a guess.
const GUESS_FACTOR: f64 = 4.0;
const SEEN_ENOUGH: usize = 4;

/// How much longer than expected a task may take.
pub(crate) fn factor(candidate: &Candidate) -> f64 {
    if candidate.learned.flops.observations < SEEN_ENOUGH { GUESS_FACTOR } else { LIMIT_FACTOR }
}

impl Phases {
    /// Of the next task, with `epochs`.
    pub(crate) fn new(candidate: &Candidate, demand: &Demand, epochs: u32) -> Self {
        let learned = &candidate.learned;
        let there = demand.bytes_there.get(&candidate.id).copied().unwrap_or(0);
        Self {
            queue: learned.queue.value,
            start: learned.cold.value * learned.cold_start.value,
            download: demand.bytes_down.saturating_sub(there) as f64 / learned.down.value,
            load: learned.load.value,
            compute: f64::from(epochs) * demand.flops_per_epoch as f64 / learned.flops.value,
            upload: demand.bytes_up as f64 / learned.up.value,
        }
    }

    /// From the task's start to its end.
    pub(crate) fn running(&self) -> f64 {
        self.download + self.load + self.compute + self.upload
    }

    /// What comes again with each task and is no computing. The data lies there after the first.
    pub(crate) fn overhead(&self) -> f64 {
        self.queue + self.start + self.load + self.upload
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.queue + self.start + self.running()
    }
}

/// The longest time of a task: a multiple of the expected, half a minute more, never past the provider's own bound or
/// the deadline.
pub(crate) fn limit(phases: &Phases, candidate: &Candidate, demand: &Demand) -> Duration {
    let bound = candidate.capabilities.max_task_time.unwrap_or(Duration::MAX);
    let deadline = demand.deadline_left.unwrap_or(Duration::MAX);
    seconds(phases.running() * factor(candidate) + LIMIT_SLACK).min(bound).min(deadline)
}

/// Quotes a task of `epochs` on a provider that bills by `price`.
#[must_use]
pub fn quote(candidate: &Candidate, price: &PriceModel, demand: &Demand, epochs: u32) -> Quote {
    let all = demand.epochs_left.max(1);
    let epochs = epochs.clamp(1, all);
    let phases = Phases::new(candidate, demand, epochs);
    let tasks = all.div_ceil(epochs);
    let n = f64::from(tasks);
    let rest = Phases::new(candidate, demand, all);
    let running = rest.download + rest.compute + n * (rest.load + rest.upload);
    let waiting = n * (rest.queue + rest.start);
    // Rounding up bills half a step on average; the price model's overhead is billed where a machine starts.
    let step = price.granularity.as_secs_f64() / 2.0;
    let beside = n * (candidate.learned.cold.value * price.overhead.as_secs_f64() + step);
    let one = price.cost(seconds(running + beside)).0;
    let others = price.per_task.0.saturating_mul(u64::from(tasks - 1));
    let limit = if candidate.is_local && price.is_free() { None } else { Some(limit(&phases, candidate, demand)) };
    Quote {
        epochs,
        tasks,
        phases,
        expected_time: seconds(waiting + running),
        expected_cost: NanoUsd(one.saturating_add(others)),
        limit,
        worst_cost: limit.map_or(NanoUsd::ZERO, |limit| price.worst(limit)),
        between: Warmth::of(candidate, &demand.terms).map(|warmth| warmth.between(&candidate.gaps, tasks - 1)),
    }
}

/// A time that may be too long to be one.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
