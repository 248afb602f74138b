//! The cases of `tests/vectors/gradients`, for the engine and for the worker on libtorch.

use std::{collections::BTreeMap, path::Path};

use outboard_core::{Layer, job::Loss, layer, task::Architecture};
use outboard_protocol::{Dataset, Target, Tensor, Tensors, initial};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

/// One batch, and what float64 PyTorch makes of it.
pub(crate) struct Case {
    /// The name of its file.
    pub(crate) name: String,
    /// The model.
    pub(crate) model: Architecture,
    /// The batch.
    pub(crate) data: Dataset,
    /// The model's weights.
    pub(crate) weights: Tensors,
    /// What is minimised.
    pub(crate) loss: Loss,
    /// The seed of weights and dropout.
    pub(crate) seed: u64,
    /// The optimizer step, for dropout.
    pub(crate) step: u64,
    loss64: f64,
    error32: BTreeMap<String, f64>,
    right: BTreeMap<String, Vec<f64>>,
}

#[derive(Deserialize)]
struct Facts {
    layers: Vec<Layer>,
    loss: Loss,
    seed: String,
    step: u64,
    loss64: f64,
    error32: BTreeMap<String, f64>,
}

/// What was made of a case.
pub(crate) struct Made {
    /// The batch loss.
    pub(crate) loss: f64,
    /// The gradients of the parameters.
    pub(crate) gradients: Tensors,
    /// The outputs, dropout on.
    pub(crate) outputs: Vec<f32>,
    /// The outputs afterwards, dropout off.
    pub(crate) evaluated: Vec<f32>,
    /// Weights and running statistics afterwards.
    pub(crate) after: Tensors,
}

/// `‖a - b‖ / ‖b‖`.
fn error(found: &[f32], right: &[f64]) -> f64 {
    assert_eq!(found.len(), right.len());
    let difference: f64 = found.iter().zip(right).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
    (difference / right.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

fn floats(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn read(path: &Path) -> Case {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let facts: Facts = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["case"]).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();

    let x = file.tensor("x").unwrap();
    let y = file.tensor("y").unwrap();
    let rows = x.shape()[0];
    let y = match y.dtype() {
        Dtype::I64 => {
            Target::Classes(y.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect())
        }
        _ => Target::Values { outputs: y.data().len() / 4 / rows, values: floats(y.data()).into() },
    };
    let model = Architecture { layers: facts.layers, input: x.shape()[1..].to_vec() };
    let plan = layer::plan(&model.layers, &model.input).unwrap();
    let seed: u64 = facts.seed.parse().unwrap();
    let parameters = plan.iter().flat_map(|layer| &layer.parameters);
    let weights: Tensors = parameters
        .map(|p| {
            let view = file.tensor(&format!("param.{}", p.name)).unwrap();
            // Counts of batches are integers.
            let data = if view.dtype() == Dtype::I64 { vec![0.0] } else { floats(view.data()) };
            (p.name.clone(), Tensor { shape: p.shape.clone(), data })
        })
        .collect();
    assert_eq!(weights, initial::weights(&plan, seed), "{name}: initial weights");

    let of_rows = file.tensor("weights").ok().map(|weights| floats(weights.data()).into());
    let doubles = file.iter().filter(|(_, view)| view.dtype() == Dtype::F64).map(|(name, view)| {
        let numbers = view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
        (name.to_string(), numbers.collect())
    });
    Case {
        name,
        data: Dataset { shape: model.input.clone(), x: floats(x.data()).into(), y, weights: of_rows },
        model,
        weights,
        loss: facts.loss,
        seed,
        step: facts.step,
        loss64: facts.loss64,
        error32: facts.error32,
        right: doubles.collect(),
    }
}

impl Case {
    /// Judges what was made of it; how many gradients and how many running statistics were checked.
    fn judge(&self, made: &Made) -> (usize, usize) {
        let (name, loss64) = (&self.name, self.loss64);
        assert!((made.loss - loss64).abs() <= 1e-6 * loss64.abs(), "{name}: loss {} and {loss64}", made.loss);
        for (parameter, gradient) in &made.gradients {
            let right = &self.right[&format!("grad64.{parameter}")];
            let (found, gate) = (error(&gradient.data, right), (2.0 * self.error32[parameter]).max(1e-6));
            assert!(found <= gate, "{name}: gradient of {parameter} is off by {found:e}, more than {gate:e}");
        }
        assert!(error(&made.outputs, &self.right["out64"]) <= 1e-6, "{name}: outputs");
        let Some(evaluated) = self.right.get("eval64") else { return (made.gradients.len(), 0) };
        assert!(error(&made.evaluated, evaluated) <= 1e-6, "{name}: outputs without dropout");
        let statistics = made.after.iter().filter(|(name, _)| name.contains(".running_"));
        let mut checked = 0;
        for (statistic, tensor) in statistics {
            let right = &self.right[&format!("after64.{statistic}")];
            assert!(error(&tensor.data, right) <= 1e-6, "{name}: {statistic}");
            checked += 1;
        }
        for (count, tensor) in made.after.iter().filter(|(name, _)| name.ends_with("_tracked")) {
            assert_eq!(tensor.data, [1.0], "{name}: {count}");
        }
        (made.gradients.len(), checked)
    }
}

/// Judges what `make` makes of every case.
pub(crate) fn judge_all(make: impl Fn(&Case) -> Made) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find_map(|folder| {
        let cases = folder.join("tests/vectors/gradients");
        cases.is_dir().then_some(cases)
    });
    let (mut gradients, mut statistics) = (0, 0);
    for entry in std::fs::read_dir(folder.unwrap()).unwrap() {
        let case = read(&entry.unwrap().path());
        let checked = case.judge(&make(&case));
        gradients += checked.0;
        statistics += checked.1;
    }
    assert!(statistics >= 10, "only {statistics} running statistics were checked");
    assert!(gradients >= 250, "only {gradients} gradients were checked");
}
