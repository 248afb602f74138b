//! The suite over the `cuda` provider, with the worker on libtorch's CPU, or on the device that `TEST_DEVICE`
//! names.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{env, path::PathBuf, sync::Arc};

use outboard_conformance::run_all;
use outboard_core::ComputeProvider;
use outboard_cuda::{Config, CudaProvider, Devices};
use outboard_wrappers::{Settings, standard};

mod common;

use common::LocalFixture;

const WORKER: &str = "TEST_CUDA_WORKER";

/// As of `cpu`.
const PASSED: usize = 30;

fn config(worker: PathBuf) -> Config {
    let device = env::var("TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    Config { devices: Devices::Named(vec![device]), worker, threads: 1, ..Config::default() }
}

/// None where there is no worker: it was said.
async fn fixture(
    test: &str,
    wrap: impl Fn(Arc<dyn ComputeProvider>) -> Arc<dyn ComputeProvider> + Send + Sync + 'static,
) -> Option<LocalFixture> {
    let Some(worker) = env::var_os(WORKER) else {
        println!("skipped: {test}: {WORKER} is not set; `cargo xtask test cuda` sets it");
        return None;
    };
    let config = config(worker.into());
    let folder = tempfile::tempdir().unwrap();
    let (_, hello) = CudaProvider::new(&config, folder.path()).start().await.pop().unwrap();
    let numerics = hello.unwrap().numerics;
    Some(LocalFixture::of(&numerics, move |home, _| Arc::new(CudaProvider::new(&config, home)), wrap))
}

#[tokio::test(flavor = "multi_thread")]
async fn bare() {
    if let Some(fixture) = fixture("bare", |cuda| cuda).await {
        run_all(&fixture).await.assert_passed(PASSED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_all_wrappers() {
    if let Some(fixture) = fixture("in_all_wrappers", |cuda| standard(cuda, &Settings::default())).await {
        run_all(&fixture).await.assert_passed(PASSED);
    }
}
