//! Numbers: how far off they are.

use serde::Serialize;

use super::mean;
use crate::client::Prediction;

/// How good answers are that are numbers. Over several targets, all are plain means.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NumberMetrics {
    /// Mean squared error.
    pub mse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// Share of the variance that is explained; none with a single row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
    /// Each target, in order.
    pub targets: Vec<NumberRow>,
}

/// How good the answers are about one target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NumberRow {
    /// Its name.
    pub target: String,
    /// Mean squared error.
    pub mse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// `1 - squared errors / squared differences from the mean`. Where all targets are the same, 1 if there is no error,
    /// else 0; none with a single row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
}

impl NumberMetrics {
    pub(super) fn new(names: &[String], predictions: &[Prediction], truth: &[f32]) -> Self {
        let answers: Vec<f64> = predictions
            .iter()
            .flat_map(|prediction| match prediction {
                Prediction::Number(value) => std::slice::from_ref(value),
                Prediction::Numbers(values) => &values[..],
                Prediction::Class { .. } | Prediction::Labels(_) => &[],
            })
            .copied()
            .collect();
        let column = |i: usize| {
            let truth = truth.iter().skip(i).step_by(names.len()).map(|t| f64::from(*t));
            (answers.iter().skip(i).step_by(names.len()).copied().collect::<Vec<_>>(), truth.collect::<Vec<_>>())
        };
        let targets: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let (answers, truth) = column(i);
                NumberRow::new(name, &answers, &truth)
            })
            .collect();
        let over = |of: fn(&NumberRow) -> f64| mean(targets.iter().map(of)).unwrap_or_default();
        Self {
            mse: over(|target| target.mse),
            mae: over(|target| target.mae),
            r2: mean(targets.iter().filter_map(|target| target.r2)),
            targets,
        }
    }
}

impl NumberRow {
    fn new(name: &str, answers: &[f64], truth: &[f64]) -> Self {
        let off = || answers.iter().zip(truth).map(|(answer, truth)| answer - truth);
        let middle = mean(truth.iter().copied()).unwrap_or_default();
        let squares: f64 = off().map(|d| d * d).sum();
        let spread: f64 = truth.iter().map(|t| (t - middle) * (t - middle)).sum();
        let r2 = match (squares == 0.0, spread == 0.0) {
            (_, false) => 1.0 - squares / spread,
            (true, true) => 1.0,
            (false, true) => 0.0,
        };
        Self {
            target: name.to_string(),
            mse: mean(off().map(|d| d * d)).unwrap_or_default(),
            mae: mean(off().map(f64::abs)).unwrap_or_default(),
            r2: (truth.len() > 1).then_some(r2),
        }
    }
}
