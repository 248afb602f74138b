//! What a failure leads to.

use std::time::Duration;

use outboard_core::{Code, Error, ErrorKind, Retry, duration::time_above_zero};
use serde::Deserialize;

use crate::{history::History, poison};

/// A failure of one attempt.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The provider.
    pub provider: String,
    /// The attempt.
    pub attempt: String,
    /// When: milliseconds since 1970, UTC.
    pub at: u64,
    /// What went wrong. Its retry flag decides.
    pub error: Error,
    /// Who failed.
    pub of: Origin,
    /// Where the task stood: completed epochs, batches of the running epoch.
    pub step: (u32, u64),
    /// Whether the task process died.
    pub died: bool,
}

/// Who failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A call to the provider. Its wrapper has tried it as often as it is worth.
    Call,
    /// The task itself, as its last state says. Nobody has tried it again.
    Task,
}

/// When a job that keeps failing is given up: `[router.patience]`. A new checkpoint starts the count anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Patience {
    /// Failures without a new checkpoint, over all providers.
    pub failures: usize,
    /// Time from the first of them.
    #[serde(deserialize_with = "time_above_zero")]
    pub time: Duration,
    /// A provider that asks to wait for longer is left for another.
    #[serde(deserialize_with = "time_above_zero")]
    pub longest_wait: Duration,
}

impl Default for Patience {
    /// Each provider gets two tries, so twelve failures are six providers. Within an hour an outage of minutes is over;
    /// what lasts longer is for a human. Another provider starts in about a minute.
    fn default() -> Self {
        Self { failures: 12, time: Duration::from_secs(3600), longest_wait: Duration::from_secs(60) }
    }
}

/// What to do next.
#[derive(Clone, Debug)]
pub enum Next {
    /// Decide again; the same provider may be chosen, not before `after` has passed.
    Same {
        /// The time that it asked for.
        after: Duration,
    },
    /// Decide again without this provider.
    Other,
    /// The attempt may be running: look for it again until `until` (milliseconds since 1970, UTC). Hand nothing over
    /// meanwhile.
    LookAgain {
        /// When it can no longer run.
        until: u64,
    },
    /// Give the job up.
    Stop(Error),
}

/// No task runs longer anywhere: RunPod's longest time to live is seven days (August 2026).
const LONGEST_LOOK: Duration = Duration::from_secs(7 * 86_400);

/// Says what to do after `failure`, given those before it. [`History::after`] also remembers it.
///
/// Nothing here waits or counts tries of a call: that is the wrapper's, and tries would multiply.
#[must_use]
pub fn after(failure: &Failure, history: &History, patience: &Patience) -> Next {
    let may_run_until = may_run_until(failure, history);
    if let Some(until) = may_run_until
        && failure.at < until
    {
        return Next::LookAgain { until };
    }
    if let Some(why) = poison::between(history.failures().chain([failure])) {
        return Next::Stop(poison::error(&why, failure));
    }
    if failure.error.retry() == Retry::Never {
        return Next::Stop(failure.error.clone().with_provider(&failure.provider));
    }
    let count = history.settled().count() + 1;
    let first = history.settled().map(|earlier| earlier.at).min().unwrap_or(failure.at);
    // Time that went into looking for this attempt was not spent on failing.
    let is_late = may_run_until.is_none() && failure.at.saturating_sub(first) >= millis(patience.time);
    if count >= patience.failures.max(1) || is_late {
        let key = if is_late { "router.patience.time" } else { "router.patience.failures" };
        return Next::Stop(all_failed(history, failure, count, key));
    }
    match failure.error.retry() {
        Retry::Same { after } if failure.of == Origin::Task => {
            let after = after.unwrap_or_default();
            let is_first = history.settled().all(|earlier| earlier.provider != failure.provider);
            if is_first && after <= patience.longest_wait { Next::Same { after } } else { Next::Other }
        }
        _ => Next::Other,
    }
}

/// When an attempt that was lost can no longer run; none where it isn't lost. The first report counts: the same bound
/// told again later would never end.
fn may_run_until(failure: &Failure, history: &History) -> Option<u64> {
    let until = |failure: &Failure| match failure.error.retry() {
        Retry::Unknown { until } => Some(failure.at.saturating_add(millis(until.min(LONGEST_LOOK)))),
        _ => None,
    };
    until(failure)?;
    history.failures().filter(|earlier| earlier.attempt == failure.attempt).chain([failure]).filter_map(until).min()
}

fn all_failed(history: &History, last: &Failure, count: usize, key: &str) -> Error {
    let count = crate::words::count(count as u64, "failure");
    let message = format!("the job is given up after {count} without a new checkpoint");
    let mut error = Error::new(ErrorKind::AllProvidersFailed, message);
    for failure in history.failures().chain([last]) {
        error = error.at(failure.provider.clone(), &failure.error);
    }
    if let Some(code) = shared_code(history.failures().chain([last])) {
        error = error.or_code(code);
    }
    error.hint(format!("mend one of the providers, then go on with `--resume`; `{key}` sets how long this goes on"))
}

/// The code of failures that all have the same one.
pub(crate) fn shared_code<'a>(failures: impl Iterator<Item = &'a Failure>) -> Option<Code> {
    let mut codes = failures.map(|failure| failure.error.code());
    let first = codes.next()?;
    codes.all(|code| code == first).then_some(first)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
