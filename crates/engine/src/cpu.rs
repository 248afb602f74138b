//! The engine's own kernels.

use std::ops::Range;

use outboard_core::{
    Environment,
    error::{Error, Result},
    job::{Loss, Train},
    task::Architecture,
};
use outboard_protocol::{Augmentation, Dataset, Target, Tensors};

use crate::{
    kernels::{Kernels, Model, Step, StepSums},
    loss::{LossSums, Targets},
    network::Network,
    numerics,
};

/// The CPU, on the current rayon pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Kernels for Cpu {
    type Model = CpuModel;

    fn numerics(&self) -> &str {
        numerics::class()
    }

    fn describe(&self, _: &mut Environment) {}

    fn model(&self, architecture: &Architecture, weights: &Tensors, rows: usize) -> Result<CpuModel> {
        Ok(CpuModel {
            network: Network::new(architecture, weights, rows)?,
            order: Vec::new(),
            classes: Vec::new(),
            values: Vec::new(),
            weights: Vec::new(),
            sums: StepSums::default(),
        })
    }
}

/// A network, and the batch it is at.
#[derive(Debug)]
pub struct CpuModel {
    network: Network,
    order: Vec<u32>,
    classes: Vec<i64>,
    values: Vec<f32>,
    weights: Vec<f32>,
    sums: StepSums,
}

impl Model for CpuModel {
    type Data = Dataset;

    fn place(&self, data: Dataset) -> Result<Dataset> {
        Ok(data)
    }

    fn prepare_training(&mut self, train: &Train, state: Option<&Tensors>) -> Result<()> {
        self.network.prepare_training(train);
        match state {
            Some(state) => self.network.set_optimizer_state(train, state),
            None => Ok(()),
        }
    }

    fn begin_epoch(&mut self, order: Vec<u32>) -> Result<()> {
        self.order = order;
        Ok(())
    }

    fn step(&mut self, data: &Dataset, step: &Step<'_>) -> Result<()> {
        let rows = &self.order[step.places.clone()];
        self.network.load(data, rows);
        if let ([channels, height, width], false) = (&data.shape[..], step.train.augment.is_empty()) {
            let augmentation = Augmentation::new(&step.train.augment, step.train.seed, step.epoch);
            self.network.augment(augmentation, rows, [*channels, *height, *width]);
        }
        let targets = match &data.y {
            Target::Classes(all) => {
                self.classes.clear();
                self.classes.extend(rows.iter().map(|&row| all[row as usize]));
                Targets::Classes(&self.classes)
            }
            Target::Values { outputs, values } => {
                self.values.clear();
                rows.iter()
                    .for_each(|&row| self.values.extend_from_slice(&values[row as usize * outputs..][..*outputs]));
                Targets::Values(&self.values)
            }
            Target::None => return Err(Error::invalid("the training data has no target")),
        };
        let weights = data.weights.as_ref().map(|all| {
            self.weights.clear();
            self.weights.extend(rows.iter().map(|&row| all[row as usize]));
            &self.weights[..]
        });
        let sums = self.network.step(rows.len(), &step.train.loss, targets, weights, &step.plan)?;
        self.sums.losses.push(sums.mean());
        self.sums.correct += sums.correct;
        Ok(())
    }

    fn sums(&mut self) -> Result<StepSums> {
        Ok(std::mem::take(&mut self.sums))
    }

    fn evaluate(&mut self, data: &Dataset, loss: &Loss) -> Result<LossSums> {
        Ok(self.network.evaluate(data, loss))
    }

    fn predict(&mut self, data: &Dataset, rows: Range<usize>) -> Result<Vec<f32>> {
        let rows: Vec<u32> = (rows.start as u32..rows.end as u32).collect();
        self.network.load(data, &rows);
        Ok(self.network.forward(rows.len(), None).to_vec())
    }

    fn weights(&self) -> Result<Tensors> {
        Ok(self.network.weights().map(|(name, tensor)| (name.to_string(), tensor)).collect())
    }

    fn optimizer_state(&self, train: &Train) -> Result<Tensors> {
        Ok(self.network.optimizer_state(train).collect())
    }
}
