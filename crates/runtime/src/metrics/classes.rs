//! Classes and labels: shares of right answers, precision, recall, F1, confusion, ROC AUC.

use serde::Serialize;

use super::{mean, ranking::roc_auc};
use crate::client::Prediction;

/// How many of the likeliest classes are looked at.
const TOP: [usize; 2] = [3, 5];

/// How good answers are that are classes or labels. Means over classes are plain: each class counts the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassMetrics {
    /// Share of right answers; of labels, over all rows and labels.
    pub accuracy: f64,
    /// Share of rows whose class is among the three likeliest, where there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_3: Option<f64>,
    /// Share of rows whose class is among the five likeliest, where there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_5: Option<f64>,
    /// Mean over the classes.
    pub precision: f64,
    /// Mean over the classes.
    pub recall: f64,
    /// Mean over the classes.
    pub f1: f64,
    /// Area under the ROC curve: that of the second of two classes, else the mean over those that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
    /// Each class, in order.
    pub classes: Vec<ClassRow>,
    /// Rows of each class, by what was said of them; empty for labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub confusion: Vec<Vec<u64>>,
}

/// How good the answers are about one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassRow {
    /// Its name.
    pub class: String,
    /// Rows that have it.
    pub rows: u64,
    /// Share of the rows said to have it that do; 0 where there is none.
    pub precision: f64,
    /// Share of the rows that have it of which it was said; 0 where there is none.
    pub recall: f64,
    /// Harmonic mean of the two; 0 where both are.
    pub f1: f64,
    /// Area under the ROC curve, against all others; none where all rows have it, or none has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
}

impl ClassRow {
    fn new(class: &str, scores: &[f64], said: &[bool], truth: &[bool]) -> Self {
        let count = |of: fn(bool, bool) -> bool| said.iter().zip(truth).filter(|(s, t)| of(**s, **t)).count() as f64;
        let (right, said, rows) = (count(|s, t| s && t), count(|s, _| s), count(|_, t| t));
        let share = |part: f64, whole: f64| if whole == 0.0 { 0.0 } else { part / whole };
        Self {
            class: class.to_string(),
            rows: rows as u64,
            precision: share(right, said),
            recall: share(right, rows),
            f1: share(2.0 * right, said + rows),
            roc_auc: roc_auc(scores, truth),
        }
    }
}

impl ClassMetrics {
    pub(super) fn of_classes(names: &[String], predictions: &[Prediction], truth: &[usize]) -> Self {
        let answers: Vec<(usize, &[f64])> = predictions
            .iter()
            .filter_map(|prediction| match prediction {
                Prediction::Class { index, probabilities } => Some((*index, &probabilities[..])),
                _ => None,
            })
            .collect();
        let mut confusion = vec![vec![0; names.len()]; names.len()];
        for ((said, _), truth) in answers.iter().zip(truth) {
            confusion[*truth][*said] += 1;
        }
        let row = |(class, name): (usize, &String)| {
            let scores: Vec<f64> = answers.iter().map(|(_, shares)| shares[class]).collect();
            let said: Vec<bool> = answers.iter().map(|(said, _)| *said == class).collect();
            let truth: Vec<bool> = truth.iter().map(|truth| *truth == class).collect();
            ClassRow::new(name, &scores, &said, &truth)
        };
        let classes: Vec<_> = names.iter().enumerate().map(row).collect();
        let share = |right: &dyn Fn(usize, &[f64], usize) -> bool| {
            let right = answers.iter().zip(truth).filter(|((said, shares), truth)| right(*said, shares, **truth));
            right.count() as f64 / truth.len() as f64
        };
        let [top_3, top_5] =
            TOP.map(|k| (names.len() > k).then(|| share(&|_, shares, truth| place(shares, truth) < k)));
        let roc_auc = match &classes[..] {
            [_, second] => second.roc_auc,
            all => mean(all.iter().filter_map(|class| class.roc_auc)),
        };
        let accuracy = share(&|said, _, truth| said == truth);
        Self { top_3, top_5, roc_auc, confusion, ..Self::means(accuracy, classes) }
    }

    pub(super) fn of_labels(names: &[String], predictions: &[Prediction], truth: &[f32]) -> Self {
        let answers: Vec<&[f64]> = predictions
            .iter()
            .filter_map(|prediction| match prediction {
                Prediction::Labels(probabilities) => Some(&probabilities[..]),
                _ => None,
            })
            .collect();
        let mut right = 0u64;
        let row = |(label, name): (usize, &String)| {
            let scores: Vec<f64> = answers.iter().map(|shares| shares[label]).collect();
            let said: Vec<bool> = scores.iter().map(|share| *share > 0.5).collect();
            let truth: Vec<bool> = truth.iter().skip(label).step_by(names.len()).map(|t| *t > 0.5).collect();
            right += said.iter().zip(&truth).filter(|(said, truth)| said == truth).count() as u64;
            ClassRow::new(name, &scores, &said, &truth)
        };
        let classes: Vec<_> = names.iter().enumerate().map(row).collect();
        let roc_auc = mean(classes.iter().filter_map(|class| class.roc_auc));
        Self { roc_auc, ..Self::means(right as f64 / truth.len() as f64, classes) }
    }

    fn means(accuracy: f64, classes: Vec<ClassRow>) -> Self {
        let mean = |of: fn(&ClassRow) -> f64| mean(classes.iter().map(of)).unwrap_or_default();
        Self {
            accuracy,
            top_3: None,
            top_5: None,
            precision: mean(|class| class.precision),
            recall: mean(|class| class.recall),
            f1: mean(|class| class.f1),
            roc_auc: None,
            confusion: Vec::new(),
            classes,
        }
    }
}

/// How many classes come before this one: those that are likelier, and among equals the first.
fn place(shares: &[f64], class: usize) -> usize {
    let before = |(other, share): (usize, &f64)| *share > shares[class] || (*share == shares[class] && other < class);
    shares.iter().enumerate().filter(|entry| before(*entry)).count()
}
