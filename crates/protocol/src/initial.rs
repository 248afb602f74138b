//! Initial weights, made once by the client (`docs/protocol.md`, section 4).

use std::f64::consts::TAU;

use outboard_core::layer::{Initial, Parameter, Planned};

use crate::{
    random::{Domain, Stream},
    tensors::{Tensor, Tensors},
};

/// Weights of a model that nothing was trained yet: PyTorch's default distributions.
#[must_use]
pub fn weights(plan: &[Planned], seed: u64) -> Tensors {
    let mut tensors = Tensors::new();
    let mut drawn = 0;
    for parameter in plan.iter().flat_map(|layer| &layer.parameters) {
        let data = values(parameter, Stream::new(seed, Domain::Weights, drawn));
        tensors.insert(parameter.name.clone(), Tensor { shape: parameter.shape.clone(), data });
        drawn += u32::from(parameter.is_trainable());
    }
    tensors
}

fn values(parameter: &Parameter, stream: Stream) -> Vec<f32> {
    let elements = 0..parameter.len() as u64;
    match parameter.initial {
        Initial::Constant(value) => vec![value; parameter.len()],
        Initial::Uniform(bound) => elements.map(|i| ((2.0 * stream.uniform(i) - 1.0) * bound) as f32).collect(),
        Initial::Normal { zero_row } => {
            let mut values: Vec<f32> = elements.map(|i| normal(stream, i) as f32).collect();
            let width: usize = parameter.shape[1..].iter().product();
            if let Some(row) = zero_row {
                values[row * width..][..width].fill(0.0);
            }
            values
        }
    }
}

/// Box and Muller's transform of two uniform numbers.
fn normal(stream: Stream, i: u64) -> f64 {
    let (u, v) = (stream.uniform(2 * i), stream.uniform(2 * i + 1));
    (-2.0 * (1.0 - u).ln()).sqrt() * (TAU * v).cos()
}
