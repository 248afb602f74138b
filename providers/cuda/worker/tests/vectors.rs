//! Losses, gradients and optimizers against PyTorch (`tests/vectors`), on libtorch's CPU or on the device that
//! `TEST_DEVICE` names.

#![allow(clippy::unwrap_used)]

use std::{env, path::Path};

use outboard_core::{
    Layer,
    job::{Optimizer, Train},
    task::Architecture,
};
use outboard_cuda_worker::{Choice, Data, Libtorch, TorchModel};
use outboard_engine::{Kernels, Model, kernels::Step, network::StepPlan, optimizer::Update};
use outboard_protocol::{Dataset, Target, Tensor, Tensors};
use safetensors::SafeTensors;
use serde_json::{Value, json};

#[path = "../../../../crates/engine/tests/common/mod.rs"]
mod common;

use common::{Made, judge_all};

fn libtorch() -> Libtorch {
    let device = env::var("TEST_DEVICE").map_or(Choice::Cpu, |device| device.parse().unwrap());
    Libtorch::open(device, false, 1).unwrap()
}

fn train(value: Value) -> Train {
    serde_json::from_value(value).unwrap()
}

/// A model that is about to be trained on all rows at once.
fn prepared(model: &Architecture, weights: &Tensors, data: &Dataset, train: &Train) -> (TorchModel, Data) {
    let mut made = libtorch().model(model, weights, data.rows()).unwrap();
    made.prepare_training(train, None).unwrap();
    let placed = made.place(data.clone()).unwrap();
    made.begin_epoch((0..data.rows() as u32).collect()).unwrap();
    (made, placed)
}

#[test]
fn gradients_agree_with_pytorch() {
    judge_all(|case| {
        let train = train(json!({"loss": case.loss, "optimizer": {"type": "sgd", "lr": 0.1}, "epochs": 1}));
        let (mut model, data) = prepared(&case.model, &case.weights, &case.data, &train);
        let rows = case.data.rows();
        let plan = StepPlan { step: case.step, seed: case.seed, update: None, clip_norm: None, clip_value: None };
        let step = Step { places: 0..rows, epoch: 0, train: &train, plan };
        model.step(&data, &step).unwrap();
        let after = model.weights().unwrap();
        let counted = |(name, mut tensor): (String, Tensor)| {
            // They count updates, of which there was none.
            if name.ends_with("_tracked") {
                tensor.data.iter_mut().for_each(|count| *count += 1.0);
            }
            (name, tensor)
        };
        let evaluated = model.predict(&data, 0..rows).unwrap();
        Made {
            loss: model.sums().unwrap().losses[0],
            gradients: model.gradients().unwrap(),
            evaluated,
            outputs: model.training_outputs(&data, &step).unwrap(),
            after: after.into_iter().map(counted).collect(),
        }
    });
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Tensor {
    let view = file.tensor(name).unwrap();
    let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    Tensor { shape: view.shape().to_vec(), data }
}

/// Optimizers fed with the gradients that PyTorch was fed end within 1e-6 of where float64 PyTorch ends.
#[test]
fn optimizers_agree_with_pytorch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/vectors/optimizers");
    let mut cases = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let case: Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["case"]).unwrap();
        let optimizer: Optimizer = serde_json::from_value(case["optimizer"].clone()).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();

        // Any model whose parameters have those shapes will do: its gradients are replaced.
        let (weight, bias) = (floats(&file, "start.a.weight"), floats(&file, "start.b.bias"));
        let width = weight.data.len() + bias.data.len();
        let model = Architecture { layers: vec![Layer::Linear { out: 1, bias: false }], input: vec![width] };
        let start = Tensor { shape: vec![1, width], data: [weight.data, bias.data].concat() };
        let weights = Tensors::from([("0.weight".to_string(), start)]);
        let data = Dataset {
            shape: vec![width],
            x: vec![0.0; width].into(),
            y: Target::Values { outputs: 1, values: vec![0.0].into() },
            weights: None,
        };
        let train = train(json!({"loss": "mse", "optimizer": case["optimizer"], "epochs": 1}));
        let (mut model, _) = prepared(&model, &weights, &data, &train);
        let gradients = ["grads.a.weight", "grads.b.bias"].map(|name| floats(&file, name).data);
        let lrs = case["lr"].as_array().unwrap();
        let sizes = gradients.each_ref().map(|all| all.len() / lrs.len());
        for (step, lr) in lrs.iter().enumerate() {
            let now: Vec<f32> =
                gradients.iter().zip(sizes).flat_map(|(all, size)| all[step * size..][..size].to_vec()).collect();
            let update = Update::new(&optimizer, step as u64, lr.as_f64().unwrap());
            model.apply(&now, update, case["clip_norm"].as_f64(), case["clip_value"].as_f64()).unwrap();
        }
        let found = &model.weights().unwrap()["0.weight"].data;
        let mut from = 0;
        for (tensor, size) in ["end64.a.weight", "end64.b.bias"].iter().zip(sizes) {
            let view = file.tensor(tensor).unwrap();
            let right: Vec<f64> =
                view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
            let off: f64 = found[from..][..size].iter().zip(&right).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum();
            let error = (off / right.iter().map(|b| b * b).sum::<f64>()).sqrt();
            assert!(error <= 1e-6, "{name}: {tensor} is off by {error:e}");
            from += size;
        }
        cases += 1;
    }
    assert!(cases >= 12, "only {cases} optimizers were checked");
}
