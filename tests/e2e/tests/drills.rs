//! Workers that die and networks that fail: whatever happens, a job ends with the bytes of an undisturbed run. Each drill
//! prints its figures.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use outboard_core::{
    ComputeProvider, ComputeProviderExt, Digest, Task,
    task::{Operation, Outcome},
};
use outboard_e2e::{Done, User, Worker, wait};
use outboard_http::{Config, HttpProvider, WorkerConfig};
use outboard_protocol::Checkpoint;
use outboard_store::FolderStore;
use outboard_testbed::{Fault, Proxy, Weather};
use serde_json::Value;

/// A second or two of training on one thread.
const LONG: [(&str, &str); 2] = [
    ("out = 64", "out = 256 }, { type = \"dropout\", p = 0.2 }, { type = \"linear\", out = 256"),
    ("epochs = 20", "epochs = 30"),
];

/// A user whose jobs run on these workers and nowhere else.
fn user(workers: &[SocketAddr], more: &str) -> User {
    let user = User::new();
    let entries: Vec<_> = workers.iter().map(|address| Worker::entry(*address)).collect();
    let config = format!(
        "checkpoint.every = \"20ms\"\nproviders.cpu.enabled = false\n\
         [providers.http]\nenabled = true\nworkers = [{}]\n{more}",
        entries.join(", ")
    );
    user.write("outboard.toml", &config);
    user.job(&LONG);
    user
}

/// The model of a run that nothing disturbs.
fn undisturbed() -> Vec<u8> {
    let user = User::new();
    user.job(&LONG);
    let done = user.run(&["train", "job.toml", "--output", "out"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    model(&user)
}

fn model(user: &User) -> Vec<u8> {
    fs::read(user.path().join("out/model.safetensors")).unwrap()
}

fn provider(address: SocketAddr, store: &FolderStore) -> HttpProvider {
    let worker =
        WorkerConfig { url: format!("http://{address}"), token: Some(Worker::TOKEN.into()), ..WorkerConfig::default() };
    HttpProvider::new(&Config { workers: vec![worker], ..Config::default() }, store.clone()).unwrap()
}

/// Tasks that run on a worker.
async fn running(address: SocketAddr, store: &FolderStore) -> usize {
    let listed = provider(address, store).list().await.unwrap();
    listed.iter().filter(|task| task.running).count()
}

const ROUNDS: u32 = 10;

/// Every second round the worker is the only one, and starts again; in the others another one takes over.
#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_in_the_middle_of_an_epoch_cost_no_byte() {
    let expected = undisturbed();
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    let mut workers = ["a", "b"].map(|name| Worker::start(&folder.path().join(name)));
    let mut random = fastrand::Rng::with_seed(7);
    let mut seconds = Vec::new();
    for round in 0..ROUNDS {
        let count = 1 + round as usize % 2;
        let addresses: Vec<_> = workers[..count].iter().map(Worker::address).collect();
        let user = user(&addresses, "");
        let child = user.start(&["train", "job.toml", "--output", "out", "--json"]);
        let victim = loop {
            let mut busy = None;
            for (index, address) in addresses.iter().enumerate() {
                if running(*address, &store).await > 0 {
                    busy = Some(index);
                }
            }
            match busy {
                Some(index) => break index,
                None => tokio::task::yield_now().await,
            }
        };
        tokio::time::sleep(Duration::from_millis(random.u64(0..500))).await;
        workers[victim].kill();
        let killed = Instant::now();
        if count == 1 {
            workers[victim].restart();
        }
        let done = wait(child);
        assert_eq!(done.code, 0, "round {round}: {}", done.stderr);
        assert!(model(&user) == expected, "round {round}: other weights");
        seconds.push(killed.elapsed().as_secs_f64());
        if count == 2 {
            workers[victim].restart();
        }
    }
    seconds.sort_by(f64::total_cmp);
    println!(
        "figure: {ROUNDS} workers killed while they trained: {ROUNDS} jobs ended with the bytes of an undisturbed run; \
         from the kill to the end of the job {:.1} s at the median, {:.1} s at most",
        seconds[seconds.len() / 2],
        seconds[seconds.len() - 1]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_fails_one_exchange_in_five_costs_no_byte() {
    let expected = undisturbed();
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(&folder.path().join("worker"));
    let (mut met, mut exchanges): (BTreeMap<&str, usize>, usize) = (BTreeMap::new(), 0);
    let began = Instant::now();
    const JOBS: u64 = 4;
    for seed in 0..JOBS {
        let proxy = Proxy::start(worker.address(), Weather::foul(0.2, &Fault::EVERY, seed)).await.unwrap();
        let user = user(&[proxy.address()], "request_timeout = \"1s\"\n");
        let child = user.start(&["train", "job.toml", "--output", "out", "--json"]);
        let done = tokio::task::spawn_blocking(move || wait(child)).await.unwrap();
        assert_eq!(done.code, 0, "seed {seed}, {:?}: {}{}", proxy.met(), done.stderr, last_lines(&done));
        assert!(model(&user) == expected, "seed {seed}: other weights");
        exchanges += proxy.exchanges();
        for (fault, count) in proxy.met() {
            *met.entry(fault).or_default() += count;
        }
    }
    println!(
        "figure: {JOBS} jobs over a failing network, {exchanges} exchanges, {} faults ({}): all ended with the bytes of an \
         undisturbed run, after {:.1} s together",
        met.values().sum::<usize>(),
        met.iter().map(|(fault, count)| format!("{count} {fault}")).collect::<Vec<_>>().join(", "),
        began.elapsed().as_secs_f64()
    );
}

fn last_lines(done: &Done) -> String {
    done.lines().iter().rev().take(3).map(Value::to_string).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_with_the_same_key_have_it_run_once() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(&folder.path().join("worker"));
    let user = user(&[worker.address()], "");
    assert_eq!(user.run(&["train", "job.toml", "--output", "out"]).code, 0);

    // The same evaluation of what was trained, by two clients that know nothing of each other.
    let stores = ["x", "y"].map(|name| FolderStore::open(&folder.path().join(name)).unwrap());
    let clients = stores.each_ref().map(|store| provider(worker.address(), store));
    let start = job_of(&user, &stores);
    const KEYS: usize = 20;
    let mut same = 0;
    for n in 0..KEYS {
        let task = Task {
            key: format!("shared-{n}"),
            job: "shared".into(),
            attempt: format!("shared-{n}#1"),
            operation: start.clone(),
            limit: None,
        };
        let (one, two) = tokio::join!(outcome(&clients[0], &task), outcome(&clients[1], &task));
        assert_eq!(one, two);
        same += 1;
    }
    // Each ran once: the worker has one result per key, with one set of timings.
    println!("figure: {KEYS} keys, each submitted by 2 clients at once: {same} had one outcome for both");
}

async fn outcome(client: &HttpProvider, task: &Task) -> (Outcome, f64) {
    let id = client.submit(task).await.unwrap();
    let state = client.follow(&id, std::future::pending(), |_| {}).await.unwrap();
    let compute = state.usage.unwrap().timings.compute;
    (state.outcome().unwrap(), compute)
}

/// Two epochs from the start of the user's job, with its blobs in both stores.
fn job_of(user: &User, stores: &[FolderStore; 2]) -> Operation {
    let home = user.path().join("home");
    let job = fs::read_dir(home.join("jobs")).unwrap().next().unwrap().unwrap().path();
    let record: Value = serde_json::from_slice(&fs::read(job.join("record.json")).unwrap()).unwrap();
    let blobs = FolderStore::open(&home).unwrap();
    let digest = |key: &Value| -> Digest { key.as_str().unwrap().parse().unwrap() };
    let data = digest(&record["data"]);
    let mut checkpoint = Checkpoint::decode(&blobs.read(&digest(&record["checkpoint"]["digest"])).unwrap()).unwrap();
    checkpoint.position.epoch = 0;
    let start = checkpoint.encode().unwrap();
    for store in stores {
        store.write(&blobs.read(&data).unwrap()).unwrap();
        store.write(&start).unwrap();
    }
    let task = serde_json::json!({
        "operation": "train", "model": record["model"], "train": record["job"]["train"], "data": data,
        "validation": null, "checkpoint": Digest::of(&start), "until_epoch": 2,
        "checkpoint_every": {"secs": 3600, "nanos": 0},
    });
    serde_json::from_value(task).unwrap()
}
