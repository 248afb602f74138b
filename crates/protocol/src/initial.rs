//! Initial weights, made once by the client (`docs/protocol.md`, section 4).

use outboard_core::layer::Planned;

use crate::{
    random::{Domain, Stream},
    tensors::{Tensor, Tensors},
};

/// Weights of a model that nothing was trained yet: PyTorch's default distributions, uniform between plus and minus
/// one over the root of the inputs.
#[must_use]
pub fn weights(plan: &[Planned], seed: u64) -> Tensors {
    let parameters = plan.iter().flat_map(|layer| &layer.parameters);
    let tensors = parameters.enumerate().map(|(index, parameter)| {
        let stream = Stream::new(seed, Domain::Weights, index as u32);
        let bound = 1.0 / (parameter.fan_in as f64).sqrt();
        let data = (0..parameter.len() as u64).map(|i| ((2.0 * stream.uniform(i) - 1.0) * bound) as f32).collect();
        (parameter.name.clone(), Tensor { shape: parameter.shape.clone(), data })
    });
    tensors.collect()
}
