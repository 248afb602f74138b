//! Many jobs over networks that fail and workers that die; jobs that kill their workers. Each drill prints its figures.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use outboard::{Client, Error, ErrorKind, Event, Job, Report, RunEvent, config::HttpConfig};
use outboard_core::{ComputeProvider, Result};
use outboard_e2e::{Home, Worker, is_thorough, named};
use outboard_http::{HttpProvider, WorkerConfig};
use outboard_testbed::{Fault, Proxy, Weather};
use outboard_worker::{Server, ServerConfig, TaskProgram, Token};
use outboard_wrappers::{Settings, standard};
use tokio::net::TcpListener;

fn home() -> Home {
    Home::new(&["checkpoint.every=\"20ms\""])
}

fn http(home: &Home, workers: &[SocketAddr]) -> Arc<dyn ComputeProvider> {
    let worker = |address: &SocketAddr| WorkerConfig {
        url: format!("http://{address}"),
        token: Some(Worker::TOKEN.into()),
        ..WorkerConfig::default()
    };
    let config = HttpConfig {
        workers: workers.iter().map(worker).collect(),
        request_timeout: Duration::from_secs(1),
        ..HttpConfig::default()
    };
    standard(Arc::new(HttpProvider::new(&config, home.store.clone()).unwrap()), &Settings::default())
}

/// Kills the task processes of these workers, one every so often, until it is dropped.
fn kill_now_and_then(workers: &[Worker], killed: Arc<AtomicUsize>) -> tokio::task::JoinHandle<()> {
    let workers: Vec<u32> = workers.iter().map(Worker::pid).collect();
    tokio::spawn(async move {
        for turn in 0.. {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let parent = workers[turn % workers.len()].to_string();
            let done = Command::new("pkill").args(["-KILL", "-P", &parent]).status();
            killed.fetch_add(usize::from(done.is_ok_and(|status| status.success())), Ordering::Relaxed);
        }
    })
}

/// Runs many small jobs over two workers behind networks that fail one exchange in five.
async fn many(count: usize, with_fallback: bool) -> (usize, usize, Vec<Error>) {
    let home = home();
    let workers = ["a", "b"].map(|name| Worker::start(&home.path().join(name)));
    let mut proxies = Vec::new();
    for (seed, worker) in workers.iter().enumerate() {
        proxies.push(Proxy::start(worker.address(), Weather::foul(0.2, &Fault::EVERY, seed as u64)).await.unwrap());
    }
    let addresses: Vec<_> = proxies.iter().map(Proxy::address).collect();
    let mut providers = vec![http(&home, &addresses)];
    if with_fallback {
        providers.push(home.fallback());
    }
    let client = home.client(providers);
    let killed = Arc::new(AtomicUsize::new(0));
    let killer = kill_now_and_then(&workers, killed.clone());
    let began = Instant::now();
    let results: Vec<Result<Report>> = stream::iter(0..count)
        .map(|n| client.train(home.job(&format!("job-{n}"), 2)))
        .buffer_unordered(8)
        .collect()
        .await;
    killer.abort();
    let time = began.elapsed();
    client.reap().await.unwrap();

    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    let mut moved = 0;
    for row in client.list_jobs(u32::MAX / 2).await.unwrap() {
        let details = client.job_details(&row.id).await.unwrap();
        moved += details.report.map_or(0, |report| report.moves.len());
        for attempt in details.attempts {
            *states.entry(attempt.state.as_str().into()).or_default() += 1;
        }
    }
    assert!(states.keys().all(|state| state == "settled" || state == "released"), "{states:?}");
    let failures: Vec<_> = results.into_iter().filter_map(std::result::Result::err).collect();
    let faults: usize = proxies.iter().flat_map(|proxy| proxy.met().into_values()).sum::<usize>();
    let killed = killed.load(Ordering::Relaxed);
    let recovered = 1.0 - failures.len() as f64 / (faults + killed) as f64;
    println!(
        "figure: {count} jobs over 2 workers, the CPU fallback {}: {faults} faults in {} exchanges, {killed} task processes \
         killed; {:.1} % succeeded, {:.2} % of the faults were recovered from, {moved} moves, attempts {states:?}, {:.1} jobs/s",
        if with_fallback { "on" } else { "off" },
        proxies.iter().map(Proxy::exchanges).sum::<usize>(),
        100.0 * (count - failures.len()) as f64 / count as f64,
        100.0 * recovered,
        count as f64 / time.as_secs_f64(),
    );
    (faults, killed, failures)
}

fn count() -> usize {
    if is_thorough() { 1000 } else { 100 }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_exchange_in_five_fails_and_nearly_every_job_succeeds() {
    let (faults, killed, failures) = many(count(), false).await;
    assert!(faults > count() / 4 && killed > 0, "{faults} faults, {killed} kills");
    assert!(failures.len() * 100 <= count(), "{failures:#?}");
    assert!(failures.len() * 20 < faults + killed, "{failures:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_fallback_every_job_succeeds() {
    let (_, _, failures) = many(count() / 2, true).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

/// A worker whose task process is this script.
async fn worker_of(folder: &Path, script: &str) -> SocketAddr {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join("task.sh");
    fs::write(&path, script).unwrap();
    let program = TaskProgram { program: "/bin/sh".into(), args: vec![path.into()] };
    let server =
        Server::start(ServerConfig::new(folder.into(), Token::new(Worker::TOKEN).unwrap(), program)).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { server.run(listener, std::future::pending()).await.unwrap() });
    address
}

fn hello() -> String {
    let layers: Vec<String> = outboard_engine::LAYERS.iter().map(|layer| format!("\"{layer}\"")).collect();
    let hello =
        format!("{{\"protocol\":1,\"device\":\"a script\",\"numerics\":\"none\",\"layers\":[{}]}}", layers.join(","));
    format!("echo '{{\"hello\":{hello}}}'\nread line\necho '{{\"alive\":true}}'\n")
}

async fn train(client: &Client, job: Job) -> (Result<Report>, Vec<String>) {
    let mut warnings = Vec::new();
    let observe = |event| {
        if let RunEvent::Task(Event::Warning { message }) = event {
            warnings.push(message);
        }
    };
    (client.start(job).await.unwrap().drive(std::future::pending(), observe).await, warnings)
}

async fn attempts(client: &Client) -> Vec<String> {
    let row = client.list_jobs(1).await.unwrap().remove(0);
    client.job_details(&row.id).await.unwrap().attempts.into_iter().map(|attempt| attempt.provider).collect()
}

fn folder(home: &Home, name: &str) -> PathBuf {
    home.path().join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_task_process_on_two_providers_is_stopped() {
    let home = home();
    let dies = format!("{}echo 'illegal instruction in layer 3' >&2\nkill -ILL $$\n", hello());
    let mut providers = Vec::new();
    for name in ["a", "b", "c"] {
        let address = worker_of(&folder(&home, name), &dies).await;
        providers.push(named(http(&home, &[address]), name, name));
    }
    let client = home.client(providers);
    let (report, warnings) = train(&client, home.job("poison", 2)).await;
    let error = report.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::JobFailed, "{}", error.report());
    assert!(error.to_string().starts_with("the job would fail anywhere: on "), "{error}");
    assert_eq!(attempts(&client).await.len(), 2, "a third provider was paid for it: {warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_provider_crash_loops_moves_on_and_is_not_blamed() {
    let home = home();
    // Its first process lives long enough to say what it is; none lives to take a task.
    let loops = format!("{}exit 7\n", hello().lines().next().unwrap().to_string() + "\n");
    let address = worker_of(&folder(&home, "a"), &loops).await;
    let client = home.client(vec![named(http(&home, &[address]), "a", "a"), home.fallback()]);
    let (report, warnings) = train(&client, home.job("moves", 2)).await;
    let report = report.unwrap();
    assert_eq!(report.provider, "z-fallback", "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("a failed: the task process died")), "{warnings:?}");
    assert_eq!((report.moves.len(), report.moves[0].from.as_str()), (1, "a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_wrong_costs_one_attempt() {
    let home = home();
    let worker = Worker::start(&folder(&home, "worker"));
    let client = home.client(vec![http(&home, &[worker.address()]), home.fallback()]);
    let mut job = home.job("nan", 2);
    job.train.optimizer = serde_json::from_str("{\"type\":\"sgd\",\"lr\":1e30}").unwrap();
    let (report, _) = train(&client, job).await;
    let error = report.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::JobFailed, "{}", error.report());
    assert_eq!(attempts(&client).await, ["http"]);
}
