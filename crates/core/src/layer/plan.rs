//! Shapes and parameters of a list of layers.

use super::{Layer, shapes};
use crate::error::{Error, Result};

/// A tensor of a planned layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// State-dict name, such as `0.weight`.
    pub name: String,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// Its value before anything is trained.
    pub initial: Initial,
    /// What it is there for.
    pub role: Role,
}

/// What a tensor is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Trained; as a matrix it is multiplied by.
    Weight,
    /// Trained; a row of it is looked up.
    Table,
    /// Follows the batches, without a gradient; PyTorch calls it a buffer.
    Statistic,
}

/// The value of a tensor before anything is trained (`docs/protocol.md`, section 4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    /// Uniform between minus and plus this.
    Uniform(f64),
    /// The same for all elements.
    Constant(f32),
    /// Normal with mean 0 and deviation 1; a row may be 0.
    Normal {
        /// Index of that row.
        zero_row: Option<usize>,
    },
}

impl Initial {
    /// PyTorch's default for a layer in which each output has so many inputs.
    #[must_use]
    pub fn fan_in(inputs: usize) -> Self {
        Self::Uniform(1.0 / (inputs as f64).sqrt())
    }
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

    /// Whether an optimizer may move it.
    #[must_use]
    pub fn is_trainable(&self) -> bool {
        self.role != Role::Statistic
    }
}

/// A layer whose shapes are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Position in its list of layers.
    pub index: usize,
    /// What its parameters' names begin with: `2`, or `2.body.0` inside of a layer.
    pub name: String,
    /// The layer.
    pub layer: Layer,
    /// Shape of one sample before it.
    pub input: Vec<usize>,
    /// Shape of one sample after it.
    pub output: Vec<usize>,
    /// Its tensors, those of the layers inside it included, in state-dict order.
    pub parameters: Vec<Parameter>,
    /// The layers inside it.
    pub body: Vec<Planned>,
    /// Number of its first dropout (`docs/protocol.md`, section 7).
    pub dropout: u32,
    /// Whether positions of its input may be padding.
    pub padded: bool,
}

impl Planned {
    /// Whether positions of its output may be padding: those of its input may, and it keeps them apart.
    #[must_use]
    pub fn keeps_padding(&self) -> bool {
        match self.layer {
            Layer::Embedding { padding_index, .. } => padding_index.is_some() && self.input.len() == 1,
            Layer::Linear { .. }
            | Layer::Relu
            | Layer::Gelu { .. }
            | Layer::Silu
            | Layer::Tanh
            | Layer::Sigmoid
            | Layer::Softmax
            | Layer::Dropout { .. }
            | Layer::LayerNorm { .. }
            | Layer::PositionalEmbedding
            | Layer::Residual { .. }
            | Layer::TransformerEncoder { .. }
            | Layer::Lstm(_)
            | Layer::Gru(_) => self.padded,
            _ => false,
        }
    }

    /// Elements of one sample after it.
    #[must_use]
    pub fn width(&self) -> usize {
        self.output.iter().product()
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
        // Those inside of a layer count from 1.
        let mut dropouts = index as u32 + DROPOUT;
        let mut site = Site {
            index,
            name: index.to_string(),
            key: format!("model.layers[{index}]"),
            is_first: index == 0,
            padded: planned.last().is_some_and(Planned::keeps_padding),
            dropout: index as u32,
            inner_dropouts: &mut dropouts,
        };
        let next = site.plan(layer, planned.last().map_or(input, |last| &last.output))?;
        planned.push(next);
    }
    Ok(planned)
}

/// What is added to a dropout's number for the next one inside of the same layer.
pub(super) const DROPOUT: u32 = 1 << 16;

/// Where a layer stands.
pub(super) struct Site<'a> {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) key: String,
    pub(super) is_first: bool,
    pub(super) padded: bool,
    /// Number of a dropout that stands here.
    pub(super) dropout: u32,
    /// Number of the next dropout inside of the layer of the model.
    pub(super) inner_dropouts: &'a mut u32,
}

impl Site<'_> {
    /// An error about this layer.
    pub(super) fn wrong(&self, layer: &Layer, what: impl AsRef<str>) -> Error {
        let (name, kind) = (&self.name, layer.kind());
        Error::invalid(format!("layer {name} ({kind}): {}", what.as_ref())).at("key", self.key.clone())
    }

    /// A tensor of this layer.
    pub(super) fn parameter(&self, name: &str, shape: &[usize], initial: Initial, role: Role) -> Parameter {
        Parameter { name: format!("{}.{name}", self.name), shape: shape.to_vec(), initial, role }
    }

    /// Shapes and parameters of the layers inside `layer`.
    pub(super) fn plan_body(&mut self, layers: &[Layer], input: &[usize]) -> Result<Vec<Planned>> {
        let mut planned: Vec<Planned> = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            let dropout = *self.inner_dropouts;
            if matches!(layer, Layer::Dropout { .. }) {
                *self.inner_dropouts += DROPOUT;
            }
            let mut site = Site {
                index,
                name: format!("{}.body.{index}", self.name),
                key: format!("{}.layers[{index}]", self.key),
                is_first: false,
                padded: planned.last().map_or(self.padded, Planned::keeps_padding),
                dropout,
                inner_dropouts: &mut *self.inner_dropouts,
            };
            let next = site.plan(layer, planned.last().map_or(input, |last| &last.output))?;
            planned.push(next);
        }
        Ok(planned)
    }

    fn plan(&mut self, layer: &Layer, input: &[usize]) -> Result<Planned> {
        let mut planned = Planned {
            index: self.index,
            name: self.name.clone(),
            layer: layer.clone(),
            input: input.to_vec(),
            output: Vec::new(),
            parameters: Vec::new(),
            body: Vec::new(),
            dropout: self.dropout,
            padded: self.padded,
        };
        shapes::fill(&mut planned, self)?;
        if let Some(Parameter { shape, .. }) = planned.parameters.iter().find(|p| is_too_large(&p.shape)) {
            return Err(self
                .wrong(layer, format!("a weight of {shape:?} is too large"))
                .hint("check its keys: at most 2^32 weights fit in one tensor"));
        }
        if is_too_large(&planned.output) {
            return Err(self.wrong(layer, format!("one sample of shape {:?} after it is too large", planned.output)));
        }
        Ok(planned)
    }
}

fn is_too_large(shape: &[usize]) -> bool {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_none_or(|n| n > MAX_ELEMENTS)
}

/// More elements than this in one tensor of a sample or one parameter are refused rather than tried.
const MAX_ELEMENTS: usize = 1 << 32;
