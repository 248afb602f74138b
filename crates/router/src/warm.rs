//! Whether a worker is cheaper kept warm between two tasks than started anew.

use std::time::Duration;

use outboard_core::NanoUsd;

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

impl Warmth {
    /// The gap up to which a warm worker is cheaper: the idle time-out, which is paid anyway, and a start, which is paid as
    /// a worker's time and waited for. None where workers cost nothing: then they are always kept.
    #[must_use]
    pub fn break_even(&self) -> Option<Duration> {
        let (price, value) = (self.per_hour.0 as f64, self.value_of_time.0 as f64);
        (price > 0.0).then(|| self.idle + self.start.mul_f64(1.0 + value / price))
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1;

    /// Lets the time pass, millisecond by millisecond: what a worker was billed for, and what was waited for.
    fn simulated(warmth: &Warmth, way: Warm, gap: u64, gaps: u32, task: u64) -> f64 {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        let (start, keep_alive) = (ms(warmth.start), ms(warmth.keep_alive));
        let timeout = if let Warm::Longer(timeout) = way { ms(timeout) } else { ms(warmth.idle) };
        let (mut billed, mut waited) = (0, 0);
        // The first start is the same for all.
        for number in 0..=gaps {
            billed += task;
            let is_last = number == gaps;
            let (mut is_up, mut idle_since, mut busy_until) = (true, 0, 0);
            let until = if is_last { timeout } else { gap };
            let mut now = 0;
            while now < until {
                if is_up && now >= busy_until && now - idle_since >= timeout {
                    match way {
                        Warm::KeepAlive if !is_last => (busy_until, idle_since) = (now + keep_alive, now + keep_alive),
                        _ => is_up = false,
                    }
                }
                billed += u64::from(is_up) * MS;
                now += MS;
            }
            if !is_last {
                if !is_up {
                    billed += start;
                    waited += start;
                }
                let left = busy_until.saturating_sub(now);
                billed += left;
                waited += left;
            }
        }
        let hour = |amount: NanoUsd, ms: u64| amount.0 as f64 * ms as f64 / 3_600_000.0;
        let tasks = task * u64::from(gaps + 1);
        hour(warmth.per_hour, billed - tasks) + hour(warmth.value_of_time, waited)
    }

    #[test]
    fn what_is_advised_is_what_costs_least_as_time_passes() {
        let seconds = Duration::from_secs;
        let mut advised = Vec::new();
        for (start, value) in [(3, 500_000_000), (30, 500_000_000), (30, 0), (30, 50_000_000_000)] {
            let warmth = Warmth {
                start: seconds(start),
                idle: seconds(5),
                keep_alive: Duration::from_millis(100),
                per_hour: NanoUsd(1_116_000_000),
                value_of_time: NanoUsd(value),
            };
            for gap in [2, 7, 20, 33, 40, 90, 900] {
                for gaps in [1, 20] {
                    let ways = [Warm::LetGo, Warm::Longer(seconds(gap.max(5))), Warm::KeepAlive];
                    let cost = |way: Warm| simulated(&warmth, way, gap * 1000, gaps, 2000);
                    let least = ways.into_iter().map(cost).fold(f64::INFINITY, f64::min);
                    let advice = warmth.advise(seconds(gap), gaps);
                    // Whether a request is there just when a task comes is certain here, and a chance in the formula.
                    let second = (warmth.per_hour.0 + value) as f64 / 3600.0;
                    let slack = f64::from(gaps) * warmth.keep_alive.as_secs_f64() * second + 1.0;
                    assert!(cost(advice) <= least + slack, "{start} {value} {gap} {gaps}: {advice:?}");
                    advised.push(advice == Warm::LetGo);
                }
            }
        }
        assert!(advised.contains(&true) && advised.contains(&false));
    }

    #[test]
    fn below_the_break_even_a_worker_is_kept_and_above_it_is_let_go() {
        let warmth = Warmth {
            start: Duration::from_secs(30),
            idle: Duration::from_secs(5),
            keep_alive: Duration::ZERO,
            per_hour: NanoUsd(1_000_000_000),
            value_of_time: NanoUsd(500_000_000),
        };
        let even = warmth.break_even().unwrap();
        assert_eq!(even, Duration::from_secs(50));
        let second = Duration::from_secs(1);
        assert_ne!(warmth.advise(even - second, 1000), Warm::LetGo);
        assert_eq!(warmth.advise(even + second, 1000), Warm::LetGo);
        assert_eq!(warmth.advise(second, 10), Warm::LetGo, "the idle time-out covers it");
        assert_eq!(Warmth { per_hour: NanoUsd::ZERO, ..warmth }.break_even(), None);
    }

    #[test]
    fn the_docs_state_the_example() {
        let docs = include_str!("../../../docs/cold-starts.md");
        let warmth = Warmth {
            start: Duration::from_secs(30),
            idle: Duration::from_secs(5),
            keep_alive: Duration::from_millis(100),
            per_hour: NanoUsd(1_116_000_000),
            value_of_time: NanoUsd(500_000_000),
        };
        let even = warmth.break_even().unwrap().as_secs_f64();
        assert!(docs.contains(&format!("{even:.0} s")), "{even}");
    }
}
