//! Jobs of the real program on RunPod's stand-in, whose workers run RunPod's own SDK: whatever is killed, the model is the
//! same, and the ledger never says less than RunPod's meter. Each drill prints its figures.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command},
    time::Duration,
};

use outboard_e2e::{User, is_thorough, wait};
use outboard_testbed::{Fault, Weather};
use serde_json::Value;

mod common;

use common::{EPOCHS, LONG, Platform, charged, model, python, s3, undisturbed, undisturbed_by, until};

fn train<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    [&["train", "--json"], rest].concat()
}

/// Reads standard output until a line satisfies `enough`; then reads on, so that the program doesn't block. None where it
/// ended before.
fn read_until(child: &mut Child, enough: impl Fn(&Value) -> bool) -> Option<Value> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let found = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let event: Value = serde_json::from_str(&line).unwrap();
        enough(&event).then_some(event)
    });
    std::thread::spawn(move || lines.for_each(drop));
    found
}

fn the_job(user: &User) -> Option<String> {
    let jobs = fs::read_dir(user.path().join("home/jobs")).ok()?;
    let named = |entry: fs::DirEntry| entry.path().join("record.json").exists().then(|| entry.file_name());
    jobs.flatten().find_map(named)?.into_string().ok()
}

/// The ledger's charges and RunPod's meter, which must not say more.
fn assert_covers(platform: &Platform, user: &User, what: &str) -> (u64, u64) {
    let (charged, metered) = (charged(user), platform.metered());
    assert!(charged >= metered && metered > 0, "{what}: {charged} nano-USD charged, {metered} metered");
    (charged, metered)
}

async fn trains(server: Option<s3::Server>, test: &str) {
    let Some(python) = python(test) else { return };
    let has_bucket = server.is_some();
    let platform = Platform::new(python, server).await;
    let user = platform.user("");
    let plan = user.run(&["plan", "job.toml"]);
    assert!(plan.stdout.contains("runpod  chosen"), "{}", plan.stdout);
    assert_eq!(plan.stdout.contains("note: runpod has no store"), !has_bucket, "{}", plan.stdout);
    let done = user.run(&train(&["job.toml", "--output", "out"]));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.last()["provider"], "runpod");
    assert!(done.last()["cost_usd"].as_f64().unwrap() > 0.0);
    assert_eq!(done.lines().iter().filter(|line| line["event"] == "epoch").count(), EPOCHS);
    assert!(model(&user) == undisturbed(), "other weights");
    let (charged, metered) = assert_covers(&platform, &user, test);

    // The other commands know it too.
    let found = user.run(&["evaluate", "out/model.safetensors", "digits.csv", "--json"]);
    assert_eq!(found.last()["provider"], "runpod", "{}", found.stderr);
    let providers = user.run(&["providers", "--json"]).lines();
    assert!(providers.iter().any(|line| line["provider"] == "runpod" && line["ready"] == true), "{providers:?}");
    let job = the_job(&user).unwrap();
    let shown = user.run(&["jobs", "show", &job, "--json"]).last();
    assert_eq!(shown["attempts"][0]["state"], "settled", "{shown}");
    for command in ["reap", "gc"] {
        let done = user.run(&[command]);
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
    println!("figure: a job on RunPod, {test}: charged {charged} nano-USD, metered {metered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_without_a_store() {
    trains(None, "a_job_runs_without_a_store").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_with_a_bucket() {
    let test = "a_job_runs_with_a_bucket";
    let Some(server) = s3::server(test) else { return };
    trains(Some(server), test).await;
}

/// From RunPod to this machine and back, at every epoch.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_moves_at_every_epoch_gives_the_same_model() {
    let test = "a_job_that_moves_at_every_epoch_gives_the_same_model";
    let (Some(python), Some(server)) = (python(test), s3::server(test)) else { return };
    let platform = Platform::new(python, Some(server)).await;
    let user = platform.user("");
    // So long that no machine is done before it is told to move.
    let changes = [LONG[0], ("batch_size = 64", "batch_size = 1")];
    user.job(&changes);
    let here = ["--set", "providers.cpu.enabled=true", "--set", "providers.runpod.enabled=false"];
    let (mut moves, mut job): (_, Option<String>) = (0, None);
    loop {
        let resume = job.clone().unwrap_or_default();
        let first = ["job.toml", "--output", "out"];
        let mut arguments: Vec<&str> = if job.is_none() { train(&first) } else { train(&["--resume", &resume]) };
        if moves % 2 == 1 {
            arguments.extend(here);
        }
        let mut child = user.start(&arguments);
        let epoch = read_until(&mut child, |event| event["event"] == "epoch");
        if epoch.is_some() {
            // It may have ended by itself.
            let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        }
        let done = wait(child);
        job = job.or_else(|| the_job(&user));
        match done.code {
            0 => break,
            4 => moves += 1,
            code => panic!("{code}: {}", done.stderr),
        }
        assert!(moves < 40, "it doesn't get on");
    }
    assert!(model(&user) == undisturbed_by(&changes), "other weights");
    let (charged, metered) = assert_covers(&platform, &user, test);
    println!("figure: {moves} moves between RunPod and the CPU: charged {charged} nano-USD, metered {metered}");
    assert!(moves >= 4, "{moves}");
}

/// Drill: the worker's process dies in the middle of an epoch.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_costs_no_byte() {
    let test = "a_worker_that_is_killed_costs_no_byte";
    let (Some(python), Some(_)) = (python(test), s3::server(test)) else { return };
    let expected = undisturbed();
    for signal in ["KILL", "ABRT"] {
        let platform = Platform::with(python.clone(), s3::server(test), 1.0, &["ep1"], |endpoint| {
            endpoint.workers_max = 1;
        });
        let platform = platform.await;
        let user = platform.user("");
        let mut child = user.start(&train(&["job.toml", "--output", "out"]));
        read_until(&mut child, |event| event["event"] == "epoch").unwrap();
        let killed = platform.runpod.signal_containers("ep1", signal);
        let done = wait(child);
        assert_eq!(done.code, 0, "{signal}: {}", done.stderr);
        assert!(model(&user) == expected, "{signal}: other weights");
        let attempts = platform.runpod.executions("ep1");
        let (charged, metered) = assert_covers(&platform, &user, signal);
        println!(
            "figure: {killed} worker killed with {signal} mid-epoch, {attempts} executions: charged {charged} nano-USD, \
             metered {metered}"
        );
        assert!(killed == 1 && attempts >= 2, "{signal}: {killed} killed, {attempts} executions");
    }
}

/// Drill: the client dies at spread points; in every third round while a reply to a submission is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_goes_on_and_pays_once() {
    let test = "a_client_that_is_killed_goes_on_and_pays_once";
    let (Some(python), Some(_)) = (python(test), s3::server(test)) else { return };
    let rounds = if is_thorough() { 30 } else { 6 };
    let expected = undisturbed();
    let mut random = fastrand::Rng::with_seed(5);
    let (mut kills, mut all_charged, mut all_metered) = (0, 0, 0);
    let platform = Platform::new(python, s3::server(test)).await;
    for round in 0..rounds {
        let user = platform.user("");
        let (before, executions) = (platform.metered(), platform.runpod.executions("ep1"));
        let held = round % 3 == 0;
        if held {
            let held = Fault::Delay(Duration::from_secs(60));
            platform.runpod.weather(Weather::fair().then("POST /v2/ep1/run", held));
        }
        let mut child = user.start(&train(&["job.toml", "--output", "out"]));
        until(|| the_job(&user).is_some()).await;
        if held {
            until(|| platform.runpod.executions("ep1") > executions).await;
        } else {
            tokio::time::sleep(Duration::from_millis(random.u64(0..4000))).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        platform.runpod.weather(Weather::fair());
        kills += 1;
        let done = user.run(&train(&["--resume", &the_job(&user).unwrap()]));
        assert_eq!(done.code, 0, "round {round}: {}", done.stderr);
        assert!(model(&user) == expected, "round {round}: other weights");
        let states: Vec<_> = user.run(&["jobs", "show", &the_job(&user).unwrap(), "--json"]).last()["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|attempt| attempt["state"].as_str().unwrap().to_string())
            .collect();
        assert!(states.iter().all(|state| state == "settled" || state == "released"), "round {round}: {states:?}");
        all_charged += charged(&user);
        all_metered += platform.metered() - before;
    }
    println!("figure: {kills} clients killed: charged {all_charged} nano-USD, metered {all_metered}");
    assert!(all_charged >= all_metered, "{all_charged} nano-USD charged, {all_metered} metered");
}

/// A client that dies leaves what it was about to send. What was never sent costs nothing; what may have been is looked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_client_left_is_charged_as_far_as_it_was_sent() {
    let test = "what_a_dead_client_left_is_charged_as_far_as_it_was_sent";
    let (Some(python), Some(server)) = (python(test), s3::server(test)) else { return };
    let state = |user: &User| {
        let job = the_job(user)?;
        let shown = user.run(&["jobs", "show", &job, "--json"]).last();
        Some(shown["attempts"][0]["state"].as_str()?.to_string())
    };
    let killed = async |user: &User, platform: &Platform, executions: u32| {
        let mut child = user.start(&train(&["job.toml", "--output", "out"]));
        until(|| state(user).as_deref() == Some("submitting")).await;
        until(|| platform.runpod.executions("ep1") == executions).await;
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let reap = |user: &User| {
        let reaped = user.run(&["reap", "--json"]).last();
        (reaped["what"].as_str().unwrap_or_default().to_string(), charged(user))
    };

    // A store that never answers: the task's blobs don't get there, so that it isn't sent.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!(
        "[store]\nurl = \"s3://data\"\nendpoint = \"http://{}\"\naccess_key_id = \"KEY\"\nsecret_access_key = \"s3cret\"",
        silent.local_addr().unwrap()
    );
    let platform = Platform::new(python.clone(), None).await;
    let user = platform.user(&store);
    killed(&user, &platform, 0).await;
    assert_eq!(reap(&user), ("the provider does not have it: released".into(), 0));

    // Sent, and its reply still on the way: without a store nobody finds it, with one its records tell.
    let held = || Weather::fair().then("POST /v2/ep1/run", Fault::Delay(Duration::from_secs(600)));
    let user = platform.user("");
    platform.runpod.weather(held());
    killed(&user, &platform, 1).await;
    platform.runpod.weather(Weather::fair());
    let (what, all) = reap(&user);
    assert_eq!(what, "the provider no longer knows it: charged in full");
    assert!(all >= platform.metered());

    let platform = Platform::new(python, Some(server)).await;
    let user = platform.user("");
    platform.runpod.weather(held());
    killed(&user, &platform, 1).await;
    platform.runpod.weather(Weather::fair());
    until(|| platform.workers() == 0).await;
    let (what, found) = reap(&user);
    assert_eq!(what, "stopped and settled");
    assert!(
        (platform.metered()..all).contains(&found),
        "{found} nano-USD, {} metered, {all} in full",
        platform.metered()
    );
}

/// Nothing is left between the ledger and the bill: estimates, guesses and what no task explains come to what was billed.
#[tokio::test(flavor = "multi_thread")]
async fn reconciling_brings_the_difference_to_zero() {
    let test = "reconciling_brings_the_difference_to_zero";
    let Some(python) = python(test) else { return };
    let platform = Platform::with(python, None, 1.0, &["ep1", "ep2"], |endpoint| endpoint.workers_max = 1).await;
    let user = platform.user("");
    assert_eq!(user.run(&train(&["job.toml", "--output", "out"])).code, 0);
    // Another client's job, of which the ledger knows nothing.
    let other = platform.user("");
    assert_eq!(other.run(&train(&["job.toml", "--output", "out"])).code, 0);
    // Workers bill until their idle time-out is over.
    until(|| platform.workers() == 0).await;
    let before = (charged(&user), platform.metered());
    assert_ne!(before.0, before.1);

    let left = user.run(&["costs", "--reconcile", "--json"]).lines();
    let row = left.iter().find(|line| line["event"] == "reconciled").unwrap();
    assert_eq!(row["left"], "its bill may still grow", "{row}");
    assert_eq!(charged(&user), before.0);
    for round in 0..2 {
        let done = user.run(&["costs", "--reconcile", "--today", "--json"]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        let rows: Vec<_> = done.lines().into_iter().filter(|line| line["event"] == "reconciled").collect();
        assert!(rows.iter().all(|row| row["left"].is_null()), "{rows:?}");
        let found: f64 = rows.iter().filter_map(|row| row["found_usd"].as_f64()).sum();
        assert!(found > 0.0, "{rows:?}");
        assert_eq!((charged(&user), platform.metered()), (before.1, before.1), "round {round}");
    }
    println!("figure: reconciled {} nano-USD charged with {} billed; difference 0", before.0, before.1);
}
