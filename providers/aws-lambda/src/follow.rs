//! What is known of one task.

use std::time::Duration;

use outboard_core::error::Error;
use outboard_store::Following;
use tokio::sync::{Mutex, Notify};

use crate::{connection::Answer, task_name::TaskName};

/// A task, shared by whoever waits for it and by its invocation.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) state: Mutex<Follow>,
    /// Something is to be looked at.
    pub(crate) news: Notify,
    /// It needs no turn any more.
    pub(crate) dropped: Notify,
}

impl Followed {
    pub(crate) fn new(follow: Follow) -> Self {
        Self { state: Mutex::new(follow), news: Notify::new(), dropped: Notify::new() }
    }
}

#[derive(Debug)]
pub(crate) struct Follow {
    pub(crate) name: TaskName,
    pub(crate) task: Following,
    /// What came of the invocation, until that was looked at.
    pub(crate) answer: Option<Answer>,
    /// Only the bucket tells of it: another client invoked it, or the reply was lost.
    pub(crate) is_elsewhere: bool,
    /// The reply was lost, and nothing else tells of it.
    pub(crate) lost: Option<Error>,
    /// How long it waited for its turn.
    pub(crate) queued: Duration,
    pub(crate) bytes_down: u64,
}

impl Follow {
    pub(crate) fn new(name: TaskName, longest: Duration) -> Self {
        Self {
            task: Following::new(&name.key, &name.attempt, longest),
            name,
            answer: None,
            is_elsewhere: false,
            lost: None,
            queued: Duration::ZERO,
            bytes_down: 0,
        }
    }

    /// One that only the bucket tells of.
    pub(crate) fn elsewhere(name: TaskName, longest: Duration) -> Self {
        Self { is_elsewhere: true, ..Self::new(name, longest) }
    }

    /// Whether it waits for its turn here.
    pub(crate) fn waits(&self) -> bool {
        self.task.is_queued() && !self.is_elsewhere
    }
}
