//! How many epochs a task runs.

use outboard_core::{NanoUsd, provider::PriceModel};

use crate::{
    Budget, Candidate, Demand, Reason,
    quote::{LIMIT_SLACK, Phases, factor, limit},
};

/// The epochs of the next task, at least one; and what forbids even one.
///
/// It is the fewest epochs that keep the overhead under its target share: short tasks bind less money, lose less and
/// let the job move sooner. Bounds from above, where they are lower:
/// - √(2 · overhead · MTBF), the interval between checkpoints that loses least to failures (J. W. Young, "A first order
///   approximation to the optimum checkpoint interval", 1974; J. T. Daly, "A higher order estimate of the optimum
///   checkpoint interval for restart dumps", 2006);
/// - the provider's longest task;
/// - what is left of the budget, for the worst case.
///
/// The deadline needs no bound of its own: a provider that can't end the job by then gets no task.
///
/// A free local provider gets all epochs: its tasks bind no money, and it keeps checkpoints on the way.
pub(crate) fn epochs(
    candidate: &Candidate,
    price: &PriceModel,
    demand: &Demand,
    budget: &Budget,
) -> (u32, Option<Reason>) {
    let all = demand.epochs_left.max(1);
    let one = Phases::new(candidate, demand, 1);
    let longest = candidate.capabilities.max_task_time.map_or(f64::INFINITY, |time| time.as_secs_f64());
    if one.running() > longest {
        return (1, Some(Reason::TaskTooLong { seconds: one.running(), limit: longest }));
    }
    // Where there is room for the expected time but not for the limit, one epoch is tried all the same.
    let room = (longest - LIMIT_SLACK) / factor(candidate) - (one.running() - one.compute);
    let bound = whole(room / one.compute, all);
    if candidate.is_local && price.is_free() {
        return (bound, None);
    }
    let share = demand.terms.overhead_share;
    let worthwhile = one.overhead() * (1.0 - share) / share;
    let young_daly = (2.0 * one.overhead() * candidate.learned.mtbf.value).sqrt();
    let wanted = whole((worthwhile / one.compute).ceil(), all).min(whole(young_daly / one.compute, all)).min(bound);
    affordable(candidate, price, demand, budget, wanted)
}

/// A number of epochs, from one to `all`. Epochs that take no time (0 / 0) are all run at once.
fn whole(epochs: f64, all: u32) -> u32 {
    if epochs.is_nan() { all } else { (epochs as u32).clamp(1, all) }
}

/// At most `wanted` epochs, so few that no cap can be passed.
fn affordable(
    candidate: &Candidate,
    price: &PriceModel,
    demand: &Demand,
    budget: &Budget,
    wanted: u32,
) -> (u32, Option<Reason>) {
    let Some(cap) = budget.tightest(&candidate.id) else { return (wanted, None) };
    let left = cap.left().unwrap_or(NanoUsd(u64::MAX));
    let worst = |epochs| price.worst(limit(&Phases::new(candidate, demand, epochs), candidate, demand));
    if worst(wanted) <= left {
        return (wanted, None);
    }
    let least = worst(1);
    if least > left {
        return (1, Some(Reason::OverBudget(budget.refusal(cap, &candidate.id, least))));
    }
    // One epoch fits, `wanted` doesn't.
    let (mut fits, mut too_many) = (1, wanted);
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        if worst(middle) <= left { fits = middle } else { too_many = middle }
    }
    (fits, None)
}

#[cfg(test)]
mod tests;
