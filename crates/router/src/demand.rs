//! What is to be done, in numbers.

use std::{collections::BTreeMap, time::Duration};

pub use outboard_core::job::Policy;
use outboard_core::{
    Layer, NanoUsd, Result,
    layer::{self, Planned},
    task::OperationKind,
};

use crate::Reason;

/// What is left of a job, in numbers that don't depend on a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    /// What is done.
    pub operation: OperationKind,
    /// Types of the layers.
    pub layers: Vec<String>,
    /// Epochs left; one for what isn't training.
    pub epochs_left: u32,
    /// Floating-point operations of one epoch, or of the whole of what isn't training.
    pub flops_per_epoch: u64,
    /// Bytes that a provider needs before it can start: data, checkpoint.
    pub bytes_down: u64,
    /// Of these, bytes that lie there already, by the provider's id.
    pub bytes_there: BTreeMap<String, u64>,
    /// Bytes of a task's result: a checkpoint, outputs.
    pub bytes_up: u64,
    /// Bytes of the largest single request or reply.
    pub largest_payload: u64,
    /// Time until the job's deadline.
    pub deadline_left: Option<Duration>,
    /// The only providers that the job may run on; any if empty.
    pub pins: Vec<String>,
    /// Providers that may not get the next task, and why: the job excludes them, they failed, the ledger refused the
    /// reservation.
    pub excluded: Vec<(String, Reason)>,
    /// Why the job may run nowhere, where its task process died the same way on two providers.
    pub poisoned: Option<String>,
    /// What counts.
    pub terms: Terms,
}

/// What a job is decided by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// What counts.
    pub policy: Policy,
    /// What an hour of waiting is worth, for [`Policy::Balanced`].
    pub value_of_time: NanoUsd,
    /// Share of a task's time that may be overhead.
    pub overhead_share: f64,
    /// Whether a local provider may be chosen when others are enabled.
    pub local_fallback: bool,
}

/// Floating-point operations for one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flops {
    /// Of the forward pass: evaluation, prediction.
    pub forward: u64,
    /// Of forward and backward pass: training.
    pub training: u64,
}

/// Operations of a model for one sample, by the same count as [`Planned::flops`]. The backward pass counts twice the
/// forward pass where there are parameters, whose gradient is a product of its own, and once elsewhere.
///
/// # Errors
/// `InvalidRequest` where the layers don't fit together.
pub fn flops(layers: &[Layer], input: &[usize]) -> Result<Flops> {
    let plan = layer::plan(layers, input)?;
    let sum = |count: fn(&Planned) -> u64| plan.iter().map(count).fold(0, u64::saturating_add);
    let training = |layer: &Planned| layer.flops().saturating_mul(if layer.parameters.is_empty() { 2 } else { 3 });
    Ok(Flops { forward: sum(Planned::flops), training: sum(training) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_costs_about_three_forward_passes() {
        let layers = [Layer::Linear { out: 64, bias: true }, Layer::Relu, Layer::Linear { out: 10, bias: true }];
        let forward = 64 * (2 * 64 + 1) + 64 + 10 * (2 * 64 + 1);
        assert_eq!(flops(&layers, &[64]).unwrap(), Flops { forward, training: 3 * forward - 64 });
        assert_eq!(flops(&[], &[64]).unwrap_err().to_string(), "the model has no layer");
    }
}
