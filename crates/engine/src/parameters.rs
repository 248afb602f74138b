//! Parameters, their gradients and their optimizer state.

use std::{mem, ops::Range};

use outboard_core::{
    error::{Error, ErrorKind, Result},
    job::Train,
    layer::{Parameter, Planned, Role},
};
use outboard_protocol::{Tensor, Tensors};
use rayon::prelude::*;

use crate::optimizer::{Update, clip_factor, state_names};

/// Fewer elements than this aren't worth a second thread.
const SERIAL: usize = 1 << 12;

/// Where a parameter tensor lies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slot {
    index: usize,
}

/// A parameter tensor and where it lies.
#[derive(Debug)]
struct Place {
    parameter: Parameter,
    range: Range<usize>,
    /// Whether it lies transposed. A linear layer's weight does, since `gemm` then needs no copy of it on the way
    /// forward.
    transposed: bool,
}

impl Place {
    fn new(parameter: Parameter, start: usize) -> Self {
        let range = start..start + parameter.len();
        Self { transposed: parameter.role == Role::Weight && parameter.shape.len() == 2, parameter, range }
    }

    /// Copies a tensor of PyTorch's layout in.
    fn write(&self, tensor: &[f32], all: &mut [f32]) {
        let place = &mut all[self.range.clone()];
        match self.parameter.shape[..] {
            [rows, columns] if self.transposed => transpose(tensor, place, rows, columns),
            _ => place.copy_from_slice(tensor),
        }
    }

    /// The tensor in PyTorch's layout.
    fn read(&self, all: &[f32]) -> Tensor {
        let place = &all[self.range.clone()];
        let mut data = place.to_vec();
        if let ([rows, columns], true) = (&self.parameter.shape[..], self.transposed) {
            transpose(place, &mut data, *columns, *rows);
        }
        Tensor { shape: self.parameter.shape.clone(), data }
    }
}

fn transpose(from: &[f32], to: &mut [f32], rows: usize, columns: usize) {
    for (r, row) in from.chunks_exact(columns).enumerate() {
        row.iter().enumerate().for_each(|(c, &x)| to[c * rows + r] = x);
    }
}

/// All parameters, their gradients and their optimizer state, each in one allocation.
#[derive(Debug)]
pub(crate) struct Parameters {
    layout: Vec<Place>,
    values: Vec<f32>,
    gradients: Vec<f32>,
    /// State tensors of the optimizer: none, one or two.
    state: [Vec<f32>; 2],
    trained: Vec<bool>,
    /// Applied as soon as a gradient is known; without it gradients are only kept.
    pub(crate) update: Option<Update>,
}

impl Parameters {
    pub(crate) fn new(plan: &[Planned], tensors: &Tensors) -> Result<Self> {
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
            let place = Place::new(parameter.clone(), values.len());
            values.resize(place.range.end, 0.0);
            place.write(&tensor.data, &mut values);
            layout.push(place);
        }
        let trained = vec![false; layout.len()];
        Ok(Self { layout, values, gradients: Vec::new(), state: [Vec::new(), Vec::new()], trained, update: None })
    }

    /// The slot of a parameter that the plan named.
    pub(crate) fn slot(&self, name: &str) -> Slot {
        Slot { index: self.layout.iter().position(|place| place.parameter.name == name).unwrap_or_default() }
    }

    pub(crate) fn values(&self, slot: Slot) -> &[f32] {
        &self.values[self.layout[slot.index].range.clone()]
    }

    /// Sets a tensor that follows the batches.
    pub(crate) fn values_mut(&mut self, slot: Slot) -> &mut [f32] {
        &mut self.values[self.layout[slot.index].range.clone()]
    }

    pub(crate) fn is_trained(&self, slot: Slot) -> bool {
        self.trained[slot.index]
    }

    /// Computes gradients of trained parameters over threads and applies the update to each block while it is in
    /// cache. `parts` are parameters, ascending, each with the size of its blocks; `fill(part, index, gradient)`
    /// computes one block.
    pub(crate) fn update(&mut self, parts: &[(Slot, usize)], fill: impl Fn(usize, usize, &mut [f32]) + Sync) {
        let update = self.update;
        let trained = parts.iter().enumerate().filter(|(_, (slot, _))| self.trained[slot.index]);
        let cuts: Vec<_> = trained
            .flat_map(|(part, &(slot, block))| {
                let Range { start, end } = self.layout[slot.index].range.clone();
                let starts = (start..end).step_by(block.max(1)).enumerate();
                starts.map(move |(index, from)| (part, index, from..end.min(from + block.max(1))))
            })
            .collect();
        let ranges = cuts.iter().map(|(_, _, range)| range.clone());
        let blocks = Self::blocks(&mut self.values, &mut self.gradients, &mut self.state, ranges);
        let run = |((part, index, _), block): (&(usize, usize, Range<usize>), Block<'_>)| {
            fill(*part, *index, block.gradient);
            if let Some(update) = update {
                block.apply(update);
            }
        };
        let elements: usize = cuts.iter().map(|(_, _, range)| range.len()).sum();
        if elements < SERIAL {
            cuts.iter().zip(blocks).for_each(run);
        } else {
            cuts.par_iter().zip(blocks).with_max_len(1).for_each(run);
        }
    }

    /// The parts of everything that lie in `ranges`, which must ascend.
    fn blocks<'a>(
        values: &'a mut [f32],
        gradients: &'a mut [f32],
        [first, second]: &'a mut [Vec<f32>; 2],
        ranges: impl Iterator<Item = Range<usize>>,
    ) -> Vec<Block<'a>> {
        let mut rest = [values, gradients, first, second].map(|all| Rest { all, from: 0 });
        ranges
            .map(|range| {
                let [weights, gradient, first, second] = rest.each_mut().map(|rest| rest.take(&range));
                Block { weights, gradient, first, second }
            })
            .collect()
    }

    /// Clips all gradients and applies the update to all trained parameters.
    pub(crate) fn update_clipped(&mut self, update: Update, clip_norm: Option<f64>, clip_value: Option<f64>) {
        let trained: Vec<_> = self.trained().map(|place| place.range.clone()).collect();
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
        let blocks = Self::blocks(&mut self.values, &mut self.gradients, &mut self.state, trained.into_iter());
        blocks.into_par_iter().for_each(|block| block.apply(update));
    }

    fn trained(&self) -> impl Iterator<Item = &Place> {
        self.layout.iter().zip(&self.trained).filter(|(_, trained)| **trained).map(|(place, _)| place)
    }

    /// Allocates what training needs: gradients and optimizer state.
    pub(crate) fn prepare_training(&mut self, train: &Train) {
        let is_trained = |p: &Parameter| p.is_trainable() && !train.is_frozen(&p.name);
        self.trained = self.layout.iter().map(|place| is_trained(&place.parameter)).collect();
        self.gradients = vec![0.0; self.values.len()];
        for (tensor, _) in self.state.iter_mut().zip(state_names(&train.optimizer)) {
            *tensor = vec![0.0; self.values.len()];
        }
    }

    /// The weights, by name.
    pub(crate) fn weights(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.layout.iter().map(|place| (place.parameter.name.as_str(), place.read(&self.values)))
    }

    /// The gradients of trained parameters, where the last step kept them.
    pub(crate) fn gradients(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.trained().map(|place| (place.parameter.name.as_str(), place.read(&self.gradients)))
    }

    /// The optimizer's state of trained parameters, named `NAME.KEY`.
    pub(crate) fn optimizer_state(&self, train: &Train) -> impl Iterator<Item = (String, Tensor)> {
        let states = self.state.iter().zip(state_names(&train.optimizer));
        states.flat_map(|(data, key)| {
            self.trained().map(move |place| (format!("{}.{key}", place.parameter.name), place.read(data)))
        })
    }

    /// Sets the optimizer's state from tensors named `NAME.KEY`.
    pub(crate) fn set_optimizer_state(&mut self, train: &Train, tensors: &Tensors) -> Result<()> {
        let places = self.layout.iter().zip(&self.trained).filter(|(_, trained)| **trained);
        for (place, _) in places {
            for (data, key) in self.state.iter_mut().zip(state_names(&train.optimizer)) {
                let name = format!("{}.{key}", place.parameter.name);
                let found = tensors.get(&name).filter(|tensor| tensor.shape == place.parameter.shape);
                let missing =
                    || format!("the checkpoint lacks optimizer state `{name}` of shape {:?}", place.parameter.shape);
                let tensor = found.ok_or_else(|| Error::new(ErrorKind::CorruptPayload, missing()))?;
                place.write(&tensor.data, data);
            }
        }
        Ok(())
    }
}

/// What is left of a slice that is being handed out in parts.
struct Rest<'a> {
    all: &'a mut [f32],
    from: usize,
}

impl<'a> Rest<'a> {
    /// The elements of `range`; none of an empty slice, which stands for state that an optimizer doesn't have.
    fn take(&mut self, range: &Range<usize>) -> &'a mut [f32] {
        if self.all.is_empty() {
            return Default::default();
        }
        let (_, from_start) = mem::take(&mut self.all).split_at_mut(range.start - self.from);
        let (part, rest) = from_start.split_at_mut(range.len());
        *self = Self { all: rest, from: range.end };
        part
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

#[cfg(test)]
mod tests;
