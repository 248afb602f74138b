//! A model planned for a batch size: its parameters, its ops, and buffers that are allocated once.

use std::collections::HashMap;

use outboard_core::{
    error::{Error, ErrorKind, Result},
    job::{Loss, Train},
    layer,
    task::Architecture,
};
use outboard_protocol::{Dataset, Target, Tensor, Tensors};
use rayon::prelude::*;

use crate::{
    loss::{self, LossSums, Targets},
    ops::{self, Op, Pass},
    optimizer::Update,
    parameters::Parameters,
};

/// How gradients become updates in one step.
#[derive(Clone, Copy, Debug)]
pub struct StepPlan {
    /// Optimizer step, from 0.
    pub step: u64,
    /// The job's seed.
    pub seed: u64,
    /// What is done with gradients; they are only kept if unset.
    pub update: Option<Update>,
    /// See [`Train::clip_norm`].
    pub clip_norm: Option<f64>,
    /// See [`Train::clip_value`].
    pub clip_value: Option<f64>,
}

/// A model with its parameters and buffers.
#[derive(Debug)]
pub struct Network {
    parameters: Parameters,
    ops: Vec<Box<dyn Op>>,
    /// Features of the batch, then the output of each op.
    activations: Vec<Vec<f32>>,
    /// Gradients, used in turn.
    slopes: [Vec<f32>; 2],
    /// Rows that the buffers hold.
    capacity: usize,
    input: usize,
    output: usize,
}

impl Network {
    /// A network with the given weights, for batches of up to `capacity` rows.
    ///
    /// # Errors
    /// `InvalidRequest` where the layers don't fit together, `CorruptPayload` where the weights don't fit the layers.
    pub fn new(model: &Architecture, weights: &Tensors, capacity: usize) -> Result<Self> {
        let plan = layer::plan(&model.layers, &model.input)?;
        let parameters = Parameters::new(&plan, weights)?;
        let ops = ops::build(&plan, &parameters);
        let input = model.input.iter().product();
        let output = ops.last().map_or(input, |op| op.width());
        let widths = || std::iter::once(input).chain(ops.iter().map(|op| op.width()));
        let bytes = widths().try_fold(0usize, |sum, width| sum.checked_add(width.checked_mul(capacity)?));
        if bytes.is_none_or(|n| n > isize::MAX as usize / 8) {
            return Err(Error::new(
                ErrorKind::OutOfMemory,
                format!("a batch of {capacity} rows does not fit in memory"),
            )
            .hint("use a smaller batch_size"));
        }
        let activations = widths().map(|width| vec![0.0; width * capacity]).collect();
        Ok(Self { parameters, ops, activations, slopes: [Vec::new(), Vec::new()], capacity, input, output })
    }

    /// Allocates what training needs: gradients and optimizer state.
    pub fn prepare_training(&mut self, train: &Train) {
        self.parameters.prepare_training(train);
        let widest = self.activations.iter().map(Vec::len).max().unwrap_or(0);
        self.slopes = [vec![0.0; widest], vec![0.0; widest]];
    }

    /// Outputs for one row.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.output
    }

    /// Rows that fit in one batch.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Copies rows into the input buffer.
    pub fn load(&mut self, data: &Dataset, rows: &[u32]) {
        let width = self.input;
        let copy = |(to, &row): (&mut [f32], &u32)| to.copy_from_slice(&data.x[row as usize * width..][..width]);
        let input = &mut self.activations[0][..rows.len() * width];
        if input.len() <= 1 << 14 {
            input.chunks_exact_mut(width).zip(rows).for_each(copy);
        } else {
            input.par_chunks_exact_mut(width).zip(rows).with_min_len(16).for_each(copy);
        }
    }

    /// Runs the rows that were loaded through the model; the outputs, row after row.
    pub fn forward(&mut self, rows: usize, training: Option<&StepPlan>) -> &[f32] {
        let pass = Pass {
            rows,
            training: training.is_some(),
            seed: training.map_or(0, |plan| plan.seed),
            step: training.map_or(0, |plan| plan.step),
        };
        for (i, op) in self.ops.iter().enumerate() {
            let (before, after) = self.activations.split_at_mut(i + 1);
            let (x, y) = (&before[i], &mut after[0]);
            let width = x.len() / self.capacity;
            op.forward(pass, &self.parameters, &x[..rows * width], &mut y[..rows * op.width()]);
        }
        &self.activations[self.ops.len()][..rows * self.output]
    }

    /// One training step on the rows that were loaded. The loss is that before the update.
    ///
    /// # Errors
    /// `JobFailed` where the loss is not a finite number; nothing was updated then.
    pub fn step(&mut self, rows: usize, loss: &Loss, targets: Targets<'_>, plan: &StepPlan) -> Result<LossSums> {
        self.forward(rows, Some(plan));
        let output = &self.activations[self.ops.len()][..rows * self.output];
        let [mut dy, mut dx] = std::mem::take(&mut self.slopes);
        let sums = loss::evaluate(loss, self.output, output, targets, Some(&mut dy[..rows * self.output]));
        if sums.mean().is_finite() {
            let clipping = plan.clip_norm.is_some() || plan.clip_value.is_some();
            self.parameters.update = if clipping { None } else { plan.update };
            let pass = Pass { rows, training: true, seed: plan.seed, step: plan.step };
            let first = self.ops.iter().position(|op| op.is_trained(&self.parameters)).unwrap_or(self.ops.len());
            for (i, op) in self.ops.iter().enumerate().skip(first).rev() {
                let (before, after) = (&self.activations[i], &self.activations[i + 1]);
                let width = before.len() / self.capacity;
                let below = (i > first).then(|| &mut dx[..rows * width]);
                let (x, y) = (&before[..rows * width], &after[..rows * op.width()]);
                op.backward(pass, &mut self.parameters, x, y, &mut dy[..rows * op.width()], below);
                std::mem::swap(&mut dy, &mut dx);
            }
            if let (true, Some(update)) = (clipping, plan.update) {
                self.parameters.update_clipped(update, plan.clip_norm, plan.clip_value);
            }
        }
        self.slopes = [dy, dx];
        match sums.mean().is_finite() {
            true => Ok(sums),
            false => Err(Error::new(ErrorKind::JobFailed, format!("the loss became {}", sums.mean()))),
        }
    }

    /// Loss sums over a whole data set, dropout off.
    pub fn evaluate(&mut self, data: &Dataset, loss: &Loss) -> LossSums {
        let mut sums = LossSums::default();
        let rows: Vec<u32> = (0..data.rows() as u32).collect();
        for part in rows.chunks(self.capacity) {
            self.load(data, part);
            let outputs = self.output;
            let y = self.forward(part.len(), None);
            let from = part[0] as usize;
            sums.add(match &data.y {
                Target::Classes(classes) => {
                    loss::evaluate(loss, outputs, y, Targets::Classes(&classes[from..][..part.len()]), None)
                }
                Target::Values { outputs, values } => loss::evaluate(
                    loss,
                    *outputs,
                    y,
                    Targets::Values(&values[from * outputs..][..part.len() * outputs]),
                    None,
                ),
                Target::None => LossSums::default(),
            });
        }
        sums
    }

    /// The weights, by state-dict name.
    pub fn weights(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.parameters.weights()
    }

    /// The gradients of the trained parameters, where the last step kept them.
    pub fn gradients(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.parameters.gradients()
    }

    /// The optimizer's state of the trained parameters, named `NAME.KEY` with PyTorch's name of the state.
    pub fn optimizer_state(&self, train: &Train) -> impl Iterator<Item = (String, Tensor)> {
        self.parameters.optimizer_state(train)
    }

    /// Sets the optimizer's state from the tensors of a checkpoint, named `NAME.KEY`.
    ///
    /// # Errors
    /// `CorruptPayload` where one is missing or has another shape.
    pub fn set_optimizer_state<'a>(
        &mut self,
        train: &Train,
        tensors: impl Iterator<Item = (&'a str, &'a Tensor)>,
    ) -> Result<()> {
        let tensors: HashMap<_, _> = tensors.collect();
        self.parameters.set_optimizer_state(train, |name| tensors.get(name).copied())
    }
}
