//! One request to one provider, its events and its outcome.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    blob::Digest,
    error::Error,
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
}

impl Operation {
    /// Its name.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        match self {
            Self::Train(_) => OperationKind::Train,
            Self::Evaluate(_) => OperationKind::Evaluate,
            Self::Predict(_) => OperationKind::Predict,
        }
    }

    /// The blobs that must be there before it starts.
    #[must_use]
    pub fn needs(&self) -> Vec<Digest> {
        match self {
            Self::Train(task) => [task.data, task.checkpoint].into_iter().chain(task.validation).collect(),
            Self::Evaluate(task) => vec![task.data, task.weights],
            Self::Predict(task) => vec![task.data, task.weights],
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
    /// A checkpoint is in the store.
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
}

impl Outcome {
    /// The blob that it names, if it names one.
    #[must_use]
    pub fn blob(&self) -> Option<Digest> {
        match self {
            Self::Train { checkpoint, .. } => Some(checkpoint.digest),
            Self::Predict { outputs } => Some(*outputs),
            Self::Evaluate(_) => None,
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

impl Phase {
    /// Whether it will change no more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}
