//! Why a task waits, from what its endpoint says of its workers.

use std::time::Duration;

use outboard_core::error::{Error, ErrorKind, Retry};
use tokio::time::Instant;

use crate::{Config, api::Workers};

/// Why a task waits. `IN_QUEUE` alone never says that workers crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Workers crash as they start.
    Crashing,
    /// There are none: the endpoint scales up from zero, or there is no capacity.
    NoWorkers,
    /// Their hosts are full.
    Throttled,
    /// One is starting.
    Starting,
    /// Workers are busy with other tasks.
    Busy,
}

/// The first rule that fits. Crashes go before all else: what crashes looks like a start in between.
pub(crate) fn why(workers: &Workers) -> Why {
    match workers {
        _ if workers.work() => Why::Busy,
        _ if workers.unhealthy > 0 => Why::Crashing,
        _ if workers.is_empty() => Why::NoWorkers,
        _ if workers.initializing > 0 => Why::Starting,
        _ => Why::Throttled,
    }
}

impl Why {
    fn patience(self, config: &Config) -> Duration {
        match self {
            Self::Crashing => config.crash_patience,
            Self::NoWorkers => config.capacity_patience,
            Self::Throttled => config.throttled_patience,
            Self::Starting => config.cold_start_patience,
            // What is enforced anyway.
            Self::Busy => config.start_within,
        }
    }

    /// In words, with what to do.
    pub(crate) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Crashing => (
                "its workers crash while they start",
                "look at a worker's log in RunPod's console (a missing library or a wrong image, mostly), mend the image, \
                 then release it anew",
            ),
            Self::NoWorkers => (
                "it has no workers: none were given to it, or it may have none",
                "check the endpoint's maximum of workers (RunPod sets it to 0 after a week without requests) and the account's \
                 balance; allow more GPU types or regions",
            ),
            Self::Throttled => (
                "its workers are throttled: their hosts have no GPU free",
                "allow more GPU types or regions at the endpoint, or try again later",
            ),
            Self::Starting => (
                "its workers have been starting for too long",
                "use a smaller image, FlashBoot, or a network volume; or raise `cold_start_patience`",
            ),
            Self::Busy => (
                "its workers are busy with other jobs, of other clients perhaps",
                "raise the endpoint's maximum of workers, or use an endpoint that nobody else does",
            ),
        }
    }

    fn kind(self) -> ErrorKind {
        match self {
            Self::Crashing | Self::Starting => ErrorKind::WorkerUnhealthy,
            Self::NoWorkers | Self::Throttled => ErrorKind::CapacityUnavailable,
            Self::Busy => ErrorKind::QuotaExceeded,
        }
    }
}

/// Watches one waiting task.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// What it waits for, and since when.
    now: Option<(Why, Instant)>,
    /// Since when workers crash, with starts in between.
    crashing: Option<Instant>,
}

impl Watch {
    /// Takes a look at the workers. An error once patience is at an end.
    pub(crate) fn look(&mut self, workers: &Workers, config: &Config, now: Instant) -> Option<Error> {
        let mut why = why(workers);
        match why {
            Why::Crashing => {
                self.crashing.get_or_insert(now);
            }
            // Between two crashes.
            Why::Starting | Why::NoWorkers if self.crashing.is_some() => why = Why::Crashing,
            _ => self.crashing = None,
        }
        let since = match self.now {
            Some((before, since)) if before == why => since,
            _ => now,
        };
        self.now = Some((why, since));
        let since = if why == Why::Crashing { self.crashing.unwrap_or(since) } else { since };
        let waited = now.saturating_duration_since(since);
        (waited >= why.patience(config)).then(|| error(why, workers, waited))
    }
}

fn error(why: Why, workers: &Workers, waited: Duration) -> Error {
    let (reason, hint) = why.words();
    let Workers { idle, initializing, running, throttled, unhealthy, .. } = workers;
    Error::new(why.kind(), format!("the endpoint does not start the task: {reason}"))
        .with_retry(Retry::Other)
        .at("for", format!("{:.0} s", waited.as_secs_f64().ceil()))
        .at(
            "workers of the endpoint",
            format!(
                "{running} running, {idle} idle, {initializing} initializing, {throttled} throttled, {unhealthy} unhealthy"
            ),
        )
        .hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(counts: [u32; 5]) -> Workers {
        let [running, idle, initializing, throttled, unhealthy] = counts;
        Workers { idle, initializing, ready: 0, running, throttled, unhealthy }
    }

    #[test]
    fn each_cause_is_told_apart_with_its_patience_kind_and_words() {
        use ErrorKind::*;
        let config = Config::default();
        for (counts, reason, kind, patience) in [
            ([0, 0, 0, 0, 1], Why::Crashing, WorkerUnhealthy, 60),
            ([0, 0, 2, 1, 1], Why::Crashing, WorkerUnhealthy, 60),
            ([0, 0, 0, 0, 0], Why::NoWorkers, CapacityUnavailable, 180),
            ([0, 0, 0, 2, 0], Why::Throttled, CapacityUnavailable, 120),
            ([0, 0, 1, 2, 0], Why::Starting, WorkerUnhealthy, 600),
            ([2, 0, 0, 1, 1], Why::Busy, QuotaExceeded, 900),
            ([0, 1, 0, 0, 0], Why::Busy, QuotaExceeded, 900),
        ] {
            let workers = workers(counts);
            assert_eq!(why(&workers), reason, "{counts:?}");
            let (mut watch, began) = (Watch::default(), Instant::now());
            assert!(watch.look(&workers, &config, began).is_none());
            let nearly = began + Duration::from_secs(patience) - Duration::from_millis(1);
            assert!(watch.look(&workers, &config, nearly).is_none(), "{counts:?}");
            let error = watch.look(&workers, &config, began + Duration::from_secs(patience)).unwrap();
            assert_eq!((error.kind(), error.retry()), (kind, Retry::Other));
            assert!(error.to_string().ends_with(reason.words().0) && error.advice() == Some(reason.words().1));
            assert!(error.report().contains(&format!("for: {patience} s")), "{}", error.report());
        }
    }

    #[test]
    fn a_start_between_two_crashes_is_no_recovery_but_a_worker_is() {
        let (config, mut watch, began) = (Config::default(), Watch::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        let (crashed, starts, works) = (workers([0, 0, 0, 0, 1]), workers([0, 0, 1, 0, 0]), workers([1, 0, 0, 0, 0]));
        assert!(watch.look(&crashed, &config, at(0)).is_none());
        assert!(watch.look(&starts, &config, at(50)).is_none());
        assert_eq!(watch.look(&starts, &config, at(61)).unwrap().kind(), ErrorKind::WorkerUnhealthy);
        assert!(watch.look(&works, &config, at(62)).is_none());
        assert!(watch.look(&crashed, &config, at(63)).is_none());
        assert!(watch.look(&crashed, &config, at(100)).is_none());
        assert!(watch.look(&crashed, &config, at(123)).is_some());
    }
}
