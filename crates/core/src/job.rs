//! What the user asks for: a model, data, hyperparameters and limits, as written in a job file.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    error::{Error, Result},
    layer::{Layer, Planned},
    money::{self, NanoUsd},
    shorthand,
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
}

/// A model: a list of layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The layers, first to last. `"relu"` is short for `{ type = "relu" }`.
    #[serde(deserialize_with = "layers")]
    pub layers: Vec<Layer>,
    /// A safetensors file to start from instead of random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
}

fn layers<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Layer>, D::Error> {
    #[derive(Deserialize)]
    struct Short(#[serde(deserialize_with = "shorthand::deserialize")] Layer);
    Ok(Vec::<Short>::deserialize(d)?.into_iter().map(|Short(layer)| layer).collect())
}

/// The data, as files on the user's machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// File with the training rows, with a header.
    pub train: PathBuf,
    /// Column to be predicted.
    pub target: String,
    /// What is held out, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// Columns to learn from; all but the target if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Columns to leave out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Feature columns that hold categories, not numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub categorical: Vec<String>,
    /// How numeric features are scaled.
    #[serde(default)]
    pub normalize: Normalize,
}

/// Held-out data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a share of the rows between 0 and 1, or the path of a file")]
pub enum Validation {
    /// A share of the training rows, between 0 and 1.
    Fraction(f64),
    /// A file of its own, with the same columns.
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

/// Hyperparameters. Definitions and defaults are PyTorch's (`docs/protocol.md`, sections 5, 8 and 9).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// What is minimised.
    #[serde(deserialize_with = "shorthand::deserialize")]
    pub loss: Loss,
    /// How.
    #[serde(default, deserialize_with = "shorthand::deserialize")]
    pub optimizer: Optimizer,
    /// Course of the learning rate.
    #[serde(default, deserialize_with = "shorthand::deserialize")]
    pub schedule: Schedule,
    /// Steps over which the learning rate rises to its value.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Passes over the training rows.
    pub epochs: u32,
    /// Rows per step.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Of all random numbers: initial weights, split, batch order, dropout.
    #[serde(default)]
    pub seed: u64,
    /// Whether each epoch has an order of its own.
    #[serde(default = "yes")]
    pub shuffle: bool,
    /// Whether an incomplete last batch is left out.
    #[serde(default)]
    pub drop_last: bool,
    /// Upper bound of the norm of all gradients together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Upper bound of the absolute value of each gradient element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_value: Option<f64>,
    /// Parameters that stay as they are: a layer (`"0"`) or a tensor (`"0.bias"`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// Ends the job when it no longer improves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Which epoch's weights become the model.
    #[serde(default)]
    pub keep: Keep,
}

fn yes() -> bool {
    true
}

fn default_batch_size() -> usize {
    32
}

/// What is minimised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// Softmax and negative log-likelihood of a class.
    CrossEntropy {
        /// Share of the target spread over all classes.
        #[serde(default)]
        label_smoothing: f64,
        /// Weight of each class, in the order of the classes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class_weights: Option<Vec<f32>>,
    },
    /// Mean squared error.
    Mse,
    /// Mean absolute error.
    L1,
    /// Squared near zero, absolute beyond `delta`.
    Huber {
        /// Where it changes.
        #[serde(default = "one")]
        delta: f64,
    },
    /// Binary cross-entropy of a sigmoid.
    BceWithLogits {
        /// Weight of the positive class.
        #[serde(default = "one")]
        positive_weight: f64,
    },
}

fn one() -> f64 {
    1.0
}

impl Loss {
    /// Whether the target is a class index.
    #[must_use]
    pub fn is_classification(&self) -> bool {
        matches!(self, Self::CrossEntropy { .. })
    }

    /// Whether accuracy means something.
    #[must_use]
    pub fn has_accuracy(&self) -> bool {
        matches!(self, Self::CrossEntropy { .. } | Self::BceWithLogits { .. })
    }
}

/// How the weights move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd {
        /// Learning rate.
        lr: f64,
        /// Share of the last direction that is kept.
        #[serde(default)]
        momentum: f64,
        /// Damping of the new gradient in the momentum.
        #[serde(default)]
        dampening: f64,
        /// L2 penalty.
        #[serde(default)]
        weight_decay: f64,
        /// Nesterov's momentum.
        #[serde(default)]
        nesterov: bool,
    },
    /// Adam, with the penalty in the gradient.
    Adam {
        /// Learning rate.
        #[serde(default = "adam_lr")]
        lr: f64,
        /// Decay of the averages of gradient and square.
        #[serde(default = "adam_betas")]
        betas: [f64; 2],
        /// Added to the denominator.
        #[serde(default = "adam_eps")]
        eps: f64,
        /// L2 penalty.
        #[serde(default)]
        weight_decay: f64,
    },
    /// Adam with decoupled weight decay.
    #[serde(rename = "adamw")]
    AdamW {
        /// Learning rate.
        #[serde(default = "adam_lr")]
        lr: f64,
        /// Decay of the averages of gradient and square.
        #[serde(default = "adam_betas")]
        betas: [f64; 2],
        /// Added to the denominator.
        #[serde(default = "adam_eps")]
        eps: f64,
        /// Share of the weight that is taken off per step, times the learning rate.
        #[serde(default = "adamw_decay")]
        weight_decay: f64,
    },
}

fn adam_lr() -> f64 {
    1e-3
}

fn adam_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn adam_eps() -> f64 {
    1e-8
}

fn adamw_decay() -> f64 {
    1e-2
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::Adam { lr: adam_lr(), betas: adam_betas(), eps: adam_eps(), weight_decay: 0.0 }
    }
}

impl Optimizer {
    /// The learning rate before any schedule.
    #[must_use]
    pub fn lr(&self) -> f64 {
        match self {
            Self::Sgd { lr, .. } | Self::Adam { lr, .. } | Self::AdamW { lr, .. } => *lr,
        }
    }
}

/// Course of the learning rate after warm-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Always the same.
    #[default]
    Constant,
    /// Times `gamma` every few epochs.
    Step {
        /// Epochs between two changes.
        every: u32,
        /// The factor.
        #[serde(default = "tenth")]
        gamma: f64,
    },
    /// Half a cosine, down to `min_lr` at the end of the job.
    Cosine {
        /// Where it ends.
        #[serde(default)]
        min_lr: f64,
    },
}

fn tenth() -> f64 {
    0.1
}

impl Train {
    /// The learning rate of optimizer step `step` (from 0), with `steps_per_epoch` steps in each epoch.
    #[must_use]
    pub fn lr_at(&self, step: u64, steps_per_epoch: u64) -> f64 {
        let lr = self.optimizer.lr();
        if step < self.warmup_steps {
            return lr * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        match &self.schedule {
            Schedule::Constant => lr,
            Schedule::Step { every, gamma } => {
                let epoch = step / steps_per_epoch.max(1);
                lr * gamma.powi((epoch / u64::from(*every).max(1)) as i32)
            }
            Schedule::Cosine { min_lr } => {
                let total = (u64::from(self.epochs) * steps_per_epoch).saturating_sub(self.warmup_steps).max(1);
                let t = (step - self.warmup_steps) as f64 / total as f64;
                min_lr + (lr - min_lr) * (1.0 + (std::f64::consts::PI * t).cos()) / 2.0
            }
        }
    }

    /// Optimizer steps in one epoch over `rows` training rows.
    #[must_use]
    pub fn steps_per_epoch(&self, rows: usize) -> u64 {
        let steps = if self.drop_last { rows / self.batch_size } else { rows.div_ceil(self.batch_size) };
        steps as u64
    }

    /// Whether the parameter of this name stays as it is.
    #[must_use]
    pub fn is_frozen(&self, parameter: &str) -> bool {
        self.freeze.iter().any(|name| {
            parameter.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

/// Ends the job when the monitored metric no longer improves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Epochs without improvement after which the job ends.
    pub patience: u32,
    /// What counts as an improvement.
    #[serde(default)]
    pub min_delta: f64,
}

/// Which epoch's weights become the model. The best is the one with the lowest validation loss, or the lowest
/// training loss where nothing is held out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The last.
    #[default]
    Last,
    /// The best.
    Best,
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

impl Job {
    /// Checks every value that has a range of its own.
    ///
    /// # Errors
    /// `InvalidRequest`, naming the key, what it is, and what would be right.
    pub fn check(&self) -> Result<()> {
        self.train.check()?;
        if let Some(Validation::Fraction(f)) = self.data.validation
            && !(f > 0.0 && f < 1.0)
        {
            return Err(wrong("data.validation", f, "a share of the rows between 0 and 1, such as 0.2"));
        }
        if self.limits.deadline == Some(Duration::ZERO) {
            return Err(wrong("limits.deadline", "0s", "a time above zero, such as \"10m\""));
        }
        Ok(())
    }
}

fn wrong(key: &'static str, value: impl std::fmt::Display, right: &str) -> Error {
    Error::invalid(format!("`{key}` is {value}, but must be {right}")).at("key", key).hint(format!("set it to {right}"))
}

impl Train {
    /// Checks every value that has a range of its own.
    ///
    /// # Errors
    /// `InvalidRequest`, naming the key, what it is, and what would be right.
    pub fn check(&self) -> Result<()> {
        if self.epochs == 0 {
            return Err(wrong("train.epochs", 0, "at least 1"));
        }
        if self.batch_size == 0 {
            return Err(wrong("train.batch_size", 0, "at least 1"));
        }
        let above_zero = |key, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(wrong(key, value, "a number above 0")),
        };
        let not_negative = |key, value: f64| match value >= 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(wrong(key, value, "a number of at least 0")),
        };
        let share = |key, value: f64| match (0.0..1.0).contains(&value) {
            true => Ok(()),
            false => Err(wrong(key, value, "at least 0 and below 1")),
        };
        match &self.optimizer {
            Optimizer::Sgd { lr, momentum, dampening, weight_decay, nesterov } => {
                above_zero("train.optimizer.lr", *lr)?;
                share("train.optimizer.momentum", *momentum)?;
                not_negative("train.optimizer.dampening", *dampening)?;
                not_negative("train.optimizer.weight_decay", *weight_decay)?;
                if *nesterov && (*momentum == 0.0 || *dampening != 0.0) {
                    return Err(wrong(
                        "train.optimizer.nesterov",
                        true,
                        "false, or have momentum above 0 and no dampening",
                    ));
                }
            }
            Optimizer::Adam { lr, betas, eps, weight_decay } | Optimizer::AdamW { lr, betas, eps, weight_decay } => {
                above_zero("train.optimizer.lr", *lr)?;
                betas.iter().try_for_each(|beta| share("train.optimizer.betas", *beta))?;
                not_negative("train.optimizer.eps", *eps)?;
                not_negative("train.optimizer.weight_decay", *weight_decay)?;
            }
        }
        match &self.schedule {
            Schedule::Constant => {}
            Schedule::Step { every, gamma } => {
                if *every == 0 {
                    return Err(wrong("train.schedule.every", 0, "at least 1"));
                }
                above_zero("train.schedule.gamma", *gamma)?;
            }
            Schedule::Cosine { min_lr } => not_negative("train.schedule.min_lr", *min_lr)?,
        }
        if let Some(c) = self.clip_norm {
            above_zero("train.clip_norm", c)?;
        }
        if let Some(c) = self.clip_value {
            above_zero("train.clip_value", c)?;
        }
        match &self.loss {
            Loss::CrossEntropy { label_smoothing, class_weights } => {
                share("train.loss.label_smoothing", *label_smoothing)?;
                for weight in class_weights.iter().flatten() {
                    not_negative("train.loss.class_weights", f64::from(*weight))?;
                }
                if class_weights.as_ref().is_some_and(|w| w.iter().all(|w| *w == 0.0)) {
                    return Err(wrong("train.loss.class_weights", "all zero", "above 0 for at least one class"));
                }
            }
            Loss::Huber { delta } => above_zero("train.loss.delta", *delta)?,
            Loss::BceWithLogits { positive_weight } => above_zero("train.loss.positive_weight", *positive_weight)?,
            Loss::Mse | Loss::L1 => {}
        }
        if let Some(early) = &self.early_stopping {
            if early.patience == 0 {
                return Err(wrong("train.early_stopping.patience", 0, "at least 1"));
            }
            not_negative("train.early_stopping.min_delta", early.min_delta)?;
        }
        Ok(())
    }

    /// Checks that every name in `freeze` is one of the model's, and that something is left to train.
    ///
    /// # Errors
    /// `InvalidRequest`, with the names that exist.
    pub fn check_freeze(&self, plan: &[Planned]) -> Result<()> {
        let names: Vec<&str> = plan.iter().flat_map(|l| &l.parameters).map(|p| p.name.as_str()).collect();
        let layers: BTreeSet<&str> =
            names.iter().filter_map(|name| name.rsplit_once('.')).map(|(layer, _)| layer).collect();
        for frozen in &self.freeze {
            if !names.contains(&frozen.as_str()) && !layers.contains(frozen.as_str()) {
                return Err(Error::invalid(format!(
                    "`{frozen}` in `train.freeze` names no layer or parameter of the model"
                ))
                .at("key", "train.freeze")
                .hint(format!("use a layer ({}) or a parameter ({})", quoted(layers), quoted(names))));
            }
        }
        if names.is_empty() {
            return Err(Error::invalid("the model has no parameter to train")
                .at("key", "model.layers")
                .hint("add a layer with weights, such as `{ type = \"linear\", out = 10 }`"));
        }
        if names.iter().all(|name| self.is_frozen(name)) {
            return Err(Error::invalid("every parameter is frozen, so there is nothing to train")
                .at("key", "train.freeze")
                .hint("leave at least one layer out of it"));
        }
        Ok(())
    }
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
