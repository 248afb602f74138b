//! The failures of a job since its last checkpoint.

use outboard_core::{ErrorKind, Retry};

use crate::{
    Reason,
    failure::{Failure, Next, Patience, after},
    poison,
};

/// The failures of a job since its last checkpoint.
#[derive(Clone, Debug, Default)]
pub struct History {
    entries: Vec<Entry>,
}

/// Whether the same provider may do better later: workers crash, networks fail, machines are taken away.
fn may_pass(failure: &Failure) -> bool {
    use ErrorKind::*;
    let kind = failure.error.kind();
    match failure.error.retry() {
        Retry::Never => false,
        Retry::Same { .. } | Retry::Unknown { .. } => true,
        Retry::Other => {
            matches!(
                kind,
                WorkerUnhealthy | OutOfMemory | CapacityUnavailable | RateLimited | Unavailable | Timeout | Preempted
            )
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    failure: Failure,
    /// Whether its provider is left alone from then on.
    left: bool,
    /// Whether the attempt may have been running.
    lost: bool,
}

impl History {
    /// Says what to do after `failure`, and remembers it.
    pub fn after(&mut self, failure: Failure, patience: &Patience) -> Next {
        let next = after(&failure, self, patience);
        let lost = matches!(next, Next::LookAgain { .. });
        let known = |entry: &Entry| entry.lost && entry.failure.attempt == failure.attempt;
        if !(lost && self.entries.iter().any(known)) {
            self.entries.push(Entry { failure, left: matches!(next, Next::Other | Next::Stop(_)), lost });
        }
        next
    }

    /// Gives another chance to providers that were left for what may pass, for when no other one is left; whether there
    /// are any. Their failures still count. A task process that died twice in the same way at the same step would die
    /// again.
    pub fn forgive(&mut self) -> bool {
        let deaths = |failure: &Failure| self.failures().filter(|other| poison::is_same_death(other, failure)).count();
        let forgiven: Vec<usize> = (0..self.entries.len())
            .filter(|&index| self.entries[index].left && may_pass(&self.entries[index].failure))
            .filter(|&index| deaths(&self.entries[index].failure) < 2)
            .collect();
        forgiven.iter().for_each(|&index| self.entries[index].left = false);
        !forgiven.is_empty()
    }

    /// A new checkpoint: what failed before it no longer counts.
    pub fn progressed(&mut self) {
        self.entries.clear();
    }

    /// Whether nothing failed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The failures, oldest first. An attempt that was looked for several times is there once for that.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.entries.iter().map(|entry| &entry.failure)
    }

    /// Providers that may not have the next task, for [`Demand::excluded`](crate::Demand::excluded).
    #[must_use]
    pub fn excluded(&self) -> Vec<(String, Reason)> {
        let mut excluded: Vec<(String, Reason)> = Vec::new();
        for Entry { failure, .. } in self.entries.iter().filter(|entry| entry.left).rev() {
            if excluded.iter().all(|(provider, _)| *provider != failure.provider) {
                excluded.push((failure.provider.clone(), Reason::Failed(failure.error.to_string())));
            }
        }
        excluded
    }

    /// Why the job would fail anywhere, for [`Demand::poisoned`](crate::Demand::poisoned).
    #[must_use]
    pub fn poison(&self) -> Option<String> {
        poison::between(self.failures())
    }

    /// Failures of attempts that certainly no longer run, oldest first.
    pub(crate) fn settled(&self) -> impl Iterator<Item = &Failure> {
        self.entries.iter().filter(|entry| !entry.lost).map(|entry| &entry.failure)
    }
}
