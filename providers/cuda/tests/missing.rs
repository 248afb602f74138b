//! What is said where a part is missing, with workers that are shell scripts.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use outboard_core::{
    ComputeProvider, Digest, ErrorKind, Layer, Task, code,
    finding::{Findings, Verdict},
    job::Loss,
    provider::{ComputeProviderExt, Health},
    task::{Architecture, EvaluateTask, Operation},
};
use outboard_cuda::{Config, CudaProvider, Devices, examine};

fn config(worker: &Path) -> Config {
    Config { devices: Devices::Named(vec!["cpu".into()]), worker: worker.into(), ..Config::default() }
}

/// A worker that says this, and ends.
fn script(folder: &Path, says: &str) -> std::path::PathBuf {
    let path = folder.join("worker");
    fs::write(&path, format!("#!/bin/sh\necho '{says}' >&2\nexit 127\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn task(attempt: &str) -> Task {
    let model = Architecture { layers: vec![Layer::Relu], input: vec![1] };
    let (weights, data) = (Digest::of(b"weights"), Digest::of(b"data"));
    let operation = Operation::Evaluate(EvaluateTask { model, weights, data, loss: Loss::Mse });
    Task { key: "key".into(), job: "job".into(), attempt: attempt.into(), operation, limit: None }
}

#[tokio::test]
async fn a_worker_that_is_not_built_is_named_with_the_command() {
    let home = tempfile::tempdir().unwrap();
    let config = Config { worker: "".into(), ..config(Path::new("")) };
    let provider = CudaProvider::new(&config, home.path());
    let Health::Unavailable(why) = provider.health().await.unwrap() else { panic!("it is ready") };
    let worker = home.path().join("cuda/bin/outboard-cuda-worker");
    assert_eq!(why, format!("the worker isn't built: there is no {}; outboard cuda install", worker.display()));
    let found = Findings::default();
    examine(&config, home.path(), &found).await;
    let found = found.take();
    let failed: Vec<_> = found.iter().filter(|finding| finding.verdict == Verdict::Fail).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].code, failed[0].remedy.as_deref()), (code::CUDA_WORKER, Some("outboard cuda install")));
}

#[tokio::test]
async fn a_worker_without_libtorch_says_which_library_it_lacks() {
    let home = tempfile::tempdir().unwrap();
    let says = "worker: error while loading shared libraries: libtorch.so: cannot open shared object file";
    let config = config(&script(home.path(), says));
    let provider = CudaProvider::new(&config, home.path());
    // It is there: only a start shows what it lacks.
    assert_eq!(provider.health().await.unwrap(), Health::Ready);
    let failed = provider.run(&task("attempt"), std::future::pending(), |_| {}).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::WorkerUnhealthy);
    assert_eq!(failed.provider(), Some("cuda"));
    let report = failed.report();
    assert!(report.contains("the worker doesn't find libtorch.so"), "{report}");
    assert!(report.contains("try: outboard cuda install, or set LD_LIBRARY_PATH"), "{report}");
    let found = Findings::default();
    examine(&config, home.path(), &found).await;
    let found = found.take();
    let start = found.iter().find(|finding| finding.code == code::CUDA_START).unwrap();
    assert_eq!((start.verdict, &*start.of), (Verdict::Fail, "cpu"));
    assert!(start.evidence.starts_with("the worker doesn't find libtorch.so"), "{}", start.evidence);
}

#[tokio::test]
async fn a_machine_without_a_gpu_refuses_in_words() {
    if outboard_cuda::gpu::driver().is_ok() {
        return println!("skipped: a_machine_without_a_gpu_refuses_in_words: there is a driver here");
    }
    let home = tempfile::tempdir().unwrap();
    let config = Config::default();
    assert!(!config.is_used());
    let provider = CudaProvider::new(&config, home.path());
    assert_eq!(provider.info().device, "no GPU");
    let Health::Unavailable(why) = provider.health().await.unwrap() else { panic!("it is ready") };
    assert!(why.starts_with("there is no NVIDIA driver here; install NVIDIA's driver 580 or newer"), "{why}");
    let refused = provider.submit(&task("attempt")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WorkerUnhealthy);
    assert_eq!(refused.to_string(), why);
    assert!(provider.price().await.unwrap().is_free());
}

/// The task is stopped while another one has the device.
#[tokio::test]
async fn a_task_that_waits_for_its_turn_can_be_cancelled() {
    let home = tempfile::tempdir().unwrap();
    let worker = home.path().join("worker");
    // It never says that it is ready.
    fs::write(&worker, "#!/bin/sh\nexec cat\n").unwrap();
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).unwrap();
    let provider = CudaProvider::new(&config(&worker), home.path());
    let first = provider.submit(&task("first")).await.unwrap();
    let second = provider.submit(&task("second")).await.unwrap();
    assert_eq!(provider.submit(&task("second")).await.unwrap(), second, "the same attempt is the same task");
    provider.cancel(&second).await.unwrap();
    let state = provider.wait(&second, Default::default(), Duration::ZERO).await.unwrap();
    assert!(state.phase.is_final(), "{:?}", state.phase);
    assert!(!provider.wait(&first, Default::default(), Duration::ZERO).await.unwrap().phase.is_final());
}
