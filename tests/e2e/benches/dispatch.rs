//! What it costs to hand a task over: `cargo xtask bench dispatch`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    future::pending,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use outboard_core::{
    ComputeProviderExt, Digest, Event, Layer, Result, Task, layer,
    task::{Architecture, Operation, TrainTask},
};
use outboard_cpu::CpuProvider;
use outboard_e2e::{Worker, program};
use outboard_engine::{Blobs, execute};
use outboard_http::{Config, HttpProvider, WorkerConfig};
use outboard_protocol::{
    Checkpoint, Dataset, Envelope, Position, Target,
    envelope::Ending,
    initial,
    random::{Domain, Stream},
};
use outboard_store::FolderStore;
use outboard_testbed::{Proxy, Weather};
use outboard_worker::{Supervisor, TaskProgram};

const ROUNDS: usize = 200;
const WORKERS: usize = 4;
const TASKS: usize = 400;
const EPOCHS: u32 = 10;
const MIB: f64 = 1024.0 * 1024.0;
/// A task is given up after this long.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    println!("added time per task, medians of {ROUNDS} interleaved rounds, over the engine called directly");
    added_time(folder.path()).await;
    throughput(folder.path()).await;
    bytes(folder.path()).await;
    memory(folder.path()).await;
}

/// One epoch of a small model on `rows` rows, with its blobs in `store`.
fn operation(store: &FolderStore, rows: usize) -> Operation {
    let layers = vec![Layer::Linear { out: 32, bias: true }, Layer::Relu, Layer::Linear { out: 4, bias: true }];
    let model = Architecture { layers, input: vec![64] };
    let stream = Stream::new(3, Domain::Weights, 7);
    let data = Dataset {
        shape: vec![64],
        x: (0..rows as u64 * 64).map(|i| stream.uniform(i) as f32).collect(),
        y: Target::Classes((0..rows as i64).map(|i| i % 4).collect()),
        weights: None,
    };
    let plan = layer::plan(&model.layers, &model.input).unwrap();
    let tensors = initial::weights(&plan, 7).into_iter().map(|(name, t)| (format!("model.{name}"), t)).collect();
    let start = Checkpoint { position: Position::start("bench", 7), tensors };
    let train = serde_json::json!({"loss": "cross_entropy", "epochs": EPOCHS, "batch_size": 64, "seed": 7});
    Operation::Train(Box::new(TrainTask {
        model,
        train: serde_json::from_value(train).unwrap(),
        data: store.write(&data.encode().unwrap()).unwrap(),
        validation: None,
        checkpoint: store.write(&start.encode().unwrap()).unwrap(),
        until_epoch: 1,
        checkpoint_every: Duration::from_secs(3600),
    }))
}

fn task(operation: &Operation) -> Task {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let key = format!("bench-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    Task { attempt: key.clone(), key, job: "bench".into(), operation: operation.clone(), limit: None }
}

struct Folder<'a>(&'a FolderStore);

impl Blobs for Folder<'_> {
    fn get(&self, digest: &Digest) -> Result<Bytes> {
        self.0.map(digest)
    }

    fn put(&self, bytes: Vec<u8>) -> Result<Digest> {
        self.0.write(&bytes)
    }
}

fn http(workers: &[SocketAddr], store: &FolderStore) -> HttpProvider {
    let worker = |address: &SocketAddr| WorkerConfig {
        url: format!("http://{address}"),
        token: Some(Worker::TOKEN.into()),
        ..WorkerConfig::default()
    };
    let config = Config { workers: workers.iter().map(worker).collect(), ..Config::default() };
    HttpProvider::new(&config, store.clone()).unwrap()
}

async fn milliseconds<T>(work: impl Future<Output = Result<T>>) -> f64 {
    let began = Instant::now();
    work.await.unwrap();
    began.elapsed().as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn added_time(folder: &Path) {
    // Each has a store of its own: a blob that is there already isn't written again.
    let store = |name: &str| FolderStore::open(&folder.join(name)).unwrap();
    let stores = ["direct", "cpu", "stdio", "http"].map(store);
    let operations = stores.each_ref().map(|store| operation(store, 256));
    let cpu = CpuProvider::new(&outboard_cpu::Config { enabled: true, threads: 1 }, stores[1].clone()).unwrap();
    let args = ["worker", "--stdio", "--threads", "1", "--store"].map(Into::into).into_iter();
    let args = args.chain([folder.join("stdio").into()]).collect();
    let stdio = Supervisor::new(TaskProgram { program: program().into(), args });
    stdio.start().await.unwrap();
    let worker = Worker::start(&folder.join("worker"));
    let http = http(&[worker.address()], &stores[3]);

    let mut times = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        // What an epoch comes to is the same each time, and would be found in the store.
        for (store, operation) in stores.iter().zip(&operations) {
            let Operation::Train(task) = operation else { unreachable!() };
            for (digest, ..) in store.list().unwrap() {
                if ![task.data, task.checkpoint].contains(&digest) {
                    store.remove(&digest).unwrap();
                }
            }
        }
        let direct = || {
            let stop = AtomicBool::new(false);
            execute(&operations[0], &Folder(&stores[0]), &stop, &mut |_: Event| {})
        };
        times[0].push(milliseconds(async { tokio::task::block_in_place(direct) }).await);
        let (one, two) = (task(&operations[1]), task(&operations[3]));
        times[1].push(milliseconds(cpu.run(&one, pending(), |_| {})).await);
        let envelope = Envelope::new(task(&operations[2]), PATIENCE, PATIENCE);
        let run = async {
            let result = stdio.run(&envelope, pending(), |_| {}).await;
            assert!(matches!(result.ended, Ending::Finished(_)), "{result:?}");
            Ok(())
        };
        times[2].push(milliseconds(run).await);
        times[3].push(milliseconds(http.run(&two, pending(), |_| {})).await);
    }
    println!("  direct  {:6.2} ms in all", median(times[0].clone()));
    for (index, (name, goal)) in [("cpu", 0.2), ("stdio", 1.0), ("http", 3.0)].into_iter().enumerate() {
        let added = median(times[index + 1].iter().zip(&times[0]).map(|(time, direct)| time - direct).collect());
        let verdict = if added < goal { "met" } else { "missed" };
        println!("  {name:<7} {added:+6.2} ms (goal below {goal} ms: {verdict})");
    }
}

async fn throughput(folder: &Path) {
    let store = FolderStore::open(&folder.join("many")).unwrap();
    let operation = operation(&store, 256);
    let workers: Vec<_> = (0..WORKERS).map(|n| Worker::start(&folder.join(format!("many-{n}")))).collect();
    let addresses: Vec<_> = workers.iter().map(Worker::address).collect();
    let provider = http(&addresses, &store);
    let began = Instant::now();
    stream::iter(0..TASKS)
        .for_each_concurrent(2 * WORKERS, |_| async {
            provider.run(&task(&operation), pending(), |_| {}).await.unwrap();
        })
        .await;
    let rate = TASKS as f64 / began.elapsed().as_secs_f64();
    println!("{TASKS} tasks over {WORKERS} local workers: {rate:.0} tasks/s");
}

/// Bytes that cross per epoch, where each epoch is a task.
async fn bytes(folder: &Path) {
    let store = FolderStore::open(&folder.join("bytes")).unwrap();
    let whole = operation(&store, 8192);
    let Operation::Train(whole) = whole else { unreachable!() };
    let mut found = Vec::new();
    for caches in [true, false] {
        let mut worker = Worker::start(&folder.join(format!("bytes-{caches}")));
        let mut checkpoint = whole.checkpoint;
        let mut total = 0;
        for epoch in 1..=EPOCHS {
            if !caches && epoch > 1 {
                worker = Worker::start(&folder.join(format!("bytes-{caches}-{epoch}")));
            }
            let proxy = Proxy::start(worker.address(), Weather::fair()).await.unwrap();
            let provider = http(&[proxy.address()], &store);
            let operation =
                Operation::Train(Box::new(TrainTask { checkpoint, until_epoch: epoch, ..(*whole).clone() }));
            let outcome = provider.run(&task(&operation), pending(), |_| {}).await.unwrap();
            if let outboard_core::task::Outcome::Train { checkpoint: next, .. } = outcome {
                checkpoint = next.digest;
            }
            total += proxy.bytes().0 + proxy.bytes().1;
        }
        found.push(total as f64 / f64::from(EPOCHS) / 1e3);
    }
    println!(
        "bytes on the wire per epoch of 8,192 rows: {:.0} kB where the worker keeps its blobs, {:.0} kB without",
        found[0], found[1]
    );
}

async fn memory(folder: &Path) {
    let worker = Worker::start(&folder.join("memory"));
    let fresh = resident(worker.pid());
    let store = FolderStore::open(&folder.join("memory-client")).unwrap();
    let operation = operation(&store, 256);
    http(&[worker.address()], &store).run(&task(&operation), pending(), |_| {}).await.unwrap();
    let used = resident(worker.pid());
    let verdict = if used.0 + used.1 < 20.0 { "met" } else { "missed" };
    println!(
        "memory of an idle worker, supervisor and task process: {:.1} + {:.1} MiB when it starts, {:.1} + {:.1} MiB after a \
         small task (goal below 20 MiB: {verdict})",
        fresh.0, fresh.1, used.0, used.1
    );
}

/// Resident memory of a process and of its children, in MiB; what both share is counted once for each.
fn resident(pid: u32) -> (f64, f64) {
    let of = |pid: u32| -> f64 {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or_default() * 1024.0 / MIB
    };
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let tasks: Vec<u32> = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .chain([children])
        .flat_map(|children| children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    let mut tasks = tasks;
    tasks.sort_unstable();
    tasks.dedup();
    (of(pid), tasks.into_iter().map(of).sum())
}
