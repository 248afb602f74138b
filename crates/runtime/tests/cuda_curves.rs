//! The portable-curve test on libtorch: its CPU, or the device that `TEST_DEVICE` names.

#![allow(clippy::unwrap_used)]

use std::env;

#[path = "common/curve.rs"]
mod curve;

const WORKER: &str = "TEST_CUDA_WORKER";

#[tokio::test(flavor = "multi_thread")]
async fn every_curve() {
    let Ok(worker) = env::var(WORKER) else {
        return println!("skipped: every_curve: {WORKER} is not set; `cargo xtask test cuda` sets it");
    };
    let device = env::var("TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    let keys = [format!("worker={worker}"), format!("devices={device}")];
    let keys = keys.iter().map(|key| format!("providers.cuda.{key}"));
    let overrides: Vec<_> = keys.chain(["providers.cpu.enabled=false".into()]).collect();
    for name in ["adam", "dropout", "sgd", "cnn", "transformer", "lstm"] {
        curve::follows(name, &overrides).await;
    }
}
