//! Whether a worker is cheaper kept warm between two tasks than started anew.

use std::{cmp::Reverse, fmt, time::Duration};

use outboard_core::{NanoUsd, Observation};

use crate::{
    Candidate, Policy, Terms,
    words::{at_most, time},
};

/// How long a request takes that only keeps a worker.
const KEEP_ALIVE: Duration = Duration::from_millis(100);
/// What is further apart belongs to another sitting.
const SITTING: Duration = Duration::from_secs(3600);

/// What starts, waiting and workers cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmth {
    /// How long a start takes, all of it billed.
    pub start: Duration,
    /// How long a worker without a task is kept, and billed.
    pub idle: Duration,
    /// How long a request takes that only keeps a worker.
    pub keep_alive: Duration,
    /// What an hour of a worker costs.
    pub per_hour: NanoUsd,
    /// What an hour of waiting is worth.
    pub value_of_time: NanoUsd,
}

/// What to do between two tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warm {
    /// Nothing: the worker ends by itself, and the next task starts one.
    LetGo,
    /// Have the provider keep it for so long.
    Longer(Duration),
    /// Send requests that do nothing, each just before the idle time-out.
    KeepAlive,
}

/// What becomes of a worker between two tasks of a job. Its `Display` is what a user reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between {
    /// How long the provider keeps a worker that has nothing to do.
    pub idle: Duration,
    /// How long gaps between tasks took; none where none was seen.
    pub gap: Option<Duration>,
    /// How long into a gap a worker is worth keeping.
    pub break_even: Duration,
    /// How long into a gap it is kept by requests that do nothing: up to the break-even, or not beyond `idle`.
    pub until: Duration,
    /// What keeping it for so long costs.
    pub cost: NanoUsd,
    /// An idle time-out that would do the same, and more simply.
    pub longer: Option<Duration>,
}

/// Times between two tasks of one provider, in any order; tasks that overlap have none.
pub(crate) fn gaps(observations: &[Observation]) -> Vec<Duration> {
    let mut newest_first: Vec<&Observation> = observations.iter().collect();
    newest_first.sort_by_key(|observation| Reverse(observation.at));
    let began = |one: &Observation| {
        let all = one.timings.queue + one.timings.running().as_secs_f64();
        one.at.saturating_sub((all * 1000.0) as u64)
    };
    let gap = |pair: &[&Observation]| Duration::from_millis(began(pair[0]).saturating_sub(pair[1].at));
    newest_first.windows(2).map(gap).filter(|gap| !gap.is_zero() && *gap < SITTING).collect()
}

fn median(gaps: impl Iterator<Item = Duration>) -> Option<Duration> {
    let mut sorted: Vec<_> = gaps.collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

impl Warmth {
    /// Of a provider's workers. None where they cost nothing, or end with their task.
    #[must_use]
    pub fn of(candidate: &Candidate, terms: &Terms) -> Option<Self> {
        let price = candidate.price.as_ref().ok()?;
        // Whoever wants it cheapest waits for nothing.
        let value_of_time = if terms.policy == Policy::Cheapest { NanoUsd::ZERO } else { terms.value_of_time };
        (price.idle > Duration::ZERO && price.per_hour > NanoUsd::ZERO).then(|| Self {
            start: Duration::try_from_secs_f64(candidate.learned.cold_start.value).unwrap_or_default(),
            idle: price.idle,
            keep_alive: KEEP_ALIVE,
            per_hour: price.per_hour,
            value_of_time,
        })
    }

    /// The gap up to which a warm worker is cheaper: the idle time-out, which is paid anyway, and a start, which is paid as
    /// a worker's time and waited for. None where workers cost nothing: then they are always kept.
    #[must_use]
    pub fn break_even(&self) -> Option<Duration> {
        let (price, value) = (self.per_hour.0 as f64, self.value_of_time.0 as f64);
        let wait = self.start.as_secs_f64() * (1.0 + value / price);
        (price > 0.0).then(|| self.idle.saturating_add(Duration::try_from_secs_f64(wait).unwrap_or(SITTING)))
    }

    /// How long into a gap a worker is kept, by the gaps that were seen: those that outlasted the idle time-out tell how
    /// long one takes that does. Where they mostly last beyond the break-even, it isn't worth it. Where there were none it is
    /// kept up to the break-even, which costs at most twice what would have been best in hindsight.
    #[must_use]
    pub fn until(&self, seen: &[Duration]) -> Duration {
        let even = self.break_even().unwrap_or(SITTING);
        match median(seen.iter().copied().filter(|gap| *gap > self.idle)) {
            Some(usual) if usual > even => self.idle,
            _ => even,
        }
    }

    /// What becomes of a worker in `count` gaps, by those that were seen.
    #[must_use]
    pub fn between(&self, seen: &[Duration], count: u32) -> Between {
        let gap = median(seen.iter().copied());
        let until = self.until(seen);
        let nanos = self.per_hour.0 as f64 * until.as_secs_f64() / 3600.0;
        let longer = match self.advise(gap.unwrap_or_default(), count.max(1)) {
            Warm::Longer(timeout) if timeout > self.idle => Some(Duration::from_secs(timeout.as_secs() + 1)),
            _ => None,
        };
        let break_even = self.break_even().unwrap_or(SITTING);
        Between { idle: self.idle, gap, break_even, until, cost: NanoUsd(nanos.ceil() as u64), longer }
    }

    /// What this way costs for `gaps` between tasks of which each takes this long, in nano-dollars: workers between
    /// tasks and after the last one, starts, and waiting for them.
    #[must_use]
    pub fn cost(&self, way: Warm, gap: Duration, gaps: u32) -> f64 {
        let second = |amount: NanoUsd| amount.0 as f64 / 3600.0;
        let (price, value) = (second(self.per_hour), second(self.value_of_time));
        let [gap, idle, start] = [gap, self.idle, self.start].map(|time| time.as_secs_f64());
        let kept = |timeout: f64| match gap <= timeout {
            true => gap * price,
            false => timeout * price + start * (price + value),
        };
        let (each, last) = match way {
            Warm::LetGo => (kept(idle), idle),
            Warm::Longer(timeout) => (kept(timeout.as_secs_f64()), timeout.as_secs_f64()),
            Warm::KeepAlive => {
                // The worker is billed for the gap, whether it idles or answers. A task that comes meanwhile waits for
                // the request that is there, which every so often is just then.
                let request = self.keep_alive.as_secs_f64();
                let share = if idle > 0.0 { (request / (idle + request)).min(1.0) } else { 1.0 };
                let is_sent = gap > idle;
                (gap * price + if is_sent { share * request / 2.0 * (price + value) } else { 0.0 }, idle)
            }
        };
        f64::from(gaps) * each + last * price
    }

    /// The cheapest way for `gaps` between tasks that take about this long each. Equals are left alone.
    #[must_use]
    pub fn advise(&self, gap: Duration, gaps: u32) -> Warm {
        let ways = [Warm::LetGo, Warm::Longer(gap.max(self.idle)), Warm::KeepAlive];
        let cost = |way: &Warm| self.cost(*way, gap, gaps);
        ways.into_iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(Warm::LetGo)
    }
}

impl Between {
    /// Whether gaps usually end while the provider keeps the worker anyway.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.gap.is_none_or(|gap| gap <= self.idle)
    }
}

impl fmt::Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [idle, break_even] = [self.idle, self.break_even].map(|length| time(length.as_secs_f64()));
        let gap = self.gap.map(|gap| time(gap.as_secs_f64()));
        match gap {
            None => write!(f, "no gap was seen yet")?,
            Some(gap) => write!(f, "gaps of about {gap}")?,
        }
        match (self.is_short(), self.until > self.idle) {
            (true, _) => write!(f, ", nothing to do within the idle time-out of {idle}")?,
            (false, true) => write!(f, ", longer than the idle time-out of {idle}")?,
            (false, false) => {
                return write!(
                    f,
                    ", not worth a worker beyond {break_even}: it ends after its idle time-out of {idle}"
                );
            }
        }
        if self.until > self.idle {
            let longer = if self.is_short() { "; in a longer one" } else { ":" };
            write!(f, "{longer} the worker is kept warm for up to {break_even}, for at most {}", at_most(self.cost))?;
        }
        match self.longer {
            Some(longer) => write!(f, "; an idle time-out of {longer:?} would do too"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
