//! Evaluates models and predicts with them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use outboard_core::{
    ComputeProvider, ComputeProviderExt, Digest, Error, ErrorKind, Result, Retry, Task,
    error::IoContext,
    task::{Architecture, EvaluateTask, Metrics, Operation, Outcome, PredictTask},
};
use outboard_data::{read_features, read_labelled};
use outboard_protocol::{Dataset, ModelFile, TargetColumn, tensors};
use outboard_store::FolderStore;

use super::{Client, attempts::choose, blocking, new_id};
use crate::registry;

/// How good a model is on some data.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Id of the evaluation.
    pub job: String,
    /// Where it ran.
    pub provider: String,
    /// Loss and accuracy.
    pub metrics: Metrics,
}

/// What a model says of some rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// Id of the prediction.
    pub job: String,
    /// Where it ran.
    pub provider: String,
    /// Name of the predicted column.
    pub target: String,
    /// Its classes, in the order of the probabilities; none where it is a number.
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
}

impl Client {
    /// Loss and accuracy of the model in `model` on the rows of the file `data`.
    ///
    /// # Errors
    /// `InvalidRequest`, `NotFound` where a file can't be read or doesn't suit the model.
    pub async fn evaluate(&self, model: &Path, data: &Path) -> Result<Evaluation> {
        let data = data.to_path_buf();
        let (file, data) = self.open(model, move |file| read_labelled(&data, &file.facts.schema)).await?;
        let loss = file.facts.loss.clone();
        let desk = Desk::new(self, "evaluate")?;
        let operation = |model, weights, data| Operation::Evaluate(EvaluateTask { model, weights, data, loss });
        let (provider, outcome) = desk.apply(&file, &data, operation).await?;
        match outcome {
            Outcome::Evaluate(metrics) => Ok(Evaluation { job: desk.id.clone(), provider, metrics }),
            other => {
                Err(Error::new(ErrorKind::Unexpected, format!("the provider answered an evaluation with {other:?}")))
            }
        }
    }

    /// What the model in `model` says of the rows of the file `data`.
    ///
    /// # Errors
    /// `InvalidRequest`, `NotFound` where a file can't be read or doesn't suit the model.
    pub async fn predict(&self, model: &Path, data: &Path) -> Result<Predictions> {
        let data = data.to_path_buf();
        let (file, data) = self.open(model, move |file| read_features(&data, &file.facts.schema)).await?;
        let desk = Desk::new(self, "predict")?;
        let operation = |model, weights, data| Operation::Predict(PredictTask { model, weights, data });
        let (provider, outcome) = desk.apply(&file, &data, operation).await?;
        let Outcome::Predict { outputs } = outcome else {
            return Err(Error::new(
                ErrorKind::Unexpected,
                format!("the provider answered a prediction with {outcome:?}"),
            ));
        };
        let outputs = tensors::decode(&desk.store.read(&outputs)?)?.remove("outputs");
        let outputs = outputs
            .ok_or_else(|| Error::new(ErrorKind::CorruptPayload, "the provider's answer has no tensor `outputs`"))?;
        Ok(Predictions { job: desk.id.clone(), provider, ..Predictions::new(&file.facts.schema.target, &outputs.data) })
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
                e.at("file", path.display()).hint(hint)
            })?;
            let data = read(&file)?.shaped(&file.facts.input)?;
            Ok((file, data))
        })
        .await
    }
}

/// Where one task is done whose blobs are needed no longer than it: apart from those of others, which may be the same.
#[derive(Debug)]
struct Desk {
    id: String,
    folder: PathBuf,
    store: FolderStore,
    providers: Vec<Arc<dyn ComputeProvider>>,
}

impl Desk {
    fn new(client: &Client, name: &str) -> Result<Self> {
        let id = new_id(name);
        let folder = client.config.home.join("scratch").join(&id);
        let store = FolderStore::open(&folder)?;
        let providers = registry::providers(&client.config, &store)?;
        Ok(Self { id, folder, store, providers })
    }

    async fn apply(
        &self,
        file: &ModelFile,
        data: &Dataset,
        operation: impl FnOnce(Architecture, Digest, Digest) -> Operation,
    ) -> Result<(String, Outcome)> {
        let (weights, data) = (self.store.write(&file.encode()?)?, self.store.write(&data.encode()?)?);
        let model = Architecture { layers: file.facts.layers.clone(), input: file.facts.input.clone() };
        let operation = operation(model, weights, data);
        let mut failures = Vec::new();
        loop {
            let provider = choose(&self.providers, &failures).await?;
            let id = provider.info().id.clone();
            // Nothing of it is kept, so another attempt is another task.
            let key = format!("{}/{}", self.id, failures.len() + 1);
            let (attempt, operation) = (key.clone(), operation.clone());
            let task = Task { key, job: self.id.clone(), attempt, operation, limit: None };
            match provider.run(&task, std::future::pending(), |_| {}).await {
                Ok(outcome) => return Ok((id, outcome)),
                Err(error) if error.retry() == Retry::Never => return Err(error),
                Err(error) => {
                    tracing::warn!(provider = id, %error, "moving on");
                    failures.push((id, error));
                }
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot remove what a task needed");
        }
    }
}

impl Predictions {
    /// Reads a model's outputs: logits become probabilities.
    fn new(target: &TargetColumn, outputs: &[f32]) -> Self {
        let width = target.outputs();
        let (classes, row): (_, fn(&[f32]) -> Prediction) = match target {
            TargetColumn::Classes { classes, .. } => (Some(classes.clone()), softmax),
            TargetColumn::Binary { classes, .. } => (Some(classes.to_vec()), |x| {
                let p = 1.0 / (1.0 + (-f64::from(x[0])).exp());
                Prediction::Class { index: usize::from(x[0] > 0.0), probabilities: vec![1.0 - p, p] }
            }),
            TargetColumn::Number { .. } => (None, |x| Prediction::Number(f64::from(x[0]))),
        };
        Self {
            job: String::new(),
            provider: String::new(),
            target: target.name().to_string(),
            classes,
            rows: outputs.chunks_exact(width).map(row).collect(),
        }
    }
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
        let predictions = Predictions::new(&classes, &[0.0, 0.0, 0.0, 1000.0, -1000.0, 0.0]);
        let Prediction::Class { index, probabilities } = &predictions.rows[0] else { panic!() };
        assert_eq!((*index, probabilities.len()), (0, 3));
        assert!(probabilities.iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-12));
        assert_eq!(predictions.rows[1], Prediction::Class { index: 0, probabilities: vec![1.0, 0.0, 0.0] });

        let binary = TargetColumn::Binary { name: "y".into(), classes: ["no".into(), "yes".into()] };
        let predictions = Predictions::new(&binary, &[0.0, 2.0]);
        assert_eq!(predictions.rows[0], Prediction::Class { index: 0, probabilities: vec![0.5, 0.5] });
        assert!(matches!(predictions.rows[1], Prediction::Class { index: 1, .. }));
    }
}
