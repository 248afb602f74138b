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
    /// Its job isn't known: only the bucket tells of it.
    pub(crate) is_elsewhere: bool,
    /// Since when it is being cancelled.
    pub(crate) cancelling: Option<Instant>,
    /// Since when it is known to run.
    pub(crate) running: Option<Instant>,
    /// It waited while no worker was ready: for a start, not for its turn.
    pub(crate) is_cold: bool,
    /// Why it is given up, where that isn't confirmed yet.
    pub(crate) given_up: Option<Error>,
    pub(crate) watch: Watch,
    /// When the endpoint's health is to be looked at.
    pub(crate) health_at: Instant,
    /// Since when no worker of the endpoint runs, though the task does; or nothing says that the task is there.
    pub(crate) lost: Option<Instant>,
    pub(crate) bytes_down: u64,
}

impl Follow {
    pub(crate) fn new(id: JobId, left: Duration) -> Self {
        Self {
            task: Following::new(&id.key, &id.attempt, left),
            is_elsewhere: id.job.is_none(),
            id,
            answered: None,
            cancelling: None,
            running: None,
            is_cold: false,
            given_up: None,
            watch: Watch::default(),
            health_at: Instant::now() + GLANCE,
            lost: None,
            bytes_down: 0,
        }
    }

    /// A worker has it.
    pub(crate) fn runs(&mut self) {
        self.running.get_or_insert_with(Instant::now);
        self.task.runs();
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
