//! What is known of one task.

use std::time::Duration;

use outboard_core::{
    error::Error,
    task::{Phase, Usage},
};
use outboard_store::Following;
use tokio::time::Instant;

use crate::{api::Job, diagnosis::Watch, job_id::JobId};

/// What starts or ends within this time is nothing to ask the endpoint's health about.
const GLANCE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Follow {
    pub(crate) id: JobId,
    pub(crate) task: Following,
    /// What `runsync` answered: as good as the first look.
    pub(crate) answered: Option<Job>,
    /// Another job than ours runs the task.
    pub(crate) is_elsewhere: bool,
    /// It was handed over twice: another job of it is turned away at the lease, and paid for.
    pub(crate) is_twice: bool,
    /// Since when it is being cancelled.
    pub(crate) cancelling: Option<Instant>,
    pub(crate) watch: Watch,
    /// When the endpoint's health is to be looked at.
    pub(crate) health_at: Instant,
    /// Since when no worker of the endpoint runs, though the task does.
    pub(crate) lost: Option<Instant>,
    pub(crate) bytes_down: u64,
}

impl Follow {
    pub(crate) fn new(id: JobId, left: Duration) -> Self {
        Self {
            task: Following::new(&id.key, &id.attempt, left),
            id,
            answered: None,
            is_elsewhere: false,
            is_twice: false,
            cancelling: None,
            watch: Watch::default(),
            health_at: Instant::now() + GLANCE,
            lost: None,
            bytes_down: 0,
        }
    }

    pub(crate) fn fail(&mut self, error: Error, usage: Option<Usage>) {
        let error = self.locate(error);
        self.task.end(Phase::Failed(error), usage);
    }

    /// Adds where it happened.
    pub(crate) fn locate(&self, error: Error) -> Error {
        let error = error.with_provider("runpod").at("endpoint", &self.id.endpoint);
        match &self.id.job {
            Some(job) => error.at("RunPod job", job),
            None => error,
        }
    }
}
