//! The layers of a model: their keys in a job file, their shapes and parameters.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One layer, as written in `model.layers`. Definitions are PyTorch's (`docs/protocol.md`, section 6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layer {
    /// `y = x Wᵀ + b` over the last dimension.
    Linear {
        /// Outputs.
        out: usize,
        /// Whether there is a bias.
        #[serde(default = "yes", skip_serializing_if = "is_true")]
        bias: bool,
    },
    /// `max(x, 0)`.
    Relu,
    /// `x Φ(x)`.
    Gelu {
        /// Exact, or the usual approximation by tanh.
        #[serde(default, skip_serializing_if = "is_default")]
        approximate: GeluApproximation,
    },
    /// `x sigmoid(x)`.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Over the last dimension.
    Softmax,
    /// All dimensions but the batch become one.
    Flatten,
    /// Zeroes elements at random while training.
    Dropout {
        /// Probability of zero, at least 0 and below 1.
        #[serde(default = "half")]
        p: f64,
    },
}

/// How `gelu` computes the normal distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeluApproximation {
    /// With erf.
    #[default]
    None,
    /// With tanh.
    Tanh,
}

fn yes() -> bool {
    true
}

fn half() -> f64 {
    0.5
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A parameter tensor of a planned layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// State-dict name, such as `0.weight`.
    pub name: String,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// Inputs per output: bounds the initial values.
    pub fan_in: usize,
}

impl Parameter {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element, which planning rules out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A layer whose shapes are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Position in `model.layers`.
    pub index: usize,
    /// The layer.
    pub layer: Layer,
    /// Shape of one sample before it.
    pub input: Vec<usize>,
    /// Shape of one sample after it.
    pub output: Vec<usize>,
    /// Its parameters, in state-dict order.
    pub parameters: Vec<Parameter>,
}

impl Planned {
    /// Floating-point operations of the forward pass for one sample; a multiply-add counts as two,
    /// an element-wise function as one per element.
    #[must_use]
    pub fn flops(&self) -> u64 {
        let elements = self.output.iter().product::<usize>() as u64;
        match &self.layer {
            Layer::Linear { bias, .. } => {
                let inputs = self.input.last().copied().unwrap_or(1) as u64;
                elements.saturating_mul(2 * inputs + u64::from(*bias))
            }
            Layer::Flatten => 0,
            _ => elements,
        }
    }
}

/// More elements than this in one tensor of a sample or one parameter are refused rather than tried.
const MAX_ELEMENTS: usize = 1 << 32;

impl Layer {
    /// The layer's `type` in a job file.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::Relu => "relu",
            Self::Gelu { .. } => "gelu",
            Self::Silu => "silu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Softmax => "softmax",
            Self::Flatten => "flatten",
            Self::Dropout { .. } => "dropout",
        }
    }

    /// Shapes and parameters of this layer at `index`, for samples of shape `input`.
    fn plan(&self, index: usize, input: &[usize]) -> Result<Planned> {
        let wrong = |what: String| {
            Error::invalid(format!("layer {index} ({}): {what}", self.kind()))
                .at("key", format!("model.layers[{index}]"))
        };
        let mut parameters = Vec::new();
        let output = match self {
            Self::Linear { out, bias } => {
                if *out == 0 {
                    return Err(wrong("`out` is 0, but a layer needs at least one output".into())
                        .hint("set `out` to the number of features that this layer should give"));
                }
                let Some((&features, rows)) = input.split_last() else {
                    return Err(wrong("its input has no dimension".into()));
                };
                if features.checked_mul(*out).is_none_or(|n| n > MAX_ELEMENTS) {
                    return Err(wrong(format!("a weight of [{out}, {features}] is too large"))
                        .hint("check `out`: at most 2^32 weights fit in one layer"));
                }
                let parameter =
                    |name: &str, shape| Parameter { name: format!("{index}.{name}"), shape, fan_in: features };
                parameters.push(parameter("weight", vec![*out, features]));
                if *bias {
                    parameters.push(parameter("bias", vec![*out]));
                }
                [rows, &[*out]].concat()
            }
            Self::Dropout { p } => {
                if !(0.0..1.0).contains(p) {
                    return Err(wrong(format!("`p` is {p}, but the share of zeroes must be at least 0 and below 1"))
                        .hint("set `p` to 0.1 to 0.5"));
                }
                input.to_vec()
            }
            Self::Flatten => vec![input.iter().product()],
            _ => input.to_vec(),
        };
        if output.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_none_or(|n| n > MAX_ELEMENTS) {
            return Err(wrong(format!("one sample of shape {output:?} after it is too large")));
        }
        Ok(Planned { index, layer: self.clone(), input: input.to_vec(), output, parameters })
    }
}

/// Shapes and parameters of `layers` for samples of shape `input`.
///
/// # Errors
/// `InvalidRequest`, naming the layer and the shapes, where a layer can't take what comes before it.
pub fn plan(layers: &[Layer], input: &[usize]) -> Result<Vec<Planned>> {
    if layers.is_empty() {
        return Err(Error::invalid("the model has no layer")
            .at("key", "model.layers")
            .hint("start with `layers = [{ type = \"linear\", out = 10 }]`"));
    }
    let mut planned: Vec<Planned> = Vec::with_capacity(layers.len());
    for (index, layer) in layers.iter().enumerate() {
        let next = layer.plan(index, planned.last().map_or(input, |last| &last.output))?;
        planned.push(next);
    }
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(out: usize) -> Layer {
        Layer::Linear { out, bias: true }
    }

    #[test]
    fn infers_shapes_and_names_parameters_as_pytorch_does() {
        let layers = [Layer::Flatten, linear(5), Layer::Relu, Layer::Linear { out: 3, bias: false }];
        let planned = plan(&layers, &[2, 3, 4]).unwrap();
        assert_eq!(planned[3].output, [3]);
        let names: Vec<_> = planned.iter().flat_map(|l| &l.parameters).map(|p| (p.name.as_str(), p.len())).collect();
        assert_eq!(names, [("1.weight", 120), ("1.bias", 5), ("3.weight", 15)]);
        assert_eq!(planned.iter().map(Planned::flops).sum::<u64>(), 5 * 49 + 5 + 30);
    }

    #[test]
    fn refuses_what_cannot_be_a_layer() {
        let message = |layers: &[Layer]| plan(layers, &[4]).unwrap_err().to_string();
        assert_eq!(message(&[linear(0)]), "layer 0 (linear): `out` is 0, but a layer needs at least one output");
        assert_eq!(
            message(&[Layer::Dropout { p: 1.0 }]),
            "layer 0 (dropout): `p` is 1, but the share of zeroes must be at least 0 and below 1"
        );
        assert_eq!(
            message(&[linear(usize::MAX)]),
            format!("layer 0 (linear): a weight of [{}, 4] is too large", usize::MAX)
        );
        assert_eq!(message(&[]), "the model has no layer");
    }

    #[test]
    fn keys_are_checked() {
        let read = |text: &str| serde_json::from_str::<Layer>(text).map_err(|e| e.to_string());
        assert_eq!(read(r#"{"type":"linear","out":3}"#), Ok(linear(3)));
        assert!(read(r#"{"type":"linear","out":3,"bais":false}"#).unwrap_err().starts_with("unknown field `bais`"));
        assert!(read(r#"{"type":"conv9d"}"#).unwrap_err().starts_with("unknown variant `conv9d`"));
    }
}
