//! Many jobs on RunPod's stand-in while its network fails and its workers die; workers that never start; replies that are
//! lost. Each drill prints its figures.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use outboard::{Client, Error, Event, Job, Report, RunEvent, Status, config::RunPodConfig, router::Policy};
use outboard_core::{ComputeProvider, Result};
use outboard_e2e::{Home, is_thorough, named};
use outboard_runpod::{EndpointConfig, RunPodProvider};
use outboard_store::Bucket;
use outboard_testbed::{
    Fault, Weather,
    runpod::{Fate, Trouble},
};
use outboard_wrappers::{Settings, standard};

mod common;

use common::{KEY, Platform, python, s3};

fn home() -> Home {
    let mut home = Home::new(&["budget.day_usd=none"]);
    // What is quickest, whatever it costs: RunPod, as long as it works.
    home.config.router.policy = Policy::Fastest;
    home
}

fn runpod(
    home: &Home,
    platform: &Platform,
    ids: &[&str],
    adjust: impl FnOnce(&mut RunPodConfig),
) -> Arc<dyn ComputeProvider> {
    let endpoint = |id: &&str| EndpointConfig { id: (*id).into(), gpu: "RTX 4090".into(), weight: 1 };
    let mut config = RunPodConfig {
        api_key: Some(KEY.into()),
        endpoints: ids.iter().map(endpoint).collect(),
        base_url: platform.runpod.base_url(),
        rest_url: platform.runpod.rest_url(),
        manage_url: platform.runpod.manage_url(),
        request_timeout: Duration::from_secs(2),
        lost_patience: Duration::from_secs(2),
        ..RunPodConfig::default()
    };
    adjust(&mut config);
    let bucket = platform.server.as_ref().map(|server| Bucket::open(&server.config()).unwrap());
    let provider = RunPodProvider::new(&config, home.store.clone(), bucket).unwrap();
    named(standard(Arc::new(provider), &Settings::default()), "runpod", "http")
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

/// Provider and state of each attempt of the newest job.
async fn attempts(client: &Client) -> Vec<(String, &'static str)> {
    let row = client.list_jobs(1).await.unwrap().remove(0);
    let attempts = client.job_details(&row.id).await.unwrap().attempts;
    attempts.into_iter().map(|attempt| (attempt.provider, attempt.state.as_str())).collect()
}

/// What the ledger has charged, in nano-dollars.
async fn charged(client: &Client) -> u64 {
    let tomorrow = std::time::SystemTime::now() + Duration::from_secs(86_400);
    let rows = client.costs(outboard::ledger::GroupBy::Provider, std::time::UNIX_EPOCH, tomorrow).await.unwrap();
    rows.iter().map(|row| row.spent.charged.0).sum()
}

/// What a connection through TLS can meet: a byte that changes on the way ends it there.
const FAULTS: [Fault; 7] = [
    Fault::ResetRequest,
    Fault::CutRequest(200),
    Fault::LoseReply,
    Fault::TruncateReply(150),
    Fault::ResetReply(150),
    Fault::Delay(Duration::from_millis(50)),
    Fault::HalfOpen,
];

const IDS: [&str; 2] = ["ep1", "ep2"];

/// Each fifth execution comes with a trouble of RunPod's own: it loses a result, hands a job out twice, answers 429 or 500,
/// or loses the workers of an endpoint with all that they run. Counted by executions, so that a slow machine meets no more.
fn trouble(platform: Arc<Platform>, met: Arc<AtomicUsize>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let runpod = &platform.runpod;
        for turn in 0.. {
            while IDS.iter().map(|id| runpod.executions(id) as usize).sum::<usize>() < 5 * (turn + 1) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let count = match turn % 6 {
                0 => runpod.signal_containers(IDS[turn / 6 % 2], "KILL"),
                n => {
                    match n {
                        1 => runpod.script("job-done", Trouble::LoseResult),
                        2 => runpod.script("job-take", Trouble::Twice),
                        3 => runpod.script("run", Trouble::reply(429, "too many")),
                        4 => runpod.script("status", Trouble::reply(500, "<html>")),
                        _ => runpod.script("run", Trouble::reply(502, "")),
                    }
                    1
                }
            };
            met.fetch_add(count, Ordering::Relaxed);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_exchange_in_five_fails_and_nearly_every_task_succeeds() {
    let test = "one_exchange_in_five_fails_and_nearly_every_task_succeeds";
    let (Some(python), Some(server)) = (python(test), s3::server(test)) else { return };
    let count = if is_thorough() { 1000 } else { 60 };
    let platform = Platform::with(python, Some(server), 1.0, &IDS, |endpoint| {
        (endpoint.workers_min, endpoint.workers_max) = (1, 2);
    });
    let platform = Arc::new(platform.await);
    let mut home = home();
    // As long as a start takes, as everywhere: here that is a second or two.
    home.config.router.breaker.cooldown = Duration::from_secs(2);
    let client = home.client(vec![runpod(&home, &platform, &IDS, |_| {})]);
    platform.runpod.weather(Weather::foul(0.2, &FAULTS, 3));
    let troubles = Arc::new(AtomicUsize::new(0));
    let troubling = trouble(platform.clone(), troubles.clone());
    let began = Instant::now();
    let results: Vec<Result<Report>> = stream::iter(0..count)
        .map(|n| client.train(home.job(&format!("job-{n}"), 2)))
        .buffer_unordered(8)
        .collect()
        .await;
    troubling.abort();
    let time = began.elapsed();
    let faults: usize = platform.runpod.met().into_values().sum();
    let exchanges = platform.runpod.exchanges();
    platform.runpod.weather(Weather::fair());
    client.reap().await.unwrap();

    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for row in client.list_jobs(u32::MAX / 2).await.unwrap() {
        for attempt in client.job_details(&row.id).await.unwrap().attempts {
            *states.entry(attempt.state.as_str()).or_default() += 1;
        }
    }
    let unfinished = results.iter().flatten().filter(|report| report.status != Status::Succeeded).count();
    assert_eq!(unfinished, 0, "nobody has stopped them");
    let failures: Vec<Error> = results.into_iter().filter_map(std::result::Result::err).collect();
    failures.iter().for_each(|error| println!("given up: {}", error.report()));
    let troubles = troubles.load(Ordering::Relaxed);
    let recovered = 1.0 - failures.len() as f64 / (faults + troubles) as f64;
    println!(
        "figure: {count} tasks over 2 endpoints, the CPU fallback off: {faults} faults in {exchanges} exchanges, {troubles} \
         troubles of RunPod's own; {:.1} % succeeded, {:.2} % of the faults were recovered from, attempts {states:?}, {:.2} \
         tasks/s",
        100.0 * (count - failures.len()) as f64 / count as f64,
        100.0 * recovered,
        count as f64 / time.as_secs_f64(),
    );
    assert!(faults > count / 4 && troubles > 0, "{faults} faults, {troubles} troubles");
    assert!(failures.len() * 100 <= count, "{failures:#?}");
    assert!(recovered > 0.95, "{failures:#?}");
    let (charged, metered) = (charged(&client).await, platform.metered());
    println!("figure: charged {charged} nano-USD, metered {metered}");
    assert!(charged >= metered, "{charged} nano-USD charged, {metered} metered");
    let shares = IDS.map(|id| platform.runpod.executions(id) as usize);
    assert!(shares.iter().all(|share| *share > count / 4), "they share the tasks: {shares:?}");
    // Each is settled once: nothing is held, and as many were paid for as succeeded, or more where workers died.
    assert!(states.keys().all(|state| ["settled", "released", "assumed"].contains(state)), "{states:?}");
    assert!(states["settled"] >= count - failures.len(), "{states:?}");
}

/// Drill: `IN_QUEUE` never says that workers crash as they start.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_is_diagnosed_and_the_job_is_finished_elsewhere() {
    let test = "a_crash_loop_is_diagnosed_and_the_job_is_finished_elsewhere";
    let Some(python) = python(test) else { return };
    for (fate, cause) in [
        (Fate::CrashLoop, "its workers crash while they start"),
        (Fate::Throttled, "its workers are throttled: their hosts have no GPU free"),
        (Fate::NoCapacity, "it has no workers: none were given to it, or it may have none"),
    ] {
        let platform = platform_of(python.clone(), None).await;
        platform.runpod.set_fate("ep1", fate);
        let home = home();
        let patience = Duration::from_secs(2);
        let runpod = runpod(&home, &platform, &["ep1"], |config| {
            (config.crash_patience, config.throttled_patience, config.capacity_patience) =
                (patience, patience, patience);
        });
        let client = home.client(vec![runpod, home.fallback()]);
        let began = Instant::now();
        let (report, warnings) = train(&client, home.job("moves", 2)).await;
        let report = report.unwrap();
        assert_eq!((report.provider.as_str(), report.moves.len()), ("z-fallback", 1), "{warnings:?}");
        assert!(report.moves[0].why.contains(cause), "{:?}", report.moves);
        assert!(warnings.iter().any(|warning| warning.contains(cause)), "{warnings:?}");
        assert_eq!((platform.runpod.live_jobs("ep1"), platform.runpod.executions("ep1")), (0, 0));
        assert_eq!(platform.runpod.seen("cancel").len(), 1);
        println!("figure: {fate:?}: diagnosed with a patience of {patience:?}, finished after {:.1?}", began.elapsed());
    }
}

async fn platform_of(python: PathBuf, server: Option<s3::Server>) -> Platform {
    Platform::new(python, server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_with_a_store_costs_nothing_more() {
    let test = "a_lost_reply_with_a_store_costs_nothing_more";
    let (Some(python), Some(server)) = (python(test), s3::server(test)) else { return };
    let platform = platform_of(python, Some(server)).await;
    let home = home();
    let client = home.client(vec![runpod(&home, &platform, &["ep1"], |_| {})]);
    platform.runpod.weather(Weather::fair().then("POST /v2/ep1/run", Fault::LoseReply));
    let (report, warnings) = train(&client, home.job("lost", 2)).await;
    assert_eq!(report.unwrap().provider, "runpod", "{warnings:?}");
    assert_eq!(attempts(&client).await, [("runpod".to_string(), "settled")]);
    assert_eq!(platform.runpod.seen("run").len(), 1, "it was sent again");
    assert!(charged(&client).await >= platform.metered());
}

/// The same, but RunPod has never heard of the task. Another attempt is reserved before it is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_never_came_is_withdrawn_and_reserved_anew() {
    let test = "a_submission_that_never_came_is_withdrawn_and_reserved_anew";
    let (Some(python), Some(server)) = (python(test), s3::server(test)) else { return };
    let platform = platform_of(python, Some(server)).await;
    let home = home();
    let client = home.client(vec![runpod(&home, &platform, &["ep1"], |_| {})]);
    platform.runpod.weather(Weather::fair().then("POST /v2/ep1/run", Fault::ResetRequest));
    let (report, warnings) = train(&client, home.job("lost", 2)).await;
    assert_eq!(report.unwrap().provider, "runpod", "{warnings:?}");
    let why = "runpod failed: the reply to the task's submission was lost, and no worker has taken it";
    assert_eq!(warnings, [why]);
    assert_eq!(attempts(&client).await, ["settled"; 2].map(|state| ("runpod".to_string(), state)));
    assert_eq!((platform.runpod.seen("run").len(), platform.runpod.executions("ep1")), (1, 1));
    assert!(charged(&client).await >= platform.metered());
}

/// Nobody finds a job whose id was lost: the task is waited out, charged in full, and done elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_without_a_store_is_waited_out_and_charged_in_full() {
    let test = "a_lost_reply_without_a_store_is_waited_out_and_charged_in_full";
    let Some(python) = python(test) else { return };
    let platform = platform_of(python, None).await;
    let home = home();
    let second = Duration::from_secs(1);
    let runpod = runpod(&home, &platform, &["ep1"], |config| {
        (config.max_task_time, config.start_within, config.transfer_time) = (3 * second, second, second);
    });
    let price = runpod.price().await.unwrap();
    let client = home.client(vec![runpod, home.fallback()]);
    platform.runpod.weather(Weather::fair().then("POST /v2/ep1/run", Fault::LoseReply));
    let (report, warnings) = train(&client, home.job("lost", 2)).await;
    assert_eq!(report.unwrap().provider, "z-fallback", "{warnings:?}");
    assert_eq!(attempts(&client).await, [("runpod".to_string(), "assumed"), ("z-fallback".to_string(), "settled")]);
    assert_eq!(platform.runpod.seen("run").len(), 1, "it was sent again");
    let spent = charged(&client).await;
    assert_eq!(spent, price.worst(3 * second).0);
    assert!(spent >= platform.metered());
}
