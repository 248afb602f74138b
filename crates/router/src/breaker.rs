//! Leaves a provider alone that keeps failing.

use std::time::Duration;

use outboard_core::{ErrorKind, Observation, Retry, duration::time_above_zero};
use serde::Deserialize;

/// When a provider is left alone, and for how long: `[router.breaker]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub failures: u32,
    /// Crashes of workers in a row that open it.
    pub crashes: u32,
    /// How long it stays open the first time; twice as long each time a trial fails.
    #[serde(deserialize_with = "time_above_zero")]
    pub cooldown: Duration,
    /// How long it stays open at most.
    #[serde(deserialize_with = "time_above_zero")]
    pub max_cooldown: Duration,
}

impl Default for BreakerSettings {
    /// One failure is chance, three in a row are not. A crash is seldom chance and costs a start each time, so two are
    /// enough. The first pause is as long as a cold start, the longest lets an outage of a day be noticed within half
    /// an hour of its end.
    fn default() -> Self {
        Self { failures: 3, crashes: 2, cooldown: Duration::from_secs(30), max_cooldown: Duration::from_secs(30 * 60) }
    }
}

/// Whether a provider gets tasks, as far as its failures go. Derived from records, so that all processes agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Breaker {
    /// It does.
    #[default]
    Closed,
    /// It doesn't.
    Open(Pause),
    /// The pause is over: the next task is a trial. Success closes the breaker, a failure opens it for longer.
    HalfOpen,
}

/// Why and until when a provider is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Its end: milliseconds since 1970, UTC.
    pub until: u64,
    /// Why, as it reads after "paused for 30 s".
    pub why: String,
}

/// What the records add up to.
#[derive(Default)]
struct State {
    failures: u32,
    crashes: u32,
    /// Pauses since the last success.
    pauses: u32,
    /// End of the last one.
    until: Option<u64>,
    last: Option<ErrorKind>,
}

impl Breaker {
    /// Where the observations of one provider, in any order, leave its breaker at `now` (milliseconds since 1970, UTC).
    #[must_use]
    pub fn from(observations: &[Observation], now: u64, settings: &BreakerSettings) -> Self {
        let mut oldest_first: Vec<_> = observations.iter().filter_map(|o| Some((o.at, verdict(o)?))).collect();
        // At the same time failures come last, so that the order of the records doesn't matter.
        oldest_first.sort_by_key(|&(at, failure)| (at, failure.is_some(), failure.is_some_and(is_crash)));
        let mut state = State::default();
        for (at, failure) in oldest_first {
            match failure {
                None => state = State::default(),
                Some(kind) => state.fail(at, kind, settings),
            }
        }
        let Some(until) = state.until else { return Self::Closed };
        // A record from the future, by a clock that was set back, pauses no longer than one of now.
        let until = until.min(now.saturating_add(millis(settings.max_cooldown)));
        if now >= until {
            return Self::HalfOpen;
        }
        let last = crate::words::because(state.last.unwrap_or(ErrorKind::Unexpected));
        let failures = crate::words::count(state.failures.into(), "failure");
        let in_a_row = if state.failures == 1 { "" } else { " in a row" };
        Self::Open(Pause { until, why: format!("after {failures}{in_a_row}, the last one because {last}") })
    }

    /// In words, at `now` (milliseconds since 1970, UTC); nothing where it is closed.
    #[must_use]
    pub fn words(&self, now: u64) -> Option<String> {
        match self {
            Self::Closed => None,
            Self::Open(Pause { until, why }) => {
                let left = crate::words::time(until.saturating_sub(now) as f64 / 1e3);
                Some(format!("paused for {left} {why}"))
            }
            Self::HalfOpen => Some("it failed before: its next task is a trial".into()),
        }
    }

    /// Of two breakers the one that holds for longer: a pause that a provider asked for ends none that it has earned,
    /// nor the reverse.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Open(one), Self::Open(two)) if two.until > one.until => other,
            (Self::Open(_), _) => self,
            (_, Self::Open(_)) | (Self::Closed, Self::HalfOpen) => other,
            _ => self,
        }
    }
}

impl State {
    fn fail(&mut self, at: u64, kind: ErrorKind, settings: &BreakerSettings) {
        self.failures = self.failures.saturating_add(1);
        self.crashes = if is_crash(kind) { self.crashes.saturating_add(1) } else { 0 };
        self.last = Some(kind);
        let opens = match self.until {
            // A trial that failed.
            Some(until) if at >= until => true,
            // What was still running when it opened.
            Some(_) => false,
            None => self.failures >= settings.failures.max(1) || self.crashes >= settings.crashes.max(1),
        };
        self.pauses = self.pauses.saturating_add(u32::from(opens));
        if opens || self.until.is_some() {
            let cooldown = settings.cooldown.saturating_mul(1 << (self.pauses.saturating_sub(1)).min(30));
            let until = at.saturating_add(millis(cooldown.min(settings.max_cooldown)));
            self.until = self.until.max(Some(until));
        }
    }
}

/// What an attempt says of its provider: nothing, that it works, or how it failed.
fn verdict(observation: &Observation) -> Option<Option<ErrorKind>> {
    match observation.failure {
        None => Some(None),
        Some(kind) => blames_provider(kind).then_some(Some(kind)),
    }
}

/// Whether a failure is the provider's. Never the job's own error or the user's wish; nor what tells only that this job
/// doesn't fit there, for another one may.
fn blames_provider(kind: ErrorKind) -> bool {
    let misfit = matches!(kind, ErrorKind::Unsupported | ErrorKind::PayloadTooLarge | ErrorKind::OutOfMemory);
    kind.retry() != Retry::Never && !misfit
}

fn is_crash(kind: ErrorKind) -> bool {
    kind == ErrorKind::WorkerUnhealthy
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
