//! Evaluates models and predicts with them.

use std::{fs, path::Path};

use outboard_core::{Error, ErrorKind, Result, code, error::IoContext, job::Loss, task::Metrics};
use outboard_data::{read_features, read_labelled};
use outboard_engine::loss::{self, LossSums, Targets};
use outboard_protocol::{Dataset, ModelFile, Target, TargetColumn, Tensor};

use super::{Client, blocking, desk::Desk};
use crate::metrics::Quality;

/// Rows whose loss is worked out at a time, as workers do it.
const ROWS: usize = 256;

/// How good a model is on some data.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Id of the evaluation.
    pub job: String,
    /// Where it ran.
    pub provider: String,
    /// Loss and accuracy.
    pub metrics: Metrics,
    /// The rest.
    pub quality: Quality,
}

/// What a model says of some rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// Id of the prediction.
    pub job: String,
    /// Where it ran.
    pub provider: String,
    /// Names of the predicted columns.
    pub targets: Vec<String>,
    /// Classes of the one column, in the order of the probabilities; none where it is a number or there are several.
    pub classes: Option<Vec<String>>,
    /// One for each row of the file.
    pub rows: Vec<Prediction>,
}

/// What a model says of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Prediction {
    /// The index of the likeliest class, and the probability of each.
    Class {
        /// In [`Predictions::classes`].
        index: usize,
        /// In the same order.
        probabilities: Vec<f64>,
    },
    /// A number.
    Number(f64),
    /// A number for each of several columns.
    Numbers(Vec<f64>),
    /// For each of several labels, the probability that it applies.
    Labels(Vec<f64>),
}

impl Client {
    /// How good the model in `model` is on the rows of the file or folder `data`. Their targets are in it, or in the file
    /// `labels` where `data` is a single array.
    ///
    /// # Errors
    /// `InvalidRequest`, `NotFound` where a file can't be read or doesn't suit the model.
    pub async fn evaluate(&self, model: &Path, data: &Path, labels: Option<&Path>) -> Result<Evaluation> {
        let (data, labels) = (data.to_path_buf(), labels.map(Path::to_path_buf));
        let scratch = self.store.scratch();
        let read = move |file: &ModelFile| read_labelled(&data, labels.as_deref(), &file.facts.schema, &scratch);
        let (file, data) = self.open(model, read).await?;
        let desk = Desk::new(self, "evaluate")?;
        let (provider, outputs) = desk.outputs(&file, &data).await?;
        let target = &file.facts.schema.target;
        let (_, rows) = Prediction::all(target, &outputs.data);
        let unexpected = || Error::new(ErrorKind::Unexpected, "the targets do not suit the model");
        let quality = Quality::of(target, &rows, &data.y).ok_or_else(unexpected)?;
        let metrics = measure(&file.facts.loss, &outputs, &data)?;
        Ok(Evaluation { job: desk.id.clone(), provider, metrics, quality })
    }

    /// What the model in `model` says of the rows of the file or folder `data`.
    ///
    /// # Errors
    /// `InvalidRequest`, `NotFound` where a file can't be read or doesn't suit the model.
    pub async fn predict(&self, model: &Path, data: &Path) -> Result<Predictions> {
        let (data, scratch) = (data.to_path_buf(), self.store.scratch());
        let read = move |file: &ModelFile| read_features(&data, &file.facts.schema, &scratch);
        let (file, data) = self.open(model, read).await?;
        let desk = Desk::new(self, "predict")?;
        let (provider, outputs) = desk.outputs(&file, &data).await?;
        let target = &file.facts.schema.target;
        let (classes, rows) = Prediction::all(target, &outputs.data);
        Ok(Predictions { job: desk.id.clone(), provider, targets: target.names().to_vec(), classes, rows })
    }

    async fn open(
        &self,
        model: &Path,
        read: impl FnOnce(&ModelFile) -> Result<Dataset> + Send + 'static,
    ) -> Result<(ModelFile, Dataset)> {
        let path = model.to_path_buf();
        blocking(move || {
            let bytes = fs::read(&path).doing("read the model", &path)?;
            let file = ModelFile::decode(&bytes).map_err(|e| {
                let hint = e.advice().unwrap_or("use a model.safetensors that `outboard train` wrote").to_string();
                e.or_code(code::MODEL).at("file", path.display()).hint(hint)
            })?;
            let data = read(&file)?.shaped(&file.facts.input)?;
            Ok((file, data))
        })
        .await
    }
}

/// Loss and accuracy of outputs, as a worker would say.
fn measure(loss: &Loss, outputs: &Tensor, data: &Dataset) -> Result<Metrics> {
    let (rows, width) = (data.rows(), outputs.data.len() / data.rows().max(1));
    let mut sums = LossSums::default();
    for (i, part) in outputs.data.chunks(ROWS * width).enumerate() {
        let (from, to) = (i * ROWS, i * ROWS + part.len() / width);
        let targets = match &data.y {
            Target::Classes(classes) => Targets::Classes(&classes[from..to]),
            Target::Values { values, .. } => Targets::Values(&values[from * width..to * width]),
            Target::None => return Err(Error::new(ErrorKind::Unexpected, "the rows have no targets")),
        };
        sums.add(loss::evaluate(loss, width, part, targets, None, None));
    }
    let answers = if loss.is_classification() { rows } else { rows * width };
    let accuracy = loss.has_accuracy().then(|| sums.correct as f64 / answers as f64);
    Ok(Metrics { loss: sums.mean(), accuracy, rows: rows as u64 })
}

impl Prediction {
    /// Reads a model's outputs, logits becoming probabilities; and the classes, if there are some.
    fn all(target: &TargetColumn, outputs: &[f32]) -> (Option<Vec<String>>, Vec<Self>) {
        let (classes, row): (_, fn(&[f32]) -> Self) = match target {
            TargetColumn::Classes { classes, .. } => (Some(classes.clone()), softmax),
            TargetColumn::Binary { classes, .. } => (Some(classes.to_vec()), |x| {
                let p = sigmoid(x[0]);
                Self::Class { index: usize::from(x[0] > 0.0), probabilities: vec![1.0 - p, p] }
            }),
            TargetColumn::Number { .. } => (None, |x| Self::Number(f64::from(x[0]))),
            TargetColumn::Numbers { .. } => (None, |x| Self::Numbers(x.iter().map(|x| f64::from(*x)).collect())),
            TargetColumn::Labels { .. } => (None, |x| Self::Labels(x.iter().map(|x| sigmoid(*x)).collect())),
        };
        (classes, outputs.chunks_exact(target.outputs()).map(row).collect())
    }
}

fn sigmoid(x: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(x)).exp())
}

fn softmax(logits: &[f32]) -> Prediction {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&x| f64::from(x - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    // The first of several largest, as accuracy counts it.
    let index = logits.iter().position(|&x| x == max).unwrap_or(0);
    Prediction::Class { index, probabilities: powers.into_iter().map(|p| p / sum).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_become_probabilities() {
        let classes = TargetColumn::Classes { name: "y".into(), classes: ["a", "b", "c"].map(String::from).into() };
        let (_, rows) = Prediction::all(&classes, &[0.0, 0.0, 0.0, 1000.0, -1000.0, 0.0]);
        let Prediction::Class { index, probabilities } = &rows[0] else { panic!() };
        assert_eq!((*index, probabilities.len()), (0, 3));
        assert!(probabilities.iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-12));
        assert_eq!(rows[1], Prediction::Class { index: 0, probabilities: vec![1.0, 0.0, 0.0] });

        let binary = TargetColumn::Binary { name: "y".into(), classes: ["no".into(), "yes".into()] };
        let (_, rows) = Prediction::all(&binary, &[0.0, 2.0]);
        assert_eq!(rows[0], Prediction::Class { index: 0, probabilities: vec![0.5, 0.5] });
        assert!(matches!(rows[1], Prediction::Class { index: 1, .. }));
    }
}
