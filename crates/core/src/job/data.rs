//! The data of a job, as files on the user's machine.

use std::{
    path::{Path, PathBuf},
    slice,
};

use serde::{Deserialize, Serialize};

/// The data, as files on the user's machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// File or folder with the training rows.
    pub train: PathBuf,
    /// What the files are; their names say it if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// File with the targets of the training rows, where `train` holds features alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// What is to be predicted: a column or several, or the name of an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Targets>,
    /// What is held out, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// File with the targets of the held-out rows, where they are a file of features alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_labels: Option<PathBuf>,
    /// Columns to learn from, all but the target if unset; or the name of an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Columns to leave out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Feature columns that hold categories, not numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub categorical: Vec<String>,
    /// Column that says how much each training row counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// How numeric features are scaled.
    #[serde(default)]
    pub normalize: Normalize,
    /// The column of texts to learn from, instead of columns of numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Tokens of a text; what is longer is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// A `tokenizer.json` that makes tokens of the texts; their bytes are tokens if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Makes a row of each stretch of a series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// How a folder of images is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
}

impl Data {
    /// The names of what is to be predicted.
    #[must_use]
    pub fn targets(&self) -> &[String] {
        self.target.as_ref().map_or(&[], Targets::names)
    }
}

/// The name of what is to be predicted, or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a text in quotes, or a list of texts")]
pub enum Targets {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Targets {
    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

impl From<&str> for Targets {
    fn from(name: &str) -> Self {
        Self::One(name.to_string())
    }
}

/// Held-out data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a share of the rows between 0 and 1, or the path of a file")]
pub enum Validation {
    /// A share of the training rows, between 0 and 1.
    Fraction(f64),
    /// A file or folder of its own, of the same form.
    File(PathBuf),
}

/// Scaling of numeric features, fitted on the training rows and stored with the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// Mean 0, standard deviation 1.
    #[default]
    Standard,
    /// Range 0 to 1.
    MinMax,
    /// As they are.
    None,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Text with a header and delimiters.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// A NumPy array.
    Npy,
    /// NumPy arrays in a ZIP archive.
    Npz,
    /// Tensors with names.
    Safetensors,
    /// An array as MNIST has it, perhaps compressed by gzip.
    Idx,
    /// A folder with a folder of images for each class.
    Images,
}

impl Format {
    /// What the name of a file says.
    #[must_use]
    pub fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let is_idx = |name: &str| [".idx", "-ubyte", ".idx1", ".idx3"].iter().any(|end| name.ends_with(end));
        if is_idx(name.strip_suffix(".gz").unwrap_or(&name)) {
            return Some(Self::Idx);
        }
        match name.rsplit_once('.')?.1 {
            "csv" | "tsv" | "txt" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            "npy" => Some(Self::Npy),
            "npz" => Some(Self::Npz),
            "safetensors" => Some(Self::Safetensors),
            _ => None,
        }
    }

    /// Whether it has columns with names.
    #[must_use]
    pub fn is_table(self) -> bool {
        matches!(self, Self::Csv | Self::Parquet)
    }

    /// Its name, as in a job file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Npy => "npy",
            Self::Npz => "npz",
            Self::Safetensors => "safetensors",
            Self::Idx => "idx",
            Self::Images => "images",
        }
    }
}

/// Stretches of a series: `length` rows of the file make a row, the target stands `horizon` rows after the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Rows of the file in a row.
    pub length: usize,
    /// Rows from the last one to the target.
    #[serde(default = "one")]
    pub horizon: usize,
    /// Rows from the start of one to the start of the next.
    #[serde(default = "one")]
    pub stride: usize,
}

fn one() -> usize {
    1
}

/// How images become rows of one shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// Height and width that images are resized to; all must have those of the first if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
    /// What a pixel is.
    #[serde(default)]
    pub color: Color,
}

/// What a pixel is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Color {
    /// Red, green and blue.
    #[default]
    Rgb,
    /// Brightness.
    Grayscale,
}

impl Color {
    /// Numbers of a pixel.
    #[must_use]
    pub fn channels(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Grayscale => 1,
        }
    }
}
