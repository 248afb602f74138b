//! What a job costs with the worker for PyTorch on RunPod's stand-in, against one request per epoch with base64 states, which
//! is what users do without Outboard: part of `cargo xtask bench runpod`. Both run here, over the same network.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use outboard_e2e::{User, repository};
use outboard_store::transport;
use outboard_testbed::Link;
use serde_json::{Value, json};

#[path = "../tests/common/mod.rs"]
mod common;

use common::{KEY, Platform, python, s3, torch_worker};

/// A home's line: 100 Mbit/s.
const LINK: Link = Link { round_trip: Duration::from_millis(40), bytes_per_second: 12_500_000 };
/// Of the container, beside the worker's own; a published one of a small image.
const COLD_START: Duration = Duration::from_secs(3);
const EPOCHS: u32 = 20;
/// Goals, as shares of the time in all.
const START_GOAL: f64 = 0.2;
const TRANSFER_GOAL: f64 = 0.1;

/// What a way came to.
struct Figures {
    /// From the first request to the last reply.
    seconds: f64,
    /// On the network, both ways.
    bytes: u64,
}

#[tokio::main]
async fn main() {
    const BENCH: &str = "bench runpod_torch";
    let (Some(python), Some(sources)) = (python(BENCH), torch_worker(BENCH)) else { return };
    println!(
        "PyTorch on RunPod's stand-in: {EPOCHS} epochs; a container starts in {COLD_START:?}, a request travels for {:?} at {} \
         Mbit/s",
        LINK.round_trip,
        LINK.bytes_per_second * 8 / 1_000_000
    );
    for job in ["digits", "images"] {
        let Some(server) = s3::server(BENCH) else { return };
        println!("{job}");
        let platform = platform(&python, &sources, Some(server)).await;
        let (user, ours) = ours(&platform, job);
        drop(platform);
        let platform = self::platform(&python, &sources, None).await;
        let plain = plain(&platform, &user).await;
        let each = |figures: &Figures| figures.bytes as f64 / f64::from(EPOCHS);
        println!(
            "  bytes per epoch: {:.0}; with one request per epoch and base64 states {:.0}: {:.1} times as many",
            each(&ours),
            each(&plain),
            each(&plain) / each(&ours)
        );
        println!(
            "  time: {:.1} s; with one request per epoch {:.1} s: {:.2} times as long",
            ours.seconds,
            plain.seconds,
            plain.seconds / ours.seconds
        );
    }
}

async fn platform(python: &Path, sources: &Path, server: Option<s3::Server>) -> Platform {
    let starts = |endpoint: &mut outboard_testbed::runpod::EndpointSettings| endpoint.cold_start = COLD_START;
    let platform = Platform::torch(python.into(), sources, server, starts).await;
    platform.runpod.slow(LINK);
    if let Some(network) = &platform.network {
        network.slow(LINK);
    }
    platform
}

/// A job of the program, with a bucket.
fn ours(platform: &Platform, name: &str) -> (User, Figures) {
    let user = platform.user("");
    let text = fs::read_to_string(repository().join(format!("examples/{name}.toml"))).unwrap();
    let data = format!("train = \"{}", repository().join("examples/data").display());
    let text: String = text.replace("train = \"data", &data);
    let epochs = |line: &str| if line.starts_with("epochs = ") { format!("epochs = {EPOCHS}") } else { line.into() };
    user.write("job.toml", &text.lines().map(epochs).collect::<Vec<String>>().join("\n"));
    let began = Instant::now();
    let done = user.run(&["train", "job.toml", "--json", "--output", "out", "--set", "checkpoint.every=30s"]);
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(done.code, 0, "{}", done.stderr);
    let (there, back) = platform.network.as_ref().unwrap().bytes();
    shares(&done.last(), platform);
    (user, Figures { seconds, bytes: platform.runpod.bytes() + there + back })
}

/// Where the time of the tasks went.
fn shares(finished: &Value, platform: &Platform) {
    let time = |phase: &str| finished["timings"][phase].as_f64().unwrap();
    let (start, transfer) = (time("queue") + time("boot"), time("download") + time("upload"));
    let computing = time("load") + time("compute");
    let all = start + transfer + computing;
    let tell = |what: &str, seconds: f64, goal: f64| {
        let share = seconds / all;
        let verdict =
            if share < goal { "met".into() } else { format!("missed: the job computes for {computing:.1} s") };
        println!(
            "  {what}: {:.1} % of {all:.1} s; the goal of less than {:.0} % is {verdict}",
            100.0 * share,
            100.0 * goal
        );
    };
    tell("waiting and start", start, START_GOAL);
    tell("transfer", transfer, TRANSFER_GOAL);
    let enough = (start / START_GOAL - start - transfer).max(transfer / TRANSFER_GOAL - start - transfer);
    println!("  tasks: {}; both goals are met from {enough:.0} s of computing on", platform.runpod.executions("ep1"));
}

/// As many epochs by the plain form, one request each: data and weights there, weights back. It does less: the optimizer
/// begins anew with each request, no held-out rows are evaluated, and there is no bucket.
async fn plain(platform: &Platform, user: &User) -> Figures {
    let home = user.path().join("home");
    let job: PathBuf = fs::read_dir(home.join("jobs")).unwrap().flatten().next().unwrap().path();
    let record: Value = serde_json::from_slice(&fs::read(job.join("record.json")).unwrap()).unwrap();
    let data = fs::read(home.join("blobs").join(record["data"].as_str().unwrap())).unwrap();
    let mut input = json!({
        "operation": "train_epoch", "model_config": record["model"], "training_data": BASE64_STANDARD.encode(data),
        "hyperparameters": record["job"]["train"], "epochs": 1,
    });
    let client = transport::client(true).build().unwrap();
    let url = format!("{}/ep1", platform.runpod.base_url());
    let began = Instant::now();
    for epoch in 1..=EPOCHS {
        let body = serde_json::to_vec(&json!({ "input": input })).unwrap();
        let request =
            client.post(format!("{url}/runsync?wait=300000")).header("authorization", format!("Bearer {KEY}"));
        let reply = request.header("content-type", "application/json").body(body).send().await.unwrap();
        let reply: Value = serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap();
        assert_eq!(reply["status"], "COMPLETED", "{reply}");
        assert_eq!(reply["output"]["metrics"]["epoch"], epoch);
        input["model_state"] = reply["output"]["model_state"].clone();
    }
    Figures { seconds: began.elapsed().as_secs_f64(), bytes: platform.runpod.bytes() }
}
