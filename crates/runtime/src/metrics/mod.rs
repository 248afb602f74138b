//! How good answers are, from what a model says of rows and what is true of them.

mod classes;
mod numbers;
mod ranking;

use outboard_protocol::{Target, TargetColumn};
use serde::Serialize;

pub use self::{
    classes::{ClassMetrics, ClassRow},
    numbers::{NumberMetrics, NumberRow},
};
use crate::client::Prediction;

/// How good the answers are.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Quality {
    /// One class for each row.
    Classes(ClassMetrics),
    /// Labels that apply to a row or don't, each a class of its own.
    Labels(ClassMetrics),
    /// Numbers.
    Numbers(NumberMetrics),
}

impl Quality {
    /// Judges predictions; there are as many targets.
    pub(crate) fn of(target: &TargetColumn, predictions: &[Prediction], truth: &Target) -> Option<Self> {
        Some(match (target, truth) {
            (TargetColumn::Classes { classes, .. }, Target::Classes(truth)) => {
                let truth: Vec<usize> = truth.iter().map(|class| *class as usize).collect();
                Self::Classes(ClassMetrics::of_classes(classes, predictions, &truth))
            }
            (TargetColumn::Binary { classes, .. }, Target::Values { values, .. }) => {
                let truth: Vec<usize> = values.iter().map(|value| usize::from(*value > 0.5)).collect();
                Self::Classes(ClassMetrics::of_classes(classes, predictions, &truth))
            }
            (TargetColumn::Labels { names }, Target::Values { values, .. }) => {
                Self::Labels(ClassMetrics::of_labels(names, predictions, values))
            }
            (TargetColumn::Number { .. } | TargetColumn::Numbers { .. }, Target::Values { values, .. }) => {
                Self::Numbers(NumberMetrics::new(target.names(), predictions, values))
            }
            _ => return None,
        })
    }
}

/// The mean; none of nothing.
fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.into_iter().fold((0.0, 0u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests;
