//! A model planned for a batch size: its parameters, its ops, and buffers that are allocated once.

use std::ops::Range;

use outboard_core::{
    error::{Error, ErrorKind, Result},
    job::{Loss, Train},
    layer::{self, Planned},
    task::Architecture,
};
use outboard_protocol::{Dataset, Target, Tensor, Tensors};
use rayon::prelude::*;

use crate::{
    loss::{self, LossSums, Targets},
    ops::{self, Op, Pass},
    optimizer::{Update, clip_factor, state_names},
};

/// Where a parameter tensor lies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slot {
    index: usize,
}

/// All parameters, their gradients and their optimizer state, each in one allocation.
#[derive(Debug)]
pub(crate) struct Parameters {
    layout: Vec<(layer::Parameter, Range<usize>)>,
    values: Vec<f32>,
    gradients: Vec<f32>,
    /// State tensors of the optimizer: none, one or two.
    state: [Vec<f32>; 2],
    trained: Vec<bool>,
    /// Applied as soon as a gradient is known; without it gradients are only kept.
    update: Option<Update>,
}

impl Parameters {
    fn new(plan: &[Planned], tensors: &Tensors) -> Result<Self> {
        let mut layout = Vec::new();
        let mut values = Vec::new();
        for parameter in plan.iter().flat_map(|l| &l.parameters) {
            let missing = |what: String| Error::new(ErrorKind::CorruptPayload, what);
            let tensor = tensors
                .get(&parameter.name)
                .ok_or_else(|| missing(format!("the weights lack the tensor `{}`", parameter.name)))?;
            if tensor.shape != parameter.shape {
                let (name, found, right) = (&parameter.name, &tensor.shape, &parameter.shape);
                return Err(missing(format!(
                    "tensor `{name}` of the weights is {found:?}, but the model needs {right:?}"
                )));
            }
            let start = values.len();
            values.extend_from_slice(&tensor.data);
            layout.push((parameter.clone(), start..values.len()));
        }
        let trained = vec![false; layout.len()];
        Ok(Self { layout, values, gradients: Vec::new(), state: [Vec::new(), Vec::new()], trained, update: None })
    }

    /// The slot of a parameter that the plan named.
    pub(crate) fn slot(&self, name: &str) -> Slot {
        Slot { index: self.layout.iter().position(|(p, _)| p.name == name).unwrap_or_default() }
    }

    pub(crate) fn values(&self, slot: Slot) -> &[f32] {
        &self.values[self.layout[slot.index].1.clone()]
    }

    pub(crate) fn is_trained(&self, slot: Slot) -> bool {
        self.trained[slot.index]
    }

    /// Computes the gradient of a trained parameter in blocks of `block` elements, `fill(index, gradient)` each, over
    /// threads, and applies the update to each block while it is in cache.
    pub(crate) fn update(&mut self, slot: Slot, block: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
        if !self.trained[slot.index] {
            return;
        }
        let range = self.layout[slot.index].1.clone();
        let update = self.update;
        let blocks = Self::blocks(&mut self.values, &mut self.gradients, &mut self.state, range, block);
        let run = |(index, part): (usize, Block<'_>)| {
            fill(index, part.gradient);
            if let Some(update) = update {
                part.apply(update);
            }
        };
        if blocks.len() == 1 {
            blocks.into_iter().enumerate().for_each(run);
        } else {
            blocks.into_par_iter().enumerate().with_max_len(1).for_each(run);
        }
    }

    fn blocks<'a>(
        values: &'a mut [f32],
        gradients: &'a mut [f32],
        [first, second]: &'a mut [Vec<f32>; 2],
        range: Range<usize>,
        block: usize,
    ) -> Vec<Block<'a>> {
        let part = |state: &'a mut Vec<f32>| {
            let range = if state.is_empty() { 0..0 } else { range.clone() };
            state[range].chunks_mut(block)
        };
        let (mut first, mut second) = (part(first), part(second));
        let weights = values[range.clone()].chunks_mut(block);
        let gradients = gradients[range.clone()].chunks_mut(block);
        weights
            .zip(gradients)
            .map(|(weights, gradient)| Block {
                weights,
                gradient,
                first: first.next().unwrap_or_default(),
                second: second.next().unwrap_or_default(),
            })
            .collect()
    }

    /// Clips all gradients and applies the update to all trained parameters.
    fn update_clipped(&mut self, update: Update, clip_norm: Option<f64>, clip_value: Option<f64>) {
        let trained: Vec<_> =
            self.layout.iter().zip(&self.trained).filter(|(_, t)| **t).map(|((_, r), _)| r.clone()).collect();
        if let Some(limit) = clip_value {
            let limit = limit as f32;
            for range in &trained {
                self.gradients[range.clone()].iter_mut().for_each(|g| *g = g.clamp(-limit, limit));
            }
        }
        if let Some(limit) = clip_norm {
            let squares =
                |range: &Range<usize>| self.gradients[range.clone()].iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
            let factor = clip_factor(limit, trained.iter().map(squares).sum::<f64>().sqrt());
            for range in &trained {
                self.gradients[range.clone()].iter_mut().for_each(|g| *g *= factor);
            }
        }
        for range in trained {
            let blocks = Self::blocks(&mut self.values, &mut self.gradients, &mut self.state, range, 1 << 14);
            blocks.into_par_iter().for_each(|part| part.apply(update));
        }
    }

    fn tensors<'a>(&'a self, data: &'a [f32], trained_only: bool) -> impl Iterator<Item = (&'a str, Tensor)> {
        let kept = self.layout.iter().zip(&self.trained).filter(move |(_, trained)| **trained || !trained_only);
        kept.map(|((p, range), _)| {
            (p.name.as_str(), Tensor { shape: p.shape.clone(), data: data[range.clone()].to_vec() })
        })
    }
}

struct Block<'a> {
    weights: &'a mut [f32],
    gradient: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Block<'_> {
    fn apply(self, update: Update) {
        update.apply(self.weights, self.gradient, self.first, self.second);
    }
}

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
        let Parameters { layout, trained, gradients, state, values, .. } = &mut self.parameters;
        *trained = layout.iter().map(|(p, _)| !train.is_frozen(&p.name)).collect();
        *gradients = vec![0.0; values.len()];
        for (tensor, _) in state.iter_mut().zip(state_names(&train.optimizer)) {
            *tensor = vec![0.0; values.len()];
        }
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
        self.parameters.tensors(&self.parameters.values, false)
    }

    /// The gradients of the trained parameters, where the last step kept them.
    pub fn gradients(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.parameters.tensors(&self.parameters.gradients, true)
    }

    /// The optimizer's state of the trained parameters, by state-dict name and PyTorch's name of the state.
    pub fn optimizer_state(&self, train: &Train) -> impl Iterator<Item = (&str, &'static str, Tensor)> {
        let states = self.parameters.state.iter().zip(state_names(&train.optimizer));
        states
            .flat_map(|(data, key)| self.parameters.tensors(data, true).map(move |(name, tensor)| (name, *key, tensor)))
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
        let tensors: std::collections::HashMap<_, _> = tensors.collect();
        let Parameters { layout, trained, state, .. } = &mut self.parameters;
        for (data, key) in state.iter_mut().zip(state_names(&train.optimizer)) {
            for ((parameter, range), _) in layout.iter().zip(&*trained).filter(|(_, trained)| **trained) {
                let name = format!("{}.{key}", parameter.name);
                let found = tensors.get(name.as_str()).filter(|tensor| tensor.shape == parameter.shape);
                let tensor = found.ok_or_else(|| {
                    Error::new(
                        ErrorKind::CorruptPayload,
                        format!("the checkpoint lacks optimizer state `{name}` of shape {:?}", parameter.shape),
                    )
                })?;
                data[range.clone()].copy_from_slice(&tensor.data);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
