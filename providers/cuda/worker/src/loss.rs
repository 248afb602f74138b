//! Losses and right answers (`docs/protocol.md`, section 8).

use outboard_core::job::{ClassWeights, Loss as Spec};
use tch::{Device, Kind, Reduction, Tensor};

use crate::error::Torch;

/// The shape of a single number.
const NUMBER: [i64; 0] = [];

/// A loss, on a device.
#[derive(Debug)]
pub(crate) struct Loss {
    spec: Spec,
    /// Weights of the classes, or of the positive class.
    weights: Option<Tensor>,
}

impl Loss {
    pub(crate) fn new(spec: &Spec, device: Device) -> Torch<Self> {
        let weights = match spec {
            Spec::CrossEntropy { class_weights, .. } => class_weights.as_ref().and_then(ClassWeights::each),
            Spec::BceWithLogits { positive_weight } => Some(&[*positive_weight as f32][..]),
            _ => None,
        };
        let weights = weights.map(|weights| Tensor::f_from_slice(weights)?.f_to_device(device)).transpose()?;
        Ok(Self { spec: spec.clone(), weights })
    }

    fn reduced(&self, output: &Tensor, y: &Tensor, reduction: Reduction) -> Torch<Tensor> {
        match &self.spec {
            Spec::CrossEntropy { label_smoothing, .. } => {
                output.f_cross_entropy_loss(y, self.weights.as_ref(), reduction, -100, *label_smoothing)
            }
            Spec::Mse => output.f_mse_loss(y, reduction),
            Spec::L1 => output.f_l1_loss(y, reduction),
            Spec::Huber { delta } => output.f_huber_loss(y, reduction, *delta),
            Spec::BceWithLogits { .. } => {
                output.f_binary_cross_entropy_with_logits(y, None, self.weights.as_ref(), reduction)
            }
        }
    }

    /// What the classes of some rows count.
    fn of_classes(&self, y: &Tensor) -> Torch<Option<Tensor>> {
        let weights = self.weights.as_ref().filter(|_| self.spec.is_classification());
        weights.map(|weights| weights.f_index_select(0, y)).transpose()
    }

    /// The batch loss of `[rows, outputs]`; `weights` says how much each row counts.
    pub(crate) fn of_batch(&self, output: &Tensor, y: &Tensor, weights: Option<&Tensor>) -> Torch<Tensor> {
        let Some(weights) = weights else { return self.reduced(output, y, Reduction::Mean) };
        let each = self.reduced(output, y, Reduction::None)?;
        if !self.spec.is_classification() {
            let rows = each.f_mean_dim([1].as_slice(), false, None)?;
            return rows.f_mul(weights)?.f_sum(None)?.f_div(&weights.f_sum(None)?);
        }
        let counted = match self.of_classes(y)? {
            Some(of_classes) => weights.f_mul(&of_classes)?,
            None => weights.shallow_clone(),
        };
        each.f_mul(weights)?.f_sum(None)?.f_div(&counted.f_sum(None)?)
    }

    /// Over some rows, as 64-bit floats: losses, what they count together, right answers.
    pub(crate) fn sums(&self, output: &Tensor, y: &Tensor) -> Torch<Tensor> {
        let each = self.reduced(output, y, Reduction::None)?;
        let counted = match self.of_classes(y)? {
            Some(of_classes) => of_classes.f_sum(Kind::Double)?,
            None => Tensor::f_full(NUMBER, each.numel() as f64, (Kind::Double, y.device()))?,
        };
        Tensor::f_stack(&[each.f_sum(Kind::Double)?, counted, self.correct(output, y)?.f_to_kind(Kind::Double)?], 0)
    }

    /// Whether an answer may be right.
    pub(crate) fn has_accuracy(&self) -> bool {
        self.spec.has_accuracy()
    }

    /// How many answers are right; 0 where none can be.
    pub(crate) fn correct(&self, output: &Tensor, y: &Tensor) -> Torch<Tensor> {
        match &self.spec {
            Spec::CrossEntropy { .. } => output.f_argmax(1, false)?.f_eq_tensor(y)?.f_sum(Kind::Int64),
            Spec::BceWithLogits { .. } => output.f_gt(0.0)?.f_eq_tensor(&y.f_gt(0.5)?)?.f_sum(Kind::Int64),
            _ => Tensor::f_zeros(NUMBER, (Kind::Int64, output.device())),
        }
    }
}
