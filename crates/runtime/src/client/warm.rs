//! Whether a provider's workers are cheaper kept warm, from what was measured.

use std::time::Duration;

use outboard_core::{
    Observation, Result,
    code::{self, Code},
    finding::Finding,
};
use outboard_router::{Candidate, Warm, Warmth};

use super::Client;

/// Attempts whose gaps are looked at.
const LAST: u32 = 50;
/// What is further apart belongs to another sitting.
const SITTING: Duration = Duration::from_secs(3600);
/// How long a request takes that does nothing.
const KEEP_ALIVE: Duration = Duration::from_millis(100);

impl Client {
    /// What keeping a provider's workers warm would come to, in words. None where nothing is known of it.
    ///
    /// # Errors
    /// Those of the ledger.
    pub(crate) async fn warmth(&self, id: &str, idle: Duration) -> Result<Option<Finding>> {
        const CODE: Code = code::RUNPOD_WARM;
        let known = self.providers().await?.enabled;
        let Some(Candidate { learned, price: Ok(price), .. }) = known.iter().find(|candidate| candidate.id == id)
        else {
            return Ok(None);
        };
        let start = learned.cold_start;
        let warmth = Warmth {
            start: Duration::try_from_secs_f64(start.value).unwrap_or_default(),
            idle,
            keep_alive: KEEP_ALIVE,
            per_hour: price.per_hour,
            value_of_time: self.config.router.terms().value_of_time,
        };
        let Some(even) = warmth.break_even() else { return Ok(None) };
        let basis = if start.observations == 0 { "as assumed" } else { "as measured" };
        let told = format!(
            "a start takes {:.1} s ({basis}): for gaps of up to {:.0} s between tasks a worker is cheaper kept warm",
            start.value,
            even.as_secs_f64()
        );
        let gaps = gaps(&self.ledger().await?.observations(id, LAST).await?);
        let Some(gap) = median(&gaps) else {
            return Ok(Some(Finding::pass(CODE, id, told + "; no gaps were seen yet")));
        };
        let count = u32::try_from(gaps.len()).unwrap_or(u32::MAX);
        let told = format!("{told}; the last {count} took about {:.0} s", gap.as_secs_f64());
        Ok(Some(match warmth.advise(gap, count) {
            Warm::LetGo => Finding::pass(CODE, id, told),
            Warm::Longer(_) | Warm::KeepAlive => {
                let longer = gap.as_secs() + 1;
                let remedy = format!(
                    "set the endpoint's idle time-out to {longer} s, and `providers.runpod.idle_timeout = \"{longer}s\"` with it"
                );
                Finding::warn(CODE, id, told, remedy)
            }
        }))
    }
}

/// Times between two tasks, the newest first; those at once are none.
fn gaps(newest_first: &[Observation]) -> Vec<Duration> {
    let began = |one: &Observation| {
        let timings = one.timings;
        let all = timings.queue + timings.download + timings.running().as_secs_f64() + timings.upload;
        one.at.saturating_sub((all * 1000.0) as u64)
    };
    let gap = |pair: &[Observation]| Duration::from_millis(began(&pair[0]).saturating_sub(pair[1].at));
    newest_first.windows(2).map(gap).filter(|gap| !gap.is_zero() && *gap < SITTING).collect()
}

fn median(gaps: &[Duration]) -> Option<Duration> {
    let mut sorted = gaps.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use outboard_core::{
        NanoUsd,
        task::{OperationKind, Timings},
    };

    use super::*;

    #[test]
    fn gaps_lie_between_the_end_of_a_task_and_the_beginning_of_the_next() {
        let ended = |at: u64, queue: f64, compute: f64| Observation {
            provider: "runpod".into(),
            at,
            operation: OperationKind::Train,
            failure: None,
            timings: Timings { queue, compute, ..Timings::default() },
            flops: 0,
            bytes_down: 0,
            bytes_up: 0,
            cost: NanoUsd::ZERO,
        };
        let day = 86_400_000;
        // At once, 20 s later, a day later.
        let all = [ended(day, 0.0, 1.0), ended(40_000, 2.0, 8.0), ended(10_000, 0.0, 5.0), ended(5_000, 0.0, 1.0)];
        assert_eq!(gaps(&all), [Duration::from_secs(20)]);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3, 1, 2].map(Duration::from_secs)), Some(Duration::from_secs(2)));
    }
}
