//! Hyperparameters, and what follows from them.

use serde::{Deserialize, Serialize};

use crate::shorthand;

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
    /// What is done to images at random while training, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub augment: Vec<Augment>,
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

/// A change of an image, drawn anew for each row and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Augment {
    /// Left and right change places, every other time.
    Flip,
    /// Up to so many pixels are added at every edge, and the image is cut out of that at random; what was added is 0.
    Crop(u32),
    /// Moved by up to so many pixels, in both directions; what comes in is as the edge.
    Shift(u32),
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
        /// How much each class counts; all the same if unset.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class_weights: Option<ClassWeights>,
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

/// How much each class counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a list of numbers, or \"balanced\"")]
pub enum ClassWeights {
    /// These, in the order of the classes.
    Each(Vec<f32>),
    /// As the training rows have them; the client works it out before anything is sent.
    Rule(Balance),
}

/// How class weights follow from the training rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// All classes count the same, however many rows they have.
    Balanced,
}

impl ClassWeights {
    /// The weights, once they are known.
    #[must_use]
    pub fn each(&self) -> Option<&[f32]> {
        match self {
            Self::Each(weights) => Some(weights),
            Self::Rule(_) => None,
        }
    }

    /// The weights that `balanced` gives: `rows / (classes * rows of the class)`, and 1 for a class without rows.
    #[must_use]
    pub fn balanced(classes: &[i64], count: usize) -> Self {
        let mut rows = vec![0u64; count];
        classes.iter().for_each(|class| rows[*class as usize] += 1);
        let weight = |n: &u64| match n {
            0 => 1.0,
            n => (classes.len() as f64 / (count as f64 * *n as f64)) as f32,
        };
        Self::Each(rows.iter().map(weight).collect())
    }
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
