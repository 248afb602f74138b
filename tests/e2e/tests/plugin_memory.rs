//! The host and its plugins under valgrind: load, many tasks, drop. What is read or written where it must not be, freed
//! twice or lost is an error.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::{env, fs::File, io::Read, path::Path, process::Command, thread, time::Duration};

use futures_util::{StreamExt, stream};
use outboard::{
    plugin::{PluginConfig, PluginProvider},
    plugin_place,
};
use outboard_core::{
    ComputeProvider, ComputeProviderExt, Layer, Task,
    job::Loss,
    layer,
    provider::{Cancelled, Health},
    task::{Architecture, EvaluateTask, Operation, Outcome, Phase},
};
use outboard_e2e::{
    is_thorough,
    plugins::{c_example, rust_example},
    program,
};
use outboard_protocol::{Checkpoint, Dataset, Position, Target, initial};
use outboard_store::FolderStore;
use tempfile::TempDir;

/// The library that the test, run again by itself under valgrind, works on.
const LIBRARY: &str = "TEST_PLUGIN_LIBRARY";
/// Tasks that are handed over at the same time.
const AT_ONCE: usize = 4;
/// Each one of so many tasks is cancelled.
const CANCELLED: usize = 50;

fn tasks() -> usize {
    if is_thorough() { 10_000 } else { 100 }
}

#[test]
fn a_plugin_in_c_neither_strays_nor_leaks() {
    checked("a_plugin_in_c_neither_strays_nor_leaks", |folder| {
        let _ = c_example(folder, &["CFLAGS=-g -O1"]);
    });
}

#[test]
fn a_plugin_in_rust_neither_strays_nor_leaks() {
    checked("a_plugin_in_rust_neither_strays_nor_leaks", |folder| {
        let _ = rust_example(folder, "beside");
    });
}

/// Runs this test again under valgrind, with a plugin that `build` builds.
fn checked(test: &str, build: impl FnOnce(&Path)) {
    if let Some(library) = env::var_os(LIBRARY) {
        return use_up(Path::new(&library));
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        return println!("skipped: {test}: valgrind is not installed (Debian, Ubuntu: `apt install valgrind`)");
    }
    let folder = TempDir::new().unwrap();
    build(folder.path());
    let suppressed = Path::new(env!("CARGO_MANIFEST_DIR")).join("valgrind.supp");
    let checked = Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite"])
        .args(["--show-leak-kinds=definite", "--num-callers=40", "--fair-sched=try"])
        .arg(format!("--suppressions={}", suppressed.display()))
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(LIBRARY, folder.path().join("libbeside.so"))
        .env("TEST_OUTBOARD_BIN", program())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{}: {said}\n{}", checked.status, String::from_utf8_lossy(&checked.stdout));
    println!("figure: {} tasks of a plugin under valgrind, without an error", tasks());
}

/// Loads, runs tasks, drops, and waits until the plugin is gone.
#[tokio::main]
async fn use_up(library: &Path) {
    let folder = TempDir::new().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    // The worker holds the pipe open until the plugin has ended its provider.
    let pipe = folder.path().join("worker");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let ended = thread::spawn({
        let pipe = pipe.clone();
        move || File::open(pipe).unwrap().read_to_end(&mut Vec::new()).unwrap()
    });
    let mut place = plugin_place(folder.path(), &store);
    place.worker.program = "sh".into();
    let worker = "exec 3>\"$0\"; exec \"$@\"";
    let mut args = vec!["-c".into(), worker.into(), pipe.into_os_string(), program().into()];
    args.append(&mut place.worker.args);
    place.worker.args = args;

    let provider = PluginProvider::load("beside", &PluginConfig::new(library.into()), &place).unwrap();
    assert_eq!(provider.health().await.unwrap(), Health::Ready);
    let operation = operation(&store);
    stream::iter(0..tasks()).for_each_concurrent(AT_ONCE, |i| one(&provider, &operation, i)).await;
    assert!(provider.list().await.unwrap().is_empty());
    drop(provider);
    ended.join().unwrap();
}

async fn one(provider: &PluginProvider, operation: &Operation, i: usize) {
    let key = format!("task-{i}");
    let task = Task { attempt: key.clone(), key, job: "memory".into(), operation: operation.clone(), limit: None };
    let id = provider.submit(&task).await.unwrap();
    assert_eq!(provider.submit(&task).await.unwrap(), id);
    if i.is_multiple_of(CANCELLED) {
        assert_eq!(provider.cancel(&id).await.unwrap(), Cancelled::Stopped);
    }
    let state = provider.follow(&id, std::future::pending(), |_| {}).await.unwrap();
    match state.phase {
        Phase::Finished(Outcome::Evaluate(metrics)) => assert_eq!(metrics.rows, 4),
        Phase::Cancelled if i.is_multiple_of(CANCELLED) => {}
        other => panic!("task {i}: {other:?}"),
    }
    // What is over is still told, and from the start.
    let again = provider.wait(&id, Default::default(), Duration::ZERO).await.unwrap();
    assert!(again.phase.is_final());
}

/// A model with two weights, on four rows.
fn operation(store: &FolderStore) -> Operation {
    let model = Architecture { layers: vec![Layer::Linear { out: 2, bias: false }], input: vec![1] };
    let plan = layer::plan(&model.layers, &model.input).unwrap();
    let tensors = initial::weights(&plan, 7).into_iter().map(|(name, t)| (format!("model.{name}"), t)).collect();
    let weights = Checkpoint { position: Position::start("memory", 7), tensors };
    let y = Target::Classes([0, 1, 0, 1].into_iter().collect());
    let data = Dataset { shape: vec![1], x: vec![0.0, 1.0, 2.0, 3.0].into(), y, weights: None };
    Operation::Evaluate(EvaluateTask {
        model,
        weights: store.write(&weights.encode().unwrap()).unwrap(),
        data: store.write(&data.encode().unwrap()).unwrap(),
        loss: Loss::CrossEntropy { label_smoothing: 0.0, class_weights: None },
    })
}
