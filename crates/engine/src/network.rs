//! A model planned for a batch size: its parameters, its ops, and buffers that are allocated once.

use outboard_core::{
    Layer,
    error::{Error, ErrorKind, Result},
    job::{Loss, Train},
    layer::{self, Planned},
    task::Architecture,
};
use outboard_protocol::{Augmentation, Dataset, Target, Tensor, Tensors};
use rayon::prelude::*;

use crate::{
    loss::{self, LossSums, Targets},
    ops::{Chain, Pass},
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

/// Rows that evaluation and prediction take at a time: 256, or fewer where a row is large.
#[must_use]
pub fn evaluation_rows(plan: &[Planned]) -> usize {
    const ELEMENTS: usize = 1 << 26;
    let width = plan.iter().map(Planned::width).fold(1, usize::saturating_add);
    (ELEMENTS / width).clamp(1, 256)
}

/// A model with its parameters and buffers.
#[derive(Debug)]
pub struct Network {
    parameters: Parameters,
    chain: Chain,
    /// Features of the batch.
    features: Vec<f32>,
    /// The token that stands for none, and which positions of the batch hold it.
    padding_token: Option<f32>,
    padding: Vec<bool>,
    /// Rows that the buffers hold.
    capacity: usize,
    input: usize,
}

impl Network {
    /// A network with the given weights, for batches of up to `capacity` rows.
    ///
    /// # Errors
    /// `InvalidRequest` where the layers don't fit together, `CorruptPayload` where the weights don't fit the layers.
    pub fn new(model: &Architecture, weights: &Tensors, capacity: usize) -> Result<Self> {
        let plan = layer::plan(&model.layers, &model.input)?;
        let parameters = Parameters::new(&plan, weights)?;
        let input = model.input.iter().product();
        let mut chain = Chain::new(&plan, input, &parameters);
        let bytes = chain.widths().iter().try_fold(0usize, |sum, width| sum.checked_add(width.checked_mul(capacity)?));
        if bytes.is_none_or(|n| n > isize::MAX as usize / 8) {
            return Err(Error::new(
                ErrorKind::OutOfMemory,
                format!("a batch of {capacity} rows does not fit in memory"),
            )
            .hint("use a smaller batch_size"));
        }
        chain.reserve(capacity);
        let padding_token = match &plan[0].layer {
            Layer::Embedding { padding_index, .. } if plan[0].keeps_padding() => padding_index.map(|i| i as f32),
            _ => None,
        };
        let features = vec![0.0; input * capacity];
        Ok(Self { parameters, chain, features, padding_token, padding: Vec::new(), capacity, input })
    }

    /// Allocates what training needs: gradients and optimizer state.
    pub fn prepare_training(&mut self, train: &Train) {
        self.parameters.prepare_training(train);
        self.chain.reserve_slopes(train.batch_size.min(self.capacity));
    }

    /// Outputs for one row.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.chain.width()
    }

    /// Copies rows into the input buffer.
    pub fn load(&mut self, data: &Dataset, rows: &[u32]) {
        let width = self.input;
        let copy = |(to, &row): (&mut [f32], &u32)| data.x.copy_row(row as usize, to);
        let input = &mut self.features[..rows.len() * width];
        if input.len() <= 1 << 14 {
            input.chunks_exact_mut(width).zip(rows).for_each(copy);
        } else {
            input.par_chunks_exact_mut(width).zip(rows).with_min_len(16).for_each(copy);
        }
        let Some(token) = self.padding_token else { return };
        self.padding.clear();
        self.padding.extend(self.features[..rows.len() * width].iter().map(|x| *x == token));
        // A row of nothing but padding counts as having none: it would have no mean and no last position.
        self.padding.chunks_exact_mut(width).filter(|row| row.iter().all(|p| *p)).for_each(|row| row.fill(false));
    }

    /// Changes the images that were loaded from these rows.
    pub fn augment(&mut self, augmentation: Augmentation<'_>, rows: &[u32], shape: [usize; 3]) {
        let width = self.input;
        let images = self.features[..rows.len() * width].par_chunks_exact_mut(width);
        images.zip(rows).with_min_len(16).for_each(|(image, &row)| augmentation.apply(row, shape, image));
    }

    /// Runs the rows that were loaded through the model; the outputs, row after row.
    pub fn forward(&mut self, rows: usize, training: Option<&StepPlan>) -> &[f32] {
        let pass = Pass {
            rows,
            training: training.is_some(),
            seed: training.map_or(0, |plan| plan.seed),
            step: training.map_or(0, |plan| plan.step),
            padding: &self.padding,
        };
        let x = &self.features[..rows * self.input];
        self.chain.forward(pass, &self.parameters, x);
        self.chain.output(x, rows)
    }

    /// One training step on the rows that were loaded. The loss is that before the update.
    ///
    /// # Errors
    /// `JobFailed` where the loss is not a finite number; nothing was updated then.
    pub fn step(
        &mut self,
        rows: usize,
        loss: &Loss,
        targets: Targets<'_>,
        weights: Option<&[f32]>,
        plan: &StepPlan,
    ) -> Result<LossSums> {
        self.forward(rows, Some(plan));
        let x = &self.features[..rows * self.input];
        let outputs = self.chain.width();
        let (output, slope) = self.chain.output_and_slope(x, rows);
        let sums = loss::evaluate(loss, outputs, output, targets, weights, Some(slope));
        if !sums.mean().is_finite() {
            return Err(Error::new(ErrorKind::JobFailed, format!("the loss became {}", sums.mean())));
        }
        let clipping = plan.clip_norm.is_some() || plan.clip_value.is_some();
        self.parameters.update = if clipping { None } else { plan.update };
        let pass = Pass { rows, training: true, seed: plan.seed, step: plan.step, padding: &self.padding };
        self.chain.backward(pass, &mut self.parameters, x, false);
        self.chain.settle(&mut self.parameters);
        if let (true, Some(update)) = (clipping, plan.update) {
            self.parameters.update_clipped(update, plan.clip_norm, plan.clip_value);
        }
        Ok(sums)
    }

    /// Loss sums over a whole data set, dropout off; each row counts the same.
    pub fn evaluate(&mut self, data: &Dataset, loss: &Loss) -> LossSums {
        let mut sums = LossSums::default();
        let rows: Vec<u32> = (0..data.rows() as u32).collect();
        for part in rows.chunks(self.capacity) {
            self.load(data, part);
            let outputs = self.outputs();
            let y = self.forward(part.len(), None);
            let from = part[0] as usize;
            sums.add(match &data.y {
                Target::Classes(classes) => {
                    loss::evaluate(loss, outputs, y, Targets::Classes(&classes[from..][..part.len()]), None, None)
                }
                Target::Values { outputs, values } => loss::evaluate(
                    loss,
                    *outputs,
                    y,
                    Targets::Values(&values[from * outputs..][..part.len() * outputs]),
                    None,
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
    pub fn set_optimizer_state(&mut self, train: &Train, tensors: &Tensors) -> Result<()> {
        self.parameters.set_optimizer_state(train, tensors)
    }
}
