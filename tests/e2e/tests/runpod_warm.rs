//! Between the tasks of a job its worker at RunPod's stand-in is kept warm as long as that is worth it, within the budget.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use outboard::{
    Client, Config, NanoUsd, Report, Run,
    config::Sources,
    ledger::{JobRow, Ledger, Reservation},
    read_job,
};
use outboard_e2e::User;
use tokio::sync::Notify;

mod common;

use common::{Platform, charged, model, python, until};

/// Of the endpoint.
const IDLE: Duration = Duration::from_secs(4);
/// Longer than that, and shorter than what a worker is worth keeping for.
const GAP: Duration = Duration::from_secs(7);
/// Three tasks of an epoch each: there is no time for more.
const JOB: [(&str, &str); 1] = [("epochs = 20", "epochs = 3")];
const KEYS: &str = "idle_timeout = \"4s\"\nmax_task_time = \"2s\"\n";

async fn platform(test: &str) -> Option<Platform> {
    let platform = Platform::with(python(test)?, None, 1.0, &["ep1"], |endpoint| {
        (endpoint.workers_max, endpoint.idle_timeout) = (1, IDLE);
    });
    Some(platform.await)
}

fn user(platform: &Platform, more: &str) -> User {
    let user = platform.user(&format!("{KEYS}{more}"));
    user.job(&JOB);
    user
}

fn client(user: &User) -> Client {
    let environment = vec![("OUTBOARD_HOME".to_string(), user.path().join("home").to_str().unwrap().to_string())];
    let sources = Sources { directory: user.path().into(), environment, overrides: Vec::new() };
    Client::new(Config::load(&sources).unwrap()).unwrap()
}

async fn start(user: &User, client: &Client) -> Run {
    let mut job = read_job(&user.path().join("job.toml")).unwrap();
    job.output = Some(user.path().join("out"));
    client.start(job).await.unwrap()
}

fn assert_whole(platform: &Platform, user: &User, report: &Report) {
    let here = User::new();
    here.job(&JOB);
    let done = here.run(&["train", "job.toml", "--output", "out"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(model(user) == model(&here), "other weights");
    let (charged, metered) = (charged(user), platform.metered());
    assert!(charged >= metered, "{charged} nano-USD charged, {metered} metered");
    assert_eq!(report.cost.0, charged);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_gap_is_bridged_and_paid_for() {
    let Some(platform) = platform("a_long_gap_is_bridged_and_paid_for").await else { return };
    let user = user(&platform, "");
    let plan = user.run(&["plan", "job.toml"]).stdout;
    let said = "between tasks: no gap was seen yet, nothing to do within the idle time-out of 4.0 s; in a longer one the worker";
    assert!(plan.contains(said), "{plan}");
    let (client, is_first) = (client(&user), AtomicBool::new(true));
    let run = start(&user, &client).await.between(move |_| {
        let gap = if is_first.swap(false, Ordering::Relaxed) { GAP } else { Duration::ZERO };
        tokio::time::sleep(gap)
    });
    let report = run.drive(pending(), |_| {}).await.unwrap();
    let (kept, bill) = (report.kept, platform.runpod.bill("ep1"));
    println!("figure: {kept:?}, {bill:?}");
    assert!(kept.requests >= 1 && kept.cost > NanoUsd::ZERO && kept.refused == 0, "{kept:?}");
    assert!(kept.longest_gap >= GAP.as_secs_f64() && kept.idle == IDLE.as_secs_f64(), "{kept:?}");
    assert_eq!(bill.workers, 1, "another one was started");
    let known = client.providers().await.unwrap().enabled.remove(0);
    let has_learned = known.learned.cold_start.observations > 0 && known.gaps.iter().any(|gap| *gap >= GAP);
    assert!(has_learned, "{known:?}");
    assert_whole(&platform, &user, &report);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_in_a_budget_the_worker_is_let_go() {
    let Some(platform) = platform("without_room_in_a_budget_the_worker_is_let_go").await else { return };
    let user = user(&platform, "[budget]\nday_usd = 1.0\n");
    let client = client(&user);
    let run = start(&user, &client).await;
    let ledger = Ledger::open(user.path().join("home/ledger.db").to_str().unwrap()).await.unwrap();
    let is_first = AtomicBool::new(true);
    let run = run.between(move |_| {
        let (ledger, is_first) = (ledger.clone(), is_first.swap(false, Ordering::Relaxed));
        async move {
            if is_first {
                rival(&ledger).await;
                tokio::time::sleep(GAP).await;
                ledger.release("rival").await.unwrap();
            }
        }
    });
    let report = run.drive(pending(), |_| {}).await.unwrap();
    assert!(report.kept.requests == 0 && report.kept.refused == 1, "{:?}", report.kept);
    assert_eq!(platform.runpod.bill("ep1").workers, 2);
    assert_whole(&platform, &user, &report);
}

/// Another job holds nearly all of the day's budget.
async fn rival(ledger: &Ledger) {
    let job = JobRow {
        id: "rival".into(),
        name: "rival".into(),
        folder: "/".into(),
        created_at: SystemTime::now(),
        max_cost: None,
        sweep: None,
        status: "running".into(),
    };
    ledger.start_job(&job).await.unwrap();
    let reservation = Reservation {
        attempt: "rival".into(),
        job: "rival".into(),
        sweep: None,
        task_key: "rival".into(),
        provider: "runpod".into(),
        local: false,
        amount: NanoUsd(975_000_000),
        expires_at: SystemTime::now() + Duration::from_secs(600),
        submitting: None,
    };
    ledger.reserve(&reservation, &[]).await.unwrap();
}

/// As when it is killed: nothing is tidied up.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_while_it_keeps_a_worker_goes_on_and_has_paid() {
    let test = "a_client_that_dies_while_it_keeps_a_worker_goes_on_and_has_paid";
    let Some(platform) = platform(test).await else { return };
    let user = user(&platform, "");
    let client = client(&user);
    let paused = Arc::new(Notify::new());
    let run = start(&user, &client).await;
    let id = run.id().to_string();
    let run = run.between({
        let paused = paused.clone();
        move |_| {
            paused.notify_one();
            pending()
        }
    });
    let driving = tokio::spawn(run.drive(pending(), |_| {}));
    paused.notified().await;
    let before = platform.runpod.seen("").iter().filter(|seen| seen.operation.starts_with("run")).count();
    until(|| platform.runpod.seen("").iter().filter(|seen| seen.operation.starts_with("run")).count() > before).await;
    driving.abort();
    let _ = driving.await;
    let report = client.resume(&id).await.unwrap().drive(pending(), |_| {}).await.unwrap();
    let attempts = client.job_details(&id).await.unwrap().attempts;
    assert!(attempts.iter().any(|attempt| attempt.task_key.contains("/keep/")), "{attempts:?}");
    assert!(attempts.iter().all(|attempt| !attempt.state.is_live()), "{attempts:?}");
    assert_whole(&platform, &user, &report);
}
