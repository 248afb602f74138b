//! Whatever runs a task to its end.

use std::future::Future;

use outboard_core::Event;
use outboard_protocol::{Envelope, TaskResult};

use crate::Supervisor;

/// Runs tasks: a [`Supervisor`] in a process of their own, or on AWS Lambda threads of this one.
pub trait Runner: Sync {
    /// Runs a task to its end, handing events to `observe`. When `stop` completes, training stops after the batch, with a
    /// checkpoint. Whatever goes wrong is a result that says so.
    fn run<S, O>(&self, envelope: &Envelope, stop: S, observe: O) -> impl Future<Output = TaskResult> + Send
    where
        S: Future<Output = ()> + Send,
        O: FnMut(Event) + Send;
}

impl Runner for Supervisor {
    fn run<S, O>(&self, envelope: &Envelope, stop: S, observe: O) -> impl Future<Output = TaskResult> + Send
    where
        S: Future<Output = ()> + Send,
        O: FnMut(Event) + Send,
    {
        Supervisor::run(self, envelope, stop, observe)
    }
}
