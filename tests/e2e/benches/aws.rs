//! What our worker and the provider cost as a Lambda function, in AWS's emulator, beside a handler in Python with PyTorch;
//! and many small jobs at once: `cargo xtask bench aws`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all, stream};
use outboard::config::AwsLambdaConfig;
use outboard_aws_lambda::AwsLambdaProvider;
use outboard_core::ComputeProviderExt;
use outboard_protocol::{Envelope, InlineReply, InlineRequest, envelope::encode};
use outboard_store::{Bucket, FolderStore, inline::pack};
use outboard_testbed::lambda::{Emulator, FUNCTION};

#[path = "../../../crates/worker/tests/common/mod.rs"]
mod jobs;
#[path = "../tests/lambda/mod.rs"]
mod lambda;
#[path = "../../../crates/store/tests/common/mod.rs"]
mod s3;

use lambda::{BOOTSTRAP, Bed, MACHINES, function, named};

const OF_AWS: &str = "TEST_LAMBDA_RIE";
const PYTHON: &str = "TEST_LAMBDA_PYTHON";

const STARTS: usize = 9;
const CALLS: usize = 201;
const JOBS: usize = 200;
/// About what the step's checkpoint has: weights, and two moments of each.
const RESULT_BYTES: usize = 28_000;
/// What the provider may add to an invocation, and the worker's start to its first step.
const OVERHEAD_GOAL: Duration = Duration::from_millis(5);
const START_GOAL: Duration = Duration::from_millis(100);
/// Enough for all of them at once.
const DAY_USD: f64 = 10.0;

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn verdict(took: Duration, goal: Duration) -> String {
    format!("the goal of less than {goal:?} is {}", if took < goal { "met" } else { "missed" })
}

#[tokio::main]
async fn main() {
    let test = "bench aws";
    let (Some(rie), Some(program)) = (named(test, OF_AWS), named(test, BOOTSTRAP)) else { return };
    starts(&rie, &program).await;
    overhead(&rie, &program, None).await;
    if let Some(server) = s3::server("bench aws with a bucket") {
        overhead(&rie, &program, Some(server)).await;
    }
    fan_out().await;
}

/// Calls a function without any provider.
struct Caller {
    client: reqwest::Client,
    url: String,
}

impl Caller {
    fn new(base: &str) -> Self {
        let client = outboard_store::transport::client(true).build().unwrap();
        Self { client, url: format!("{base}/2015-03-31/functions/{FUNCTION}/invocations") }
    }

    async fn invoke(&self, body: &[u8]) -> Vec<u8> {
        let reply = self.client.post(&self.url).body(body.to_vec()).send().await.unwrap();
        reply.bytes().await.unwrap().to_vec()
    }
}

/// One step of a batch of 64, with another result for each `n`.
fn one_step(store: &FolderStore, n: usize) -> Envelope {
    let job = jobs::Job { epochs: 1, rows: 64 };
    job.prepare(store);
    let mut envelope = serde_json::to_value(job.envelope(&format!("k{n}"))).unwrap();
    *envelope.pointer_mut("/task/operation/train/optimizer/lr").unwrap() = (1e-3 + n as f64 * 1e-6).into();
    serde_json::from_value(envelope).unwrap()
}

/// A request for it that brings its blobs.
fn request(store: &FolderStore, envelope: Envelope) -> Vec<u8> {
    let needs = envelope.task.operation.needs();
    let blobs = needs.iter().map(|digest| pack(store, digest, usize::MAX / 2).unwrap()).collect();
    encode(&InlineRequest { envelope, blobs }).unwrap()
}

fn trains(reply: &[u8]) {
    let reply: InlineReply = serde_json::from_slice(reply).unwrap();
    assert_eq!(reply.blobs.len(), 1, "{reply:?}");
}

/// From a machine's start to the first step's end, and an invocation of one that is warm.
async fn starts(rie: &Path, program: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(&folder.path().join("client")).unwrap();
    let body = request(&store, one_step(&store, 0));
    let (start, call) = of_machines(rie, program, &body, trains).await;
    println!("from a machine's start to one step's checkpoint: {start:.1?}; {}", verdict(start, START_GOAL));
    println!("  where it is warm {call:.2?}");
    let Some(python) = named("bench aws with Python", PYTHON) else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../testbed/python/lambda_torch.py");
    let program = folder.path().join("python");
    fs::write(&program, format!("#!/bin/sh\nexec {} {script}\n", python.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let loses = |reply: &[u8]| assert!(reply.starts_with(b"{\"loss\""), "{}", String::from_utf8_lossy(reply));
    let (start, call) = of_machines(rie, &program, b"{}", loses).await;
    println!("the same in Python with PyTorch: {start:.1?}, where it is warm {call:.2?}");
}

async fn of_machines(rie: &Path, program: &Path, body: &[u8], check: impl Fn(&[u8])) -> (Duration, Duration) {
    let (mut starts, mut calls) = (Vec::new(), Vec::new());
    for n in 0..STARTS {
        let folder = tempfile::tempdir().unwrap();
        let lambda = Emulator::of_aws(rie, &function(program, folder.path())).unwrap();
        let caller = Caller::new(&lambda.url());
        let began = Instant::now();
        check(&caller.invoke(body).await);
        starts.push(began.elapsed());
        let warm = if n == 0 { CALLS } else { 0 };
        for _ in 0..warm {
            let began = Instant::now();
            check(&caller.invoke(body).await);
            calls.push(began.elapsed());
        }
    }
    (median(&mut starts), median(&mut calls))
}

/// What the provider adds to an invocation.
async fn overhead(rie: &Path, program: &Path, server: Option<s3::Server>) {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("function");
    fs::create_dir(&place).unwrap();
    let lambda = Emulator::of_aws(rie, &function(program, &place)).unwrap();
    let store = FolderStore::open(&folder.path().join("client")).unwrap();
    let config = AwsLambdaConfig {
        region: Some("us-east-1".into()),
        access_key_id: Some("AKIDEXAMPLE".into()),
        secret_access_key: Some("secret".into()),
        function: FUNCTION.into(),
        qualifier: String::new(),
        endpoint_url: Some(lambda.url()),
        ..AwsLambdaConfig::default()
    };
    let bucket: Option<Bucket> = server.as_ref().map(s3::Server::bucket);
    let name = if bucket.is_some() { "with a bucket" } else { "without a store" };
    let provider = AwsLambdaProvider::new(&config, store.clone(), bucket).unwrap();
    let caller = Caller::new(&lambda.url());
    let (mut by_hand, mut whole, mut stored) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..CALLS {
        // Each in turn, so that whatever else the machine does meets both.
        let body = request(&store, one_step(&store, 2 * n));
        let began = Instant::now();
        trains(&caller.invoke(&body).await);
        by_hand.push(began.elapsed());
        let Envelope { task, .. } = one_step(&store, 2 * n + 1);
        let began = Instant::now();
        provider.run(&task, std::future::pending(), drop).await.unwrap();
        whole.push(began.elapsed());
        let result = s3::noise(RESULT_BYTES, n as u64);
        let began = Instant::now();
        store.write(&result).unwrap();
        stored.push(began.elapsed());
    }
    let [by_hand, whole, stored] = [&mut by_hand, &mut whole, &mut stored].map(|times| median(times));
    let added = whole.saturating_sub(by_hand);
    let goal = if server.is_none() { format!("; {}", verdict(added, OVERHEAD_GOAL)) } else { String::new() };
    println!("the provider {name}: {added:.2?} over the bare invocation of {by_hand:.2?}{goal}");
    println!("  of that this machine's disk takes {stored:.2?}, for a result that must not be lost");
}

/// Small jobs at once through the router, and as many bare invocations.
async fn fan_out() {
    let Some(bed) = Bed::new("bench aws, many jobs").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    let body = request(&store, one_step(&store, 0));
    let caller = Caller::new(&bed.endpoint.url());
    let rate = |began: Instant| JOBS as f64 / began.elapsed().as_secs_f64();
    let bare = async || {
        let calls = stream::iter(0..JOBS).map(|_| caller.invoke(&body)).buffer_unordered(MACHINES as usize);
        calls.for_each(|reply| async move { trains(&reply) }).await;
    };
    bare().await;
    let began = Instant::now();
    bare().await;
    println!("{JOBS} bare invocations, {MACHINES} at the same time: {:.0}/s", rate(began));
    let client = bed.client(DAY_USD);
    let began = Instant::now();
    let jobs = join_all((0..JOBS).map(|n| client.train(bed.job(&format!("job-{n}"))))).await;
    let rate = rate(began);
    let failed = jobs.iter().filter(|job| job.is_err()).count();
    println!(
        "{JOBS} jobs at once, each quoted, reserved, run and settled: {rate:.1} tasks/s, {failed} failed, at most {} \
         invocations at the same time, {} throttled",
        bed.endpoint.most(),
        bed.endpoint.throttled()
    );
}
