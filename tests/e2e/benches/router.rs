//! What routing and the ledger cost: `cargo xtask bench router`, which measures decisions before this.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use outboard::{
    Client, Config, NanoUsd,
    config::Sources,
    ledger::{Cap, JobRow, Ledger, Reservation, Settlement, Span},
    read_job,
};
use outboard_core::{
    Observation,
    task::{OperationKind, Timings},
};
use outboard_e2e::repository;

const DURABLE: usize = 500;
const QUEUED: usize = 1000;
const GOAL_MS: f64 = 2.0;

#[tokio::main]
async fn main() {
    durable().await;
    queued().await;
}

/// All that the ledger does for one task: reserved and noted as submitted, accepted, settled with what it taught.
async fn durable() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&folder.path().join("ledger.db").display().to_string()).await.unwrap();
    let job = JobRow {
        id: "job".into(),
        name: String::new(),
        folder: String::new(),
        created_at: SystemTime::now(),
        max_cost: None,
        sweep: None,
        status: "running".into(),
    };
    ledger.start_job(&job).await.unwrap();
    let usd = NanoUsd(1_000_000_000);
    let caps = [Span::Day, Span::Month].map(|span| Cap { scope: span.into(), limit: NanoUsd(1_000_000 * usd.0) });
    let mut times = Vec::new();
    for n in 0..DURABLE {
        let attempt = format!("job/train/{n}");
        let reservation = Reservation {
            attempt: attempt.clone(),
            job: "job".into(),
            sweep: None,
            task_key: attempt.clone(),
            provider: "http".into(),
            local: false,
            amount: usd,
            expires_at: SystemTime::now() + Duration::from_secs(3600),
            submitting: Some(vec![b'x'; 2000]),
        };
        let observation = Observation {
            provider: "http".into(),
            at: 1,
            operation: OperationKind::Train,
            failure: None,
            timings: Timings::default(),
            flops: 1,
            bytes_down: 1,
            bytes_up: 1,
            cost: usd,
        };
        let settlement =
            Settlement { cost: NanoUsd(usd.0 / 2), billed: None, outcome: "finished".into(), is_assumed: false };
        let began = Instant::now();
        ledger.reserve(&reservation, &caps).await.unwrap();
        ledger.accepted(&attempt, "http://worker/task").await.unwrap();
        ledger.settle(&attempt, &settlement, Some(&observation)).await.unwrap();
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let verdict = if median < GOAL_MS { "met" } else { "missed" };
    println!(
        "the ledger's part of a durable task: {median:.2} ms at the median, {:.2} ms at the 99th percentile of {DURABLE} \
         (goal below {GOAL_MS} ms: {verdict})",
        times[times.len() * 99 / 100]
    );
}

/// Many small tasks at once, each quoted, reserved, run on the CPU and settled.
async fn queued() {
    let folder = tempfile::tempdir().unwrap();
    let environment = vec![("OUTBOARD_HOME".to_string(), folder.path().display().to_string())];
    let sources = Sources { directory: folder.path().into(), environment, overrides: Vec::new() };
    let client = Client::new(Config::load(&sources).unwrap()).unwrap();
    let mut job = read_job(&repository().join("examples/digits.toml")).unwrap();
    job.output = Some(folder.path().join("out"));
    let model = client.train(job).await.unwrap().model.unwrap();
    let csv = fs::read_to_string(repository().join("examples/data/digits.csv")).unwrap();
    let data = folder.path().join("few.csv");
    fs::write(&data, csv.lines().take(9).collect::<Vec<_>>().join("\n")).unwrap();
    client.evaluate(&model, &data, None).await.unwrap();
    let before = resident();
    let began = Instant::now();
    let all = join_all((0..QUEUED).map(|_| client.evaluate(&model, &data, None))).await;
    let rate = QUEUED as f64 / began.elapsed().as_secs_f64();
    let failed = all.iter().filter(|done| done.is_err()).count();
    println!(
        "{QUEUED} queued tasks, each quoted, reserved, run and settled: {rate:.0} tasks/s, {failed} failed, {:.0} MiB more \
         than before at their end",
        resident() - before
    );
}

/// Resident memory of this process at its largest, in MiB.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or_default() / 1024.0
}
