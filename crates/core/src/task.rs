//! One request to one provider, its events and its outcome.

use std::{fmt, ops::AddAssign, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    blob::Digest,
    environment::Environment,
    error::{Error, ErrorKind, Result, Retry},
    job::{Loss, Train},
    layer::Layer,
};

/// Names a task on the provider that accepted it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub String);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One request to one provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Names the task for ever, across attempts and providers.
    pub key: String,
    /// The job it belongs to.
    pub job: String,
    /// The try that this is; unique.
    pub attempt: String,
    /// What to do.
    pub operation: Operation,
    /// Longest time from its start to its end. A worker stops training then, with a checkpoint, and ends the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Duration>,
}

/// What a worker is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Operation {
    /// Go on from one checkpoint to the next.
    Train(Box<TrainTask>),
    /// Loss and accuracy of a model on data.
    Evaluate(EvaluateTask),
    /// Outputs of a model on data.
    Predict(PredictTask),
    /// What the place is like where tasks run. It needs no blobs, and a worker that is older than it refuses.
    Describe,
}

impl Operation {
    /// Its name.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        match self {
            Self::Train(_) => OperationKind::Train,
            Self::Evaluate(_) => OperationKind::Evaluate,
            Self::Predict(_) => OperationKind::Predict,
            Self::Describe => OperationKind::Describe,
        }
    }

    /// The blobs that must be there before it starts.
    #[must_use]
    pub fn needs(&self) -> Vec<Digest> {
        match self {
            Self::Train(task) => [task.data, task.checkpoint].into_iter().chain(task.validation).collect(),
            Self::Evaluate(task) => vec![task.data, task.weights],
            Self::Predict(task) => vec![task.data, task.weights],
            Self::Describe => Vec::new(),
        }
    }

    /// The model that it runs, if it runs one.
    #[must_use]
    pub fn model(&self) -> Option<&Architecture> {
        match self {
            Self::Train(task) => Some(&task.model),
            Self::Evaluate(task) => Some(&task.model),
            Self::Predict(task) => Some(&task.model),
            Self::Describe => None,
        }
    }
}

/// Names of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// See [`Operation::Train`].
    Train,
    /// See [`Operation::Evaluate`].
    Evaluate,
    /// See [`Operation::Predict`].
    Predict,
    /// See [`Operation::Describe`].
    Describe,
}

impl OperationKind {
    /// Every operation.
    pub const ALL: [Self; 4] = [Self::Train, Self::Evaluate, Self::Predict, Self::Describe];
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Evaluate => "evaluate",
            Self::Predict => "predict",
            Self::Describe => "describe",
        })
    }
}

/// The model that a task runs: layers, and the shape of one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// Shape of one sample.
    pub input: Vec<usize>,
}

/// A run of epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainTask {
    /// The model.
    pub model: Architecture,
    /// The hyperparameters of the whole job.
    pub train: Train,
    /// Training rows.
    pub data: Digest,
    /// Held-out rows.
    pub validation: Option<Digest>,
    /// Where to go on from.
    pub checkpoint: Digest,
    /// Completed epochs at which this task ends, counted from the start of the job.
    pub until_epoch: u32,
    /// Time between two checkpoints on the way; they fall on the end of a batch.
    pub checkpoint_every: Duration,
}

/// Loss and accuracy of a model on data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluateTask {
    /// The model.
    pub model: Architecture,
    /// Its weights: a model file or a checkpoint.
    pub weights: Digest,
    /// The rows.
    pub data: Digest,
    /// What is measured.
    pub loss: Loss,
}

/// Outputs of a model on data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictTask {
    /// The model.
    pub model: Architecture,
    /// Its weights: a model file or a checkpoint.
    pub weights: Digest,
    /// The rows.
    pub data: Digest,
}

/// What happens while a task runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// Sent a few times a second.
    Progress(Progress),
    /// An epoch is complete.
    Epoch(Epoch),
    /// A checkpoint is in the store. One that a newer one has overtaken may be left out.
    Checkpoint(Checkpoint),
    /// Something the user should know.
    Warning {
        /// One sentence.
        message: String,
    },
}

/// How far an epoch has come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The running epoch, from 1.
    pub epoch: u32,
    /// Batches done of it.
    pub step: u64,
    /// Batches in it.
    pub steps: u64,
    /// Mean loss of the epoch so far.
    pub loss: f64,
    /// Training rows per second lately.
    pub samples_per_second: f64,
    /// Expected time to the end of the job.
    pub eta_seconds: f64,
}

/// A completed epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number, from 1.
    pub epoch: u32,
    /// Loss over the training rows, as they were trained.
    pub loss: f64,
    /// Share of right answers over the training rows, where the loss has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Loss over the held-out rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// Share of right answers over the held-out rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_accuracy: Option<f64>,
    /// Learning rate of its last step.
    pub learning_rate: f64,
    /// Its wall time, validation included; of the part run by this task, if it began elsewhere.
    pub seconds: f64,
    /// Training rows per second.
    pub samples_per_second: f64,
}

/// A checkpoint in the store.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its blob.
    pub digest: Digest,
    /// Completed epochs.
    pub epoch: u32,
    /// Batches done of the running epoch.
    pub step_in_epoch: u64,
}

impl Checkpoint {
    /// How far it is: completed epochs, and batches of the running one.
    #[must_use]
    pub fn at(&self) -> (u32, u64) {
        (self.epoch, self.step_in_epoch)
    }
}

/// What a task came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Outcome {
    /// Training ended, or was stopped.
    Train {
        /// Where it stands.
        checkpoint: Checkpoint,
        /// Why it ended there.
        ended: Ended,
    },
    /// The metrics.
    Evaluate(Metrics),
    /// The outputs.
    Predict {
        /// A blob: a safetensors file with the tensor `outputs`, f32 `[rows, ...]`.
        outputs: Digest,
    },
    /// What the place is like.
    Describe(Environment),
}

impl Outcome {
    /// What a task came to that was stopped because its time was up.
    ///
    /// # Errors
    /// `Timeout` where it has no checkpoint to go on from; the task's own error.
    pub fn at_limit(stopped: Result<Self>, limit: Duration) -> Result<Self> {
        match stopped {
            Ok(Self::Train { checkpoint, ended: Ended::Cancelled }) => {
                Ok(Self::Train { checkpoint, ended: Ended::Limit })
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => {
                let message = format!("the task was ended after its limit of {limit:?}");
                Err(Error::new(ErrorKind::Timeout, message).with_retry(Retry::Other))
            }
            other => other,
        }
    }

    /// The blob that it names, if it names one.
    #[must_use]
    pub fn blob(&self) -> Option<Digest> {
        match self {
            Self::Train { checkpoint, .. } => Some(checkpoint.digest),
            Self::Predict { outputs } => Some(*outputs),
            Self::Evaluate(_) | Self::Describe(_) => None,
        }
    }
}

/// Why a training task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It reached its last epoch.
    Complete,
    /// The monitored loss no longer improved.
    EarlyStopping,
    /// It was cancelled; the checkpoint may lie within an epoch.
    Cancelled,
    /// Its time was up; the checkpoint may lie within an epoch.
    Limit,
}

/// Loss and accuracy over some rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean loss.
    pub loss: f64,
    /// Share of right answers, where the loss has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Rows.
    pub rows: u64,
}

/// Where a task's time went, in seconds; zero where a phase doesn't apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timings {
    /// Waiting for its turn.
    pub queue: f64,
    /// Starting a task process.
    pub boot: f64,
    /// Blobs to the worker.
    pub download: f64,
    /// Decoding them, planning the model.
    pub load: f64,
    /// Training, evaluating, predicting.
    pub compute: f64,
    /// Blobs from the worker.
    pub upload: f64,
}

/// What an ended task used, as far as its provider knows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Where the time went.
    pub timings: Timings,
    /// Time that the provider bills, where it measures that itself.
    pub billed: Option<Duration>,
    /// Bytes that went to the provider.
    pub bytes_down: u64,
    /// Bytes that came back.
    pub bytes_up: u64,
}

impl Usage {
    /// What a task used of which only this is known.
    #[must_use]
    pub fn timed(timings: Timings) -> Self {
        Self { timings, ..Self::default() }
    }
}

impl AddAssign for Timings {
    fn add_assign(&mut self, other: Self) {
        self.queue += other.queue;
        self.boot += other.boot;
        self.download += other.download;
        self.load += other.load;
        self.compute += other.compute;
        self.upload += other.upload;
    }
}

impl Timings {
    /// From the start to the end: all but the wait for a turn.
    #[must_use]
    pub fn running(&self) -> Duration {
        let seconds = self.boot + self.download + self.load + self.compute + self.upload;
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

/// How new a [`TaskState`] is. Opaque; belongs to one provider instance. Zero means nothing seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// What a provider knows of a task.
#[derive(Clone, Debug)]
pub struct TaskState {
    /// How new this is.
    pub revision: Revision,
    /// Where the task stands.
    pub phase: Phase,
    /// What happened since the revision that was asked from.
    pub events: Vec<Event>,
    /// What it used, once it has ended and where the provider can tell.
    pub usage: Option<Usage>,
}

/// Where a task stands.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Accepted, not started.
    Queued,
    /// Running.
    Running,
    /// Ended with an outcome.
    Finished(Outcome),
    /// Ended with an error.
    Failed(Error),
    /// Stopped before it had an outcome.
    Cancelled,
}

impl TaskState {
    /// What the task came to.
    ///
    /// # Errors
    /// The task's own error; `Cancelled` where it was stopped before it had an outcome, `Unexpected` where it hasn't
    /// ended.
    pub fn outcome(self) -> Result<Outcome> {
        match self.phase {
            Phase::Finished(outcome) => Ok(outcome),
            Phase::Failed(error) => Err(error),
            Phase::Cancelled => Err(Error::new(ErrorKind::Cancelled, "the task was cancelled")),
            Phase::Queued | Phase::Running => Err(Error::new(ErrorKind::Unexpected, "the task has not ended")),
        }
    }
}

impl Phase {
    /// Whether it will change no more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}
