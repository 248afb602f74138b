//! The layers of a model: their keys in a job file, their shapes and parameters.
//!
//! # Layout
//!
//! - [`Layer`]: the keys
//! - [`Extent`]: one size for height and width, or one for each
//! - [`plan()`]: shapes and parameters, refused where layers don't fit together
//! - `shapes`: what each layer makes of a sample's shape
//! - `flops`: what it costs

mod extent;
mod flops;
mod plan;
mod shapes;

use serde::{Deserialize, Deserializer, Serialize};

pub use self::{
    extent::Extent,
    plan::{Initial, Parameter, Planned, Role, plan},
};
use crate::shorthand;

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
    /// Cross-correlation over the last dimension of `[channels, length]`.
    Conv1d {
        /// Output channels.
        out: usize,
        /// Length of a filter.
        kernel: usize,
        /// Step between two places of the filter.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        stride: usize,
        /// Zeroes added at both ends.
        #[serde(default, skip_serializing_if = "is_default")]
        padding: usize,
        /// Distance of a filter's elements.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        dilation: usize,
        /// Parts that the channels are cut into, each with filters of its own.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        groups: usize,
        /// Whether there is a bias.
        #[serde(default = "yes", skip_serializing_if = "is_true")]
        bias: bool,
    },
    /// Cross-correlation over the last two dimensions of `[channels, height, width]`.
    Conv2d {
        /// Output channels.
        out: usize,
        /// Size of a filter.
        kernel: Extent,
        /// Step between two places of the filter.
        #[serde(default = "Extent::one", skip_serializing_if = "Extent::is_one")]
        stride: Extent,
        /// Zeroes added at every edge.
        #[serde(default, skip_serializing_if = "is_default")]
        padding: Extent,
        /// Distance of a filter's elements.
        #[serde(default = "Extent::one", skip_serializing_if = "Extent::is_one")]
        dilation: Extent,
        /// Parts that the channels are cut into, each with filters of its own.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        groups: usize,
        /// Whether there is a bias.
        #[serde(default = "yes", skip_serializing_if = "is_true")]
        bias: bool,
    },
    /// The largest element of each window of `[channels, length]`.
    #[serde(rename = "max_pool1d")]
    MaxPool1d(Pool<usize>),
    /// The largest element of each window of `[channels, height, width]`.
    #[serde(rename = "max_pool2d")]
    MaxPool2d(Pool<Extent>),
    /// The mean of each window of `[channels, length]`, zeroes of the padding included.
    #[serde(rename = "avg_pool1d")]
    AvgPool1d(Pool<usize>),
    /// The mean of each window of `[channels, height, width]`, zeroes of the padding included.
    #[serde(rename = "avg_pool2d")]
    AvgPool2d(Pool<Extent>),
    /// Means over windows that are chosen so that the output has the given length.
    #[serde(rename = "adaptive_avg_pool1d")]
    AdaptiveAvgPool1d {
        /// Length after it.
        out: usize,
    },
    /// Means over windows that are chosen so that the output has the given size.
    #[serde(rename = "adaptive_avg_pool2d")]
    AdaptiveAvgPool2d {
        /// Height and width after it.
        out: Extent,
    },
    /// Normalises each feature of `[features]`, or each channel of `[channels, length]`, over the batch.
    #[serde(rename = "batch_norm1d")]
    BatchNorm1d(BatchNorm),
    /// Normalises each channel of `[channels, height, width]` over the batch.
    #[serde(rename = "batch_norm2d")]
    BatchNorm2d(BatchNorm),
    /// Normalises over the last dimension.
    LayerNorm {
        /// Added to the variance.
        #[serde(default = "eps")]
        eps: f64,
    },
    /// A trained vector for each whole number; takes rows of them, so it comes first.
    Embedding {
        /// How many numbers there are: 0 up to one less than this.
        tokens: usize,
        /// Length of a vector.
        out: usize,
        /// The number that stands for no token: its vector stays 0, and later layers leave its positions out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        padding_index: Option<usize>,
    },
    /// Adds a trained vector to each position of `[positions, features]`.
    PositionalEmbedding,
    /// `x` plus what `layers` make of it.
    Residual {
        /// They must give the shape that they take.
        #[serde(deserialize_with = "list")]
        layers: Vec<Layer>,
    },
    /// Self-attention and two linear layers over `[positions, features]`, each with a residual and a layer norm.
    TransformerEncoder {
        /// Attention heads; they share the features.
        heads: usize,
        /// Features between the two linear layers.
        #[serde(default = "feed_forward")]
        ff: usize,
        /// Probability of zero in each of its four dropouts.
        #[serde(default = "tenth")]
        dropout: f64,
        /// What is between the two linear layers.
        #[serde(default)]
        activation: EncoderActivation,
        /// Whether the layer norms come before attention and linear layers, not after the residuals.
        #[serde(default, skip_serializing_if = "is_default")]
        norm_first: bool,
    },
    /// Long short-term memory over `[positions, features]`; gives its state at each position.
    Lstm(Recurrent),
    /// Gated recurrent unit over `[positions, features]`; gives its state at each position.
    Gru(Recurrent),
    /// The mean over the positions of `[positions, features]`, padding left out.
    MeanPool,
    /// The last position of `[positions, features]` that is no padding.
    LastPool,
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

/// The activation of a transformer encoder block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncoderActivation {
    /// See [`Layer::Relu`].
    #[default]
    Relu,
    /// See [`Layer::Gelu`], exact.
    Gelu,
}

/// Windows of a pooling layer; `E` is a length, or height and width.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool<E> {
    /// Size of a window.
    pub kernel: E,
    /// Step between two windows; the size of a window if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<E>,
    /// Elements added at every edge, at most half a window.
    #[serde(default)]
    pub padding: E,
}

/// Keys of a batch norm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNorm {
    /// Added to the variance.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Share of a new batch in the running statistics.
    #[serde(default = "tenth")]
    pub momentum: f64,
}

/// Keys of a recurrent layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recurrent {
    /// Features of the state.
    pub out: usize,
    /// Whether there are biases.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub bias: bool,
}

fn yes() -> bool {
    true
}

fn half() -> f64 {
    0.5
}

fn tenth() -> f64 {
    0.1
}

fn eps() -> f64 {
    1e-5
}

fn one() -> usize {
    1
}

fn feed_forward() -> usize {
    2048
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_one(value: &usize) -> bool {
    *value == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads a list of layers; `"relu"` is short for `{ type = "relu" }`. To be named in `#[serde(deserialize_with)]`.
///
/// # Errors
/// For a layer that isn't one.
pub fn list<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Layer>, D::Error> {
    #[derive(Deserialize)]
    struct Short(#[serde(deserialize_with = "shorthand::deserialize")] Layer);
    Ok(Vec::<Short>::deserialize(d)?.into_iter().map(|Short(layer)| layer).collect())
}

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
            Self::Conv1d { .. } => "conv1d",
            Self::Conv2d { .. } => "conv2d",
            Self::MaxPool1d(_) => "max_pool1d",
            Self::MaxPool2d(_) => "max_pool2d",
            Self::AvgPool1d(_) => "avg_pool1d",
            Self::AvgPool2d(_) => "avg_pool2d",
            Self::AdaptiveAvgPool1d { .. } => "adaptive_avg_pool1d",
            Self::AdaptiveAvgPool2d { .. } => "adaptive_avg_pool2d",
            Self::BatchNorm1d(_) => "batch_norm1d",
            Self::BatchNorm2d(_) => "batch_norm2d",
            Self::LayerNorm { .. } => "layer_norm",
            Self::Embedding { .. } => "embedding",
            Self::PositionalEmbedding => "positional_embedding",
            Self::Residual { .. } => "residual",
            Self::TransformerEncoder { .. } => "transformer_encoder",
            Self::Lstm(_) => "lstm",
            Self::Gru(_) => "gru",
            Self::MeanPool => "mean_pool",
            Self::LastPool => "last_pool",
        }
    }

    /// The layers inside it.
    #[must_use]
    pub fn inner(&self) -> &[Layer] {
        match self {
            Self::Residual { layers } => layers,
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests;
