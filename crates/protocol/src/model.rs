//! The finished model: weights under their plain names, and what is needed to use them.

use outboard_core::{
    error::{Error, Result},
    job::{Color, Loss, Window},
    layer::Layer,
};
use serde::{Deserialize, Serialize};

use crate::{
    inputs::Scaling,
    tensors::{self, Tensors},
};

/// A finished model. As a file it is a state dict that PyTorch's `load_state_dict` takes.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFile {
    /// What the weights mean.
    pub facts: ModelFacts,
    /// The weights, by state-dict name.
    pub tensors: Tensors,
}

/// What is needed to use a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Version of the semantics it was made under.
    pub protocol: u32,
    /// `"model"`.
    pub kind: String,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// Shape of one row.
    pub input: Vec<usize>,
    /// What it was trained to minimise.
    pub loss: Loss,
    /// How files are read.
    pub schema: Schema,
}

/// How a file becomes rows of numbers: the columns, in order, and the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// Feature columns, in order.
    pub features: Vec<Feature>,
    /// What is to be predicted.
    pub target: TargetColumn,
    /// Whether stretches of the file are the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

/// A feature column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Feature {
    /// `(cell - offset) / scale`.
    Numeric {
        /// Its header.
        name: String,
        /// Taken off.
        offset: f64,
        /// Divided by; never 0.
        scale: f64,
    },
    /// One input per category, 1 where it applies.
    Categorical {
        /// Its header.
        name: String,
        /// In order.
        categories: Vec<String>,
    },
    /// A part of an array for each row; the only feature.
    Array {
        /// Its name, where the file has several.
        name: String,
        /// Shape of one row.
        shape: Vec<usize>,
        /// For equal parts of a row, in order.
        scalings: Vec<Scaling>,
    },
    /// An image: `[channels, height, width]`; the only feature.
    Image {
        /// Height and width.
        size: [usize; 2],
        /// Whether images of another size are resized.
        resize: bool,
        /// What a pixel is.
        color: Color,
        /// For each channel.
        scalings: Vec<Scaling>,
    },
    /// The bytes of a text as tokens, or what a tokenizer makes of it, each and 1; 0 up to the length. The only feature.
    Text {
        /// Header of the column.
        name: String,
        /// Tokens of a row.
        max_length: usize,
        /// What makes tokens of a text; its bytes are tokens if unset.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokenizer: Option<Tokenizer>,
    },
}

/// A tokenizer of Hugging Face's format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokenizer {
    /// One more than its highest token.
    pub tokens: usize,
    /// The content of `tokenizer.json`.
    pub json: String,
}

impl Feature {
    /// Its header.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Numeric { name, .. }
            | Self::Categorical { name, .. }
            | Self::Array { name, .. }
            | Self::Text { name, .. } => name,
            Self::Image { .. } => "image",
        }
    }

    /// Inputs that it makes.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Numeric { .. } => 1,
            Self::Categorical { categories, .. } => categories.len(),
            Self::Array { shape, .. } => shape.iter().product(),
            Self::Image { size: [height, width], color, .. } => color.channels() * height * width,
            Self::Text { max_length, .. } => *max_length,
        }
    }
}

/// What is to be predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TargetColumn {
    /// One of several classes; the target is its index.
    Classes {
        /// Its header.
        name: String,
        /// In the order of the model's outputs.
        classes: Vec<String>,
    },
    /// One of two classes; the target is 0 or 1.
    Binary {
        /// Its header.
        name: String,
        /// The class of 0, then that of 1.
        classes: [String; 2],
    },
    /// A number.
    Number {
        /// Its header.
        name: String,
    },
    /// Several numbers.
    Numbers {
        /// Their headers.
        names: Vec<String>,
    },
    /// Several labels, each of which applies or doesn't: 1 or 0.
    Labels {
        /// Their headers.
        names: Vec<String>,
    },
}

impl TargetColumn {
    /// Its header, or their headers.
    #[must_use]
    pub fn names(&self) -> &[String] {
        match self {
            Self::Classes { name, .. } | Self::Binary { name, .. } | Self::Number { name } => {
                std::slice::from_ref(name)
            }
            Self::Numbers { names } | Self::Labels { names } => names,
        }
    }

    /// Outputs that a model must have.
    #[must_use]
    pub fn outputs(&self) -> usize {
        match self {
            Self::Classes { classes, .. } => classes.len(),
            Self::Binary { .. } | Self::Number { .. } => 1,
            Self::Numbers { names } | Self::Labels { names } => names.len(),
        }
    }
}

impl ModelFile {
    /// The model as a safetensors file. The same model gives the same bytes.
    ///
    /// # Errors
    /// `Unexpected` where a tensor's shape and elements don't go together.
    pub fn encode(&self) -> Result<Vec<u8>> {
        tensors::encode_f32(&self.tensors, &self.facts)
    }

    /// Reads a model back.
    ///
    /// # Errors
    /// `CorruptPayload` where the bytes are no safetensors file, `InvalidRequest` where it wasn't made by us,
    /// `Unsupported` for another version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Kind {
            protocol: u32,
            kind: String,
        }
        let Some(kind) = tensors::facts::<Kind>(bytes)? else {
            return Err(Error::invalid("the file holds weights, but not what they mean")
                .hint("use a model.safetensors that `outboard train` wrote; to start from these weights, name them in `model.weights`"));
        };
        tensors::check_version(kind.protocol)?;
        if kind.kind != "model" {
            return Err(Error::invalid(format!("the file is a {}, not a model", kind.kind))
                .hint("use a model.safetensors that `outboard train` wrote"));
        }
        let facts = tensors::facts(bytes)?.ok_or_else(|| tensors::corrupt("the file has no metadata"))?;
        Ok(Self { facts, tensors: tensors::decode(bytes)? })
    }
}
