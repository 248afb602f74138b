//! What a training run computes with: the CPU's ops, or another library's on a GPU. Loop, order, schedules, metrics,
//! checkpoints and early stopping are the engine's own either way.

use std::{fmt::Debug, ops::Range};

use outboard_core::{
    Environment,
    error::Result,
    job::{Loss, Train},
    task::Architecture,
};
use outboard_protocol::{Dataset, Tensors};

use crate::{loss::LossSums, network::StepPlan};

/// Makes models that compute on one device.
pub trait Kernels: Debug {
    /// A model with its weights, on the device.
    type Model: Model;

    /// The class within which bytes are equal.
    fn numerics(&self) -> &str;

    /// States what is known here beyond what the machine tells: the device, the libraries.
    fn describe(&self, found: &mut Environment);

    /// A model with the given weights, for up to `rows` rows at a time.
    ///
    /// # Errors
    /// `InvalidRequest` where the layers don't fit together, `CorruptPayload` where the weights don't fit the layers,
    /// `OutOfMemory`.
    fn model(&self, architecture: &Architecture, weights: &Tensors, rows: usize) -> Result<Self::Model>;
}

/// One training step.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// Places in the order of the epoch whose rows are trained on.
    pub places: Range<usize>,
    /// The epoch, from 0.
    pub epoch: u32,
    /// The job's hyperparameters.
    pub train: &'a Train,
    /// What is done with the gradients.
    pub plan: StepPlan,
}

/// What some steps came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepSums {
    /// The batch loss of each step, in order.
    pub losses: Vec<f64>,
    /// Right answers of all of them.
    pub correct: u64,
}

/// A model with its weights, on a device. A device may lag behind: what a step came to is known once it is asked for.
pub trait Model: Debug {
    /// Rows and targets where the device finds them.
    type Data: Debug;

    /// Brings a data set to the device. It was checked against the model.
    ///
    /// # Errors
    /// `OutOfMemory`.
    fn place(&self, data: Dataset) -> Result<Self::Data>;

    /// Allocates what training needs, with the optimizer's state from tensors named `NAME.KEY` where there are some.
    ///
    /// # Errors
    /// `CorruptPayload` where one is missing or has another shape; `OutOfMemory`.
    fn prepare_training(&mut self, train: &Train, state: Option<&Tensors>) -> Result<()>;

    /// Sets the order in which the rows of an epoch are taken.
    ///
    /// # Errors
    /// `OutOfMemory`.
    fn begin_epoch(&mut self, order: Vec<u32>) -> Result<()>;

    /// One training step.
    ///
    /// # Errors
    /// `JobFailed` where the loss is known not to be a finite number; `OutOfMemory`.
    fn step(&mut self, data: &Self::Data, step: &Step<'_>) -> Result<()>;

    /// What the steps since the last call came to. Waits for the device.
    ///
    /// # Errors
    /// Those of the steps.
    fn sums(&mut self) -> Result<StepSums>;

    /// Loss sums over a whole data set, dropout off; each row counts the same.
    ///
    /// # Errors
    /// `OutOfMemory`.
    fn evaluate(&mut self, data: &Self::Data, loss: &Loss) -> Result<LossSums>;

    /// Outputs for some rows, row after row, dropout off.
    ///
    /// # Errors
    /// `OutOfMemory`.
    fn predict(&mut self, data: &Self::Data, rows: Range<usize>) -> Result<Vec<f32>>;

    /// The weights, by state-dict name.
    ///
    /// # Errors
    /// Those of steps that the device has yet to make.
    fn weights(&self) -> Result<Tensors>;

    /// The optimizer's state of the trained parameters, named `NAME.KEY`.
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    fn optimizer_state(&self, train: &Train) -> Result<Tensors>;
}
