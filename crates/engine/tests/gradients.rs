//! Outputs, losses and gradients against float64 PyTorch (`tests/vectors/gradients`), with float32 PyTorch's own error
//! as the yardstick; and against finite differences.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path};

use outboard_core::{
    Layer,
    job::{Loss, Train},
    layer,
    task::Architecture,
};
use outboard_engine::{
    loss::Targets,
    network::{Network, StepPlan},
};
use outboard_protocol::{Dataset, Target, Tensor, Tensors, initial};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    layers: Vec<Layer>,
    loss: Loss,
    seed: String,
    step: u64,
    loss64: f64,
    error32: BTreeMap<String, f64>,
}

/// `‖a - b‖ / ‖b‖`.
fn error(found: &[f32], right: &[f64]) -> f64 {
    assert_eq!(found.len(), right.len());
    let difference: f64 = found.iter().zip(right).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
    (difference / right.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

fn doubles(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let view = file.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F64);
    view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn floats(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

struct Batch {
    model: Architecture,
    data: Dataset,
    weights: Tensors,
}

impl Batch {
    fn network(&self, loss: &Loss) -> Network {
        let train: Train = serde_json::from_value(
            serde_json::json!({"loss": loss, "optimizer": {"type": "sgd", "lr": 0.1}, "epochs": 1}),
        )
        .unwrap();
        let mut network = Network::new(&self.model, &self.weights, self.data.rows()).unwrap();
        network.prepare_training(&train);
        network.load(&self.data, &(0..self.data.rows() as u32).collect::<Vec<_>>());
        network
    }

    fn targets(&self) -> Targets<'_> {
        match &self.data.y {
            Target::Classes(classes) => Targets::Classes(classes),
            Target::Values { values, .. } => Targets::Values(values),
            Target::None => panic!("a case without targets"),
        }
    }
}

#[test]
fn agree_with_pytorch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/gradients");
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let case: Case = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["case"]).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();

        let x = file.tensor("x").unwrap();
        let y = file.tensor("y").unwrap();
        let rows = x.shape()[0];
        let y = match y.dtype() {
            Dtype::I64 => {
                Target::Classes(y.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect())
            }
            _ => Target::Values { outputs: y.data().len() / 4 / rows, values: floats(y.data()) },
        };
        let model = Architecture { layers: case.layers, input: x.shape()[1..].to_vec() };
        let plan = layer::plan(&model.layers, &model.input).unwrap();
        let seed: u64 = case.seed.parse().unwrap();
        let parameters = plan.iter().flat_map(|layer| &layer.parameters);
        let weights: Tensors = parameters
            .map(|p| {
                (
                    p.name.clone(),
                    Tensor {
                        shape: p.shape.clone(),
                        data: floats(file.tensor(&format!("param.{}", p.name)).unwrap().data()),
                    },
                )
            })
            .collect();
        assert_eq!(weights, initial::weights(&plan, seed), "{name}: initial weights");

        let batch = Batch { model, data: Dataset { shape: x.shape()[1..].to_vec(), x: floats(x.data()), y }, weights };
        let mut network = batch.network(&case.loss);
        let plan = StepPlan { step: case.step, seed, update: None, clip_norm: None, clip_value: None };
        let sums = network.step(rows, &case.loss, batch.targets(), &plan).unwrap();
        assert!(
            (sums.mean() - case.loss64).abs() <= 1e-6 * case.loss64.abs(),
            "{name}: loss {} and {}",
            sums.mean(),
            case.loss64
        );
        for (parameter, gradient) in network.gradients() {
            let right = doubles(&file, &format!("grad64.{parameter}"));
            let (found, gate) = (error(&gradient.data, &right), (2.0 * case.error32[parameter]).max(1e-6));
            assert!(found <= gate, "{name}: gradient of {parameter} is off by {found:e}, more than {gate:e}");
            checked += 1;
        }
        let out = network.forward(rows, Some(&plan)).to_vec();
        assert!(error(&out, &doubles(&file, "out64")) <= 1e-6, "{name}: outputs");
    }
    assert!(checked >= 80, "only {checked} gradients were checked");
}

#[test]
fn agree_with_finite_differences() {
    let activations = ["relu", "silu", "tanh", "sigmoid", "softmax"].map(|kind| serde_json::json!({"type": kind}));
    let gelus = ["none", "tanh"].map(|kind| serde_json::json!({"type": "gelu", "approximate": kind}));
    let dropout = [serde_json::json!({"type": "dropout", "p": 0.3})];
    for middle in activations.into_iter().chain(gelus).chain(dropout) {
        let layers: Vec<Layer> = serde_json::from_value(
            serde_json::json!([{"type": "linear", "out": 7}, middle, {"type": "linear", "out": 3}]),
        )
        .unwrap();
        let model = Architecture { layers, input: vec![5] };
        let weights = initial::weights(&layer::plan(&model.layers, &model.input).unwrap(), 3);
        let x = (0..30).map(|i| ((i * 37) % 23) as f32 / 11.0 - 1.0).collect();
        let data = Dataset { shape: vec![5], x, y: Target::Classes(vec![0, 1, 2, 2, 1, 0]) };
        let loss = Loss::CrossEntropy { label_smoothing: 0.0, class_weights: None };
        let plan = StepPlan { step: 2, seed: 3, update: None, clip_norm: None, clip_value: None };
        let mut batch = Batch { model, data, weights };
        let mut network = batch.network(&loss);
        network.step(6, &loss, batch.targets(), &plan).unwrap();
        let gradients: Tensors = network.gradients().map(|(name, t)| (name.to_string(), t)).collect();
        // Along the gradient itself the loss moves by its squared norm: one well-conditioned difference per tensor.
        for (name, gradient) in &gradients {
            let norm2: f64 = gradient.data.iter().map(|&g| f64::from(g).powi(2)).sum();
            let h = 1e-2 / norm2.sqrt();
            let mut loss_at = |sign: f64| {
                let original = batch.weights.clone();
                let moved = batch.weights.get_mut(name).unwrap();
                moved
                    .data
                    .iter_mut()
                    .zip(&gradient.data)
                    .for_each(|(w, &g)| *w = (f64::from(*w) + sign * h * f64::from(g)) as f32);
                let sums = batch.network(&loss).step(6, &loss, batch.targets(), &plan).unwrap();
                batch.weights = original;
                sums.mean()
            };
            let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * h);
            assert!((slope / norm2 - 1.0).abs() < 2e-3, "{middle}: {name}: {slope} and {norm2}");
        }
    }
}
