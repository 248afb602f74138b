//! Random numbers, initial weights and schedules against `tests/vectors`.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use outboard_core::{
    Layer,
    job::{Augment, Train},
    layer,
};
use outboard_protocol::{
    Augmentation, initial,
    random::{Domain, DropoutMask, Stream, validation_rows},
};
use serde_json::Value;

fn read(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name);
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn cases(file: &Value, key: &str) -> Vec<Value> {
    let cases = file[key].as_array().unwrap().clone();
    assert!(!cases.is_empty(), "{key}");
    cases
}

fn u64_of(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

fn stream(case: &Value) -> Stream {
    Stream::raw(u64_of(&case["seed"]), u64_of(&case["stream"]))
}

#[test]
fn augmented_images() {
    let cases = read("augment.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 16);
    for case in cases {
        let changes: Vec<Augment> = serde_json::from_value(case["changes"].clone()).unwrap();
        let shape: [usize; 3] = serde_json::from_value(case["shape"].clone()).unwrap();
        let mut image: Vec<f32> = (1..=shape.iter().product::<usize>()).map(|i| i as f32).collect();
        let augmentation = Augmentation::new(&changes, u64_of(&case["seed"]), u64_of(&case["epoch"]) as u32);
        augmentation.apply(u64_of(&case["row"]) as u32, shape, &mut image);
        let right: Vec<f32> = serde_json::from_value(case["image"].clone()).unwrap();
        assert_eq!(image, right, "{case}");
    }
}

#[test]
fn random_numbers() {
    let file = read("random.json");
    for case in cases(&file, "mix") {
        assert_eq!(stream(&case).at(u64_of(&case["i"])), u64_of(&case["value"]), "{case}");
    }
    for case in cases(&file, "uniform") {
        assert_eq!(stream(&case).uniform(u64_of(&case["i"])), case["value"].as_f64().unwrap(), "{case}");
    }
    for case in cases(&file, "order") {
        let order = Stream::new(u64_of(&case["seed"]), Domain::Order, u64_of(&case["epoch"]) as u32);
        assert_eq!(serde_json::json!(order.order(u64_of(&case["rows"]) as usize)), case["order"]);
    }
    for case in cases(&file, "split") {
        let rows =
            validation_rows(u64_of(&case["seed"]), u64_of(&case["rows"]) as usize, case["fraction"].as_f64().unwrap());
        assert_eq!(serde_json::json!(rows), case["validation"]);
    }
    for case in cases(&file, "dropout") {
        let p = case["p"].as_f64().unwrap();
        let mask = DropoutMask::new(u64_of(&case["seed"]), u64_of(&case["layer"]) as u32, u64_of(&case["step"]), p);
        let kept = case["kept"].as_array().unwrap();
        for (e, kept) in kept.iter().enumerate() {
            assert_eq!(mask.keeps(e as u32), kept.as_u64() == Some(1), "element {e} of {case}");
        }
    }
}

/// The first values of a parameter of that index, shape and distribution; the ones before it don't matter.
fn first_values(case: &Value, initial: layer::Initial) -> Vec<f32> {
    let shape: Vec<usize> = case["shape"].as_array().unwrap().iter().map(|n| u64_of(n) as usize).collect();
    let index = u64_of(&case["parameter"]) as usize;
    let mut plan = layer::plan(&[Layer::Linear { out: 1, bias: true }], &[1]).unwrap();
    let template = plan[0].parameters[0].clone();
    plan[0].parameters = (0..=index)
        .map(|i| layer::Parameter {
            name: format!("{i:04}"),
            shape: if i == index { shape.clone() } else { vec![1] },
            initial: if i == index { initial } else { template.initial },
            ..template.clone()
        })
        .collect();
    let mut weights = initial::weights(&plan, u64_of(&case["seed"]));
    let mut data = weights.remove(&format!("{index:04}")).unwrap().data;
    data.truncate(case["values"].as_array().unwrap().len());
    data
}

fn right_values(case: &Value) -> Vec<f32> {
    case["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

#[test]
fn initial_weights() {
    let file = read("random.json");
    for case in cases(&file, "init") {
        let initial = layer::Initial::fan_in(u64_of(&case["fan_in"]) as usize);
        assert_eq!(first_values(&case, initial), right_values(&case), "{case}");
    }
    for case in cases(&file, "normal") {
        let initial = layer::Initial::Normal { zero_row: Some(u64_of(&case["zero_row"]) as usize) };
        assert_eq!(first_values(&case, initial), right_values(&case), "{case}");
    }
}

#[test]
fn schedules() {
    let file = read("schedules.json");
    assert!(!file.as_array().unwrap().is_empty());
    for case in file.as_array().unwrap() {
        let train: Train = serde_json::from_value(serde_json::json!({
            "loss": "mse",
            "optimizer": {"type": "sgd", "lr": case["lr"]},
            "schedule": case["schedule"],
            "warmup_steps": case["warmup_steps"],
            "epochs": case["epochs"],
        }))
        .unwrap();
        for (step, right) in case["values"].as_array().unwrap().iter().enumerate() {
            let (lr, right) = (train.lr_at(step as u64, u64_of(&case["steps_per_epoch"])), right.as_f64().unwrap());
            assert!((lr - right).abs() <= 1e-12 * right.abs(), "step {step} of {case}: {lr} and {right}");
        }
    }
}
