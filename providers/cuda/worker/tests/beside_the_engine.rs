//! The same runs on libtorch and on the engine: data of every kind, precision, failures.

#![allow(clippy::unwrap_used)]

use std::env;

use outboard_core::{
    ErrorKind, Layer, Result,
    job::Train,
    layer,
    task::{Architecture, Epoch},
};
use outboard_cuda_worker::{Choice, Libtorch};
use outboard_engine::{Cpu, Kernels, Model, Trainer};
use outboard_protocol::{
    Checkpoint, Dataset, Inputs, Position, Scaling, Target, initial,
    random::{Domain, Stream},
};
use serde::Deserialize;
use serde_json::{Value, json};

const ROWS: usize = 100;

/// How far a loss may be from the engine's, relatively: the protocol's gate for curves.
const GATE: f64 = 1e-3;

fn libtorch(bf16: bool) -> Libtorch {
    let device = env::var("TEST_DEVICE").map_or(Choice::Cpu, |device| device.parse().unwrap());
    Libtorch::open(device, bf16, 1).unwrap()
}

fn images() -> Architecture {
    #[derive(Deserialize)]
    struct Model {
        #[serde(deserialize_with = "layer::list")]
        layers: Vec<Layer>,
    }
    let layers = json!([{"type": "conv2d", "out": 4, "kernel": 3}, "relu", "flatten", {"type": "linear", "out": 3}]);
    let Model { layers } = serde_json::from_value(json!({"layers": layers})).unwrap();
    Architecture { layers, input: vec![2, 6, 6] }
}

/// Images as bytes, one scaling for each channel, or the floats that they stand for.
fn data(as_bytes: bool, is_weighted: bool) -> Dataset {
    let stream = Stream::new(1, Domain::Weights, 9);
    let bytes: Vec<u8> = (0..(ROWS * 72) as u64).map(|i| stream.at(i) as u8).collect();
    let scalings = vec![Scaling { offset: 127.0, scale: 80.0 }, Scaling { offset: 0.0, scale: 255.0 }];
    let bytes = Inputs::Bytes { bytes: bytes.into(), scalings };
    let x = match as_bytes {
        true => bytes,
        false => {
            let mut floats = vec![0.0; ROWS * 72];
            floats.chunks_exact_mut(72).enumerate().for_each(|(row, to)| bytes.copy_row(row, to));
            floats.into()
        }
    };
    let weights = is_weighted.then(|| (0..ROWS).map(|row| 0.5 + (row % 3) as f32).collect());
    Dataset { shape: vec![2, 6, 6], x, y: Target::Classes((0..ROWS).map(|row| (row % 3) as i64).collect()), weights }
}

fn train(extra: Value) -> Train {
    let mut all = json!({"loss": "cross_entropy", "epochs": 3, "batch_size": 32, "seed": 5});
    all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

fn start(model: &Architecture) -> Checkpoint {
    let plan = layer::plan(&model.layers, &model.input).unwrap();
    let weights = initial::weights(&plan, 5).into_iter().map(|(name, t)| (format!("model.{name}"), t)).collect();
    Checkpoint { position: Position::start("job", 5), tensors: weights }
}

/// The epochs of a run, with the data held out from itself.
fn run(kernels: &impl Kernels, train: &Train, data: &Dataset) -> Result<Vec<Epoch>> {
    let model = images();
    let mut trainer = Trainer::on(kernels, &model, train, data.clone(), Some(data.clone()), &start(&model))?;
    let mut epochs = Vec::new();
    while !trainer.is_done() {
        epochs.extend(trainer.step()?);
    }
    Ok(epochs)
}

fn close(found: &[Epoch], right: &[Epoch], gate: f64) {
    assert_eq!(found.len(), right.len());
    for (found, right) in found.iter().zip(right) {
        let pairs = [(found.loss, right.loss), (found.validation_loss.unwrap(), right.validation_loss.unwrap())];
        for (found, right) in pairs {
            assert!((found / right - 1.0).abs() <= gate, "{found} and {right}");
        }
        // A row or two may lie on the border between two classes; in 16 bits some more.
        let few = (2.5 / ROWS as f64).max(5.0 * gate);
        assert!((found.accuracy.unwrap() - right.accuracy.unwrap()).abs() <= few);
    }
}

#[test]
fn data_of_every_kind_give_the_same_curve() {
    for (as_bytes, is_weighted) in [(true, false), (false, true), (true, true)] {
        for extra in [json!({}), json!({"augment": ["flip", {"crop": 1}]}), json!({"clip_norm": 0.5, "freeze": ["0"]})]
        {
            let (train, data) = (train(extra), data(as_bytes, is_weighted));
            close(&run(&libtorch(false), &train, &data).unwrap(), &run(&Cpu, &train, &data).unwrap(), GATE);
        }
    }
}

#[test]
fn sixteen_bits_follow_from_afar() {
    let (train, data) = (train(json!({})), data(false, false));
    let (found, right) = (run(&libtorch(true), &train, &data).unwrap(), run(&Cpu, &train, &data).unwrap());
    assert_ne!(found[2].loss, right[2].loss);
    close(&found, &right, 0.02);
    assert!(libtorch(true).numerics().ends_with(" bf16"));
}

/// The step of the first loss that is no number, though it is known at the end of the epoch only.
#[test]
fn a_loss_that_is_no_number_is_told_with_its_step() {
    let (train, data) = (train(json!({"optimizer": {"type": "sgd", "lr": 1e20}})), data(false, false));
    let [found, right] = [run(&libtorch(false), &train, &data), run(&Cpu, &train, &data)].map(Result::unwrap_err);
    for error in [found, right] {
        assert_eq!(error.kind(), ErrorKind::JobFailed);
        // Of four steps; where sums overflow depends on their order.
        let [(_, epoch), (_, step)] = error.context() else { panic!("{error:?}") };
        assert!(epoch == "1" && (step == "2" || step == "3"), "epoch {epoch}, step {step}");
    }
}

#[test]
fn a_run_that_moves_between_them_follows_the_curve() {
    let (train, data, model) = (train(json!({"optimizer": "adam", "keep": "best"})), data(true, false), images());
    let right = run(&Cpu, &train, &data).unwrap();
    let mut at = start(&model);
    let mut found = Vec::new();
    // Two steps here, three there, and so on: in the middle of epochs too.
    for turn in 0.. {
        let steps = if turn % 2 == 0 { 2 } else { 3 };
        at = match turn % 2 {
            0 => some_steps(&libtorch(false), &train, &data, &at, steps, &mut found),
            _ => some_steps(&Cpu, &train, &data, &at, steps, &mut found),
        };
        if at.position.epoch == train.epochs {
            break;
        }
    }
    close(&found, &right, GATE);
}

fn some_steps(
    kernels: &impl Kernels,
    train: &Train,
    data: &Dataset,
    at: &Checkpoint,
    steps: usize,
    epochs: &mut Vec<Epoch>,
) -> Checkpoint {
    let mut trainer = Trainer::on(kernels, &images(), train, data.clone(), Some(data.clone()), at).unwrap();
    for _ in 0..steps {
        if !trainer.is_done() {
            epochs.extend(trainer.step().unwrap());
        }
    }
    let checkpoint = trainer.checkpoint().unwrap();
    Checkpoint::decode(&checkpoint.encode().unwrap()).unwrap()
}

#[test]
fn what_cannot_fit_is_refused_before_it_starts() {
    const BATCH: usize = 1 << 50;
    let (train, model) = (train(json!({"batch_size": BATCH})), images());
    let weights = start(&model).section("model").map(|(name, t)| (name.to_string(), t.clone())).collect();
    let refused = libtorch(false).model(&model, &weights, BATCH).unwrap().prepare_training(&train, None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OutOfMemory);
    let fits = refused.context().iter().find(|(what, _)| what == "fits").unwrap().1.clone();
    assert_eq!(refused.advice(), Some(&*format!("set `batch_size` to at most {fits}")));
    assert!(fits.parse::<u64>().unwrap() > 1000, "{fits}");
    // Of as many rows as there are.
    assert!(run(&libtorch(false), &train, &data(false, false)).is_ok());
}
