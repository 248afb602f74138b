//! Follows a task.

use std::{future::pending, time::Duration};

use outboard_core::{
    ComputeProvider, ComputeProviderExt, Error, Event, Result, Task, TaskId,
    task::{Checkpoint, Ended, Outcome, Phase, Revision},
};

use crate::suite::{Checked, Stop};

/// What is known of a task so far.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    provider: &'a dyn ComputeProvider,
    id: &'a TaskId,
    pub(crate) revision: Revision,
    pub(crate) phase: Phase,
    pub(crate) events: Vec<Event>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(provider: &'a dyn ComputeProvider, id: &'a TaskId) -> Self {
        Self { provider, id, revision: Revision::default(), phase: Phase::Queued, events: Vec::new() }
    }

    /// Follows the task until `enough`; the case's deadline bounds it.
    async fn until(mut self, enough: impl Fn(&Self) -> bool) -> Result<Self> {
        while !enough(&self) {
            let state = self.provider.wait(self.id, self.revision, Duration::from_secs(5)).await?;
            self.revision = state.revision;
            self.phase = state.phase;
            self.events.extend(state.events);
        }
        Ok(self)
    }

    /// Until it is under way: until something happened, where the provider reports that.
    pub(crate) async fn until_running(self) -> Checked<Self> {
        let reports = self.provider.capabilities().reports_progress;
        let running = |watch: &Self| matches!(watch.phase, Phase::Running) && (!reports || !watch.events.is_empty());
        let watch = self.until(|watch| watch.phase.is_final() || running(watch)).await?;
        match &watch.phase {
            Phase::Running => Ok(watch),
            ended => Err(Stop::Failed(format!("a task that has much to do was never seen running: {ended:?}"))),
        }
    }

    pub(crate) async fn until_end(self) -> Result<Self> {
        self.until(|watch| watch.phase.is_final()).await
    }

    /// The checkpoint and the reason of training that ended with an outcome.
    pub(crate) fn trained(&self) -> Checked<(Checkpoint, Ended)> {
        match &self.phase {
            Phase::Finished(outcome) => trained(outcome),
            other => Err(Stop::Failed(format!("instead of an outcome: {other:?}"))),
        }
    }
}

/// The checkpoint and the reason of training.
pub(crate) fn trained(outcome: &Outcome) -> Checked<(Checkpoint, Ended)> {
    match outcome {
        Outcome::Train { checkpoint, ended } => Ok((*checkpoint, *ended)),
        other => Err(Stop::Failed(format!("instead of the outcome of training: {other:?}"))),
    }
}

/// Runs a task to its end.
pub(crate) async fn run(provider: &dyn ComputeProvider, task: &Task) -> Result<(Outcome, Vec<Event>)> {
    let mut events = Vec::new();
    let outcome = provider.run(task, pending(), |event| events.push(event)).await?;
    Ok((outcome, events))
}

/// The error of a task that must not succeed.
pub(crate) async fn failure(provider: &dyn ComputeProvider, task: &Task) -> Checked<Error> {
    match run(provider, task).await {
        Err(error) => Ok(error),
        Ok((outcome, _)) => Err(Stop::Failed(format!("instead of an error: {outcome:?}"))),
    }
}
