//! What the user asks for: a model, data, hyperparameters and limits, as written in a job file.

mod check;
mod data;
mod train;

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::{
    data::{Color, Data, Format, Images, Normalize, Targets, Validation, Window},
    train::{Augment, Balance, ClassWeights, EarlyStopping, Keep, Loss, Optimizer, Schedule, Train},
};
use crate::{
    layer::{self, Layer},
    money::{self, NanoUsd},
};

/// A training job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Begins the job's id; the name of the job file if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Folder for the model, the metrics and a copy of the job; `runs/JOB` under the working directory if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<PathBuf>,
    /// What is trained.
    pub model: Model,
    /// On what.
    pub data: Data,
    /// How.
    pub train: Train,
    /// Within which bounds.
    #[serde(default)]
    pub limits: Limits,
    /// Where.
    #[serde(default, skip_serializing_if = "Routing::is_default")]
    pub routing: Routing,
}

/// A model: a list of layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The layers, first to last. `"relu"` is short for `{ type = "relu" }`.
    #[serde(deserialize_with = "layer::list")]
    pub layers: Vec<Layer>,
    /// Shape of one row, such as `[1, 28, 28]`; as many numbers as there are if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Vec<usize>>,
    /// A safetensors file to start from instead of random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
}

/// Bounds of the job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// What the job may cost at most; no limit if unset, only free providers if zero.
    #[serde(
        default,
        deserialize_with = "money::deserialize_usd",
        serialize_with = "money::serialize_usd",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_cost_usd: Option<NanoUsd>,
    /// Time after which the job stops where it is, such as `"10m"`.
    #[serde(default, with = "duration", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
}

/// Where the job may run, and what counts in the choice. What is unset is as configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// The only providers that it may run on; any if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<String>,
    /// Providers that it may not run on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether it may come home to this machine when others are enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_fallback: Option<bool>,
    /// What counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// What an hour of waiting is worth.
    #[serde(
        default,
        deserialize_with = "money::deserialize_usd",
        serialize_with = "money::serialize_usd",
        skip_serializing_if = "Option::is_none"
    )]
    pub value_of_time_usd_per_hour: Option<NanoUsd>,
}

impl Routing {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What the choice among the possible providers goes by. Cost and time are those expected for all that is left of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The least cost; among equals the least time.
    Cheapest,
    /// The least time; among equals the least cost.
    Fastest,
    /// The least cost + value of time × time; among equals the least cost.
    #[default]
    Balanced,
}

mod duration {
    use super::*;

    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => s.collect_str(&humantime::format_duration(*value)),
            None => s.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(d)?;
        humantime::parse_duration(&text)
            .map(Some)
            .map_err(|e| de::Error::custom(format!("`{text}` is not a duration, such as \"10m\" or \"2h 30m\": {e}")))
    }
}

#[cfg(test)]
mod tests;
