//! What RunPod adds to a job, on its stand-in with latencies as RunPod states them: `cargo xtask bench runpod`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, time::Duration};

use outboard::ledger::Ledger;
use outboard_e2e::User;
use serde_json::Value;

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Platform, python, s3};

/// A published cold start of a small image; a quick one has 0.8 s, a slow one 31.6 s.
const COLD_START: Duration = Duration::from_secs(3);
const EPOCHS: u32 = 100;
/// Goals, as shares of the time in all.
const START_GOAL: f64 = 0.2;
const TRANSFER_GOAL: f64 = 0.1;

#[tokio::main]
async fn main() {
    let Some(python) = python("bench runpod") else { return };
    for has_bucket in [true, false] {
        let server = if has_bucket { s3::server("bench runpod with a bucket") } else { None };
        if has_bucket && server.is_none() {
            continue;
        }
        let adjust = |endpoint: &mut outboard_testbed::runpod::EndpointSettings| {
            (endpoint.workers_max, endpoint.cold_start) = (1, COLD_START);
        };
        let platform = Platform::with(python.clone(), server, 1.0, &["ep1"], adjust).await;
        let user = platform.user("");
        user.job(&[
            ("out = 64", "out = 512 }, { type = \"linear\", out = 256"),
            ("epochs = 20", &format!("epochs = {EPOCHS}")),
            ("batch_size = 64", "batch_size = 2"),
        ]);
        let often = "checkpoint.every=10s";
        let done = user.run(&["train", "job.toml", "--json", "--output", "out", "--set", often]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        println!("{}", if has_bucket { "with a bucket" } else { "without a store" });
        shares(&done.last(), &platform);
        bytes(&user).await;
    }
}

/// Where the time of a job went, and how often RunPod was asked.
fn shares(finished: &Value, platform: &Platform) {
    let time = |phase: &str| finished["timings"][phase].as_f64().unwrap();
    let start = time("queue") + time("boot");
    let transfer = time("download") + time("upload");
    let all = start + transfer + time("load") + time("compute");
    let told = |what: &str, share: f64, goal: f64| {
        let verdict = if share < goal { "met" } else { "missed" };
        println!(
            "  {what}: {:.1} % of {all:.1} s; the goal of less than {:.0} % is {verdict}",
            100.0 * share,
            100.0 * goal
        );
    };
    told("waiting and start", start / all, START_GOAL);
    told("transfer", transfer / all, TRANSFER_GOAL);
    let (tasks, polls) = (platform.runpod.executions("ep1"), platform.runpod.seen("status").len());
    println!(
        "  tasks: {tasks}; polls per task: {:.1}, one per {:.1} s",
        polls as f64 / f64::from(tasks),
        all / polls as f64
    );
}

/// What crossed, against one request per epoch with data and states in base64, there and back.
async fn bytes(user: &User) {
    let home = user.path().join("home");
    let ledger = Ledger::open(home.join("ledger.db").to_str().unwrap()).await.unwrap();
    let seen = ledger.observations("runpod", 100).await.unwrap();
    let crossed: u64 = seen.iter().map(|one| one.bytes_down + one.bytes_up).sum();
    let mut jobs = fs::read_dir(home.join("jobs")).unwrap().flatten();
    let record = fs::read(jobs.next().unwrap().path().join("record.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let size = |digest: &Value| fs::metadata(home.join("blobs").join(digest.as_str().unwrap())).unwrap().len();
    let (data, state) = (size(&record["data"]) + size(&record["validation"]), size(&record["checkpoint"]["digest"]));
    let naive = (data + 2 * state) as f64 * 4.0 / 3.0;
    let each = crossed as f64 / f64::from(EPOCHS);
    println!(
        "  bytes per epoch: {each:.0}; a request per epoch with base64 states: {naive:.0}, {:.0} times as many",
        naive / each
    );
}
