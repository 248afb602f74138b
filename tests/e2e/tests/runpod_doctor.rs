//! `outboard doctor` on RunPod's stand-in.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;

use outboard_e2e::{Done, User};
use outboard_testbed::runpod::{Fate, Trouble};
use serde_json::Value;

mod common;

use common::{KEY, Platform, charged, python, s3, torch_worker, until};

fn doctor(user: &User, more: &[&str]) -> Done {
    user.run(&[&["doctor", "--provider", "runpod", "--json"], more].concat())
}

/// The findings with this code.
fn checks(done: &Done, code: &str) -> Vec<Value> {
    done.lines().into_iter().filter(|line| line["code"] == code).collect()
}

fn assert_check(done: &Done, code: &str, verdict: &str, evidence: &str) {
    let found = checks(done, code);
    let fits = |check: &Value| check["verdict"] == verdict && check["evidence"].as_str().unwrap().contains(evidence);
    assert!(found.iter().any(fits), "{code}: {found:#?}");
    assert!(verdict == "pass" || found.iter().any(|check| check["try"].is_string()), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_passes_and_a_live_task_tells_its_phases() {
    let test = "what_works_passes_and_a_live_task_tells_its_phases";
    let (Some(python), Some(server)) = (python(test), s3::server(test)) else { return };
    let platform = Platform::new(python, Some(server)).await;
    let user = platform.user("");
    let done = doctor(&user, &[]);
    assert_eq!(done.code, 0, "{}", done.stdout);
    assert_check(&done, "OB-STORE", "pass", "a task runs at most once");
    assert_check(&done, "OB-RUNPOD-KEY", "pass", "RunPod accepts the key");
    assert_check(&done, "OB-RUNPOD-ENDPOINT", "pass", "0 jobs wait");
    assert_check(&done, "OB-RUNPOD-WORKERS", "pass", "the next task starts one");
    assert_check(&done, "OB-RUNPOD-LIMITS", "pass", "its idle time-out is 5s");
    assert_check(&done, "OB-RUNPOD-PRICE", "pass", "$1.116 an hour (RunPod's catalogue");
    assert_check(&done, "OB-RUNPOD-BILLING", "pass", "the key may read bills");
    assert_check(&done, "OB-RUNPOD-WARM", "pass", "a start takes 30.0 s (as assumed): for gaps of up to 48 s");
    assert_eq!((platform.runpod.seen("run").len(), charged(&user)), (0, 0), "nothing is started");

    let done = doctor(&user, &["--live", "--max-cost", "0.05"]);
    assert_eq!(done.code, 0, "{}", done.stdout);
    assert_check(&done, "OB-LIVE-TASK", "pass", "compute ");
    assert_check(&done, "OB-LIVE-TASK", "pass", " of at most $0.05");
    assert_check(&done, "OB-LIVE-WORKER", "pass", "protocol 1");
    assert!(charged(&user) > 0 && charged(&user) <= 50_000_000);
    let recording = checks(&done, "OB-LIVE-RECORDING").remove(0)["evidence"].as_str().unwrap().to_string();
    let saved = fs::read_to_string(recording.rsplit(' ').next().unwrap()).unwrap();
    assert!(saved.contains("/ep1/run") && saved.contains("COMPLETED"), "{saved}");
    for secret in [KEY, "s3cret", "Signature=", "Bearer"] {
        assert!(!saved.contains(secret) && !done.stdout.contains(secret), "{secret}");
    }
    assert_eq!(done.last()["failed"], 0);

    let refused = doctor(&user, &["--live", "--max-cost", "0.001"]);
    assert_eq!(refused.code, 1);
    assert_check(&refused, "OB-LIVE-TASK", "fail", "");
    assert_eq!(platform.runpod.seen("run").len(), 1, "nothing more was started");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_work_fails_with_what_to_do() {
    let Some(python) = python("what_does_not_work_fails_with_what_to_do") else { return };
    let platform = Platform::with(python, None, 1.0, &["ep1"], |endpoint| {
        endpoint.workers_max = 0;
        endpoint.idle_timeout = std::time::Duration::from_secs(60);
    });
    let platform = platform.await;
    let user = platform.user("");
    let done = doctor(&user, &["--live"]);
    assert_eq!(done.code, 1, "{}", done.stdout);
    assert_check(&done, "OB-STORE", "warn", "runpod has no store");
    assert_check(&done, "OB-RUNPOD-WORKERS", "fail", "its maximum is 0");
    assert_check(&done, "OB-RUNPOD-LIMITS", "fail", "its idle time-out is 60s, but 5s are reserved");
    assert_check(&done, "OB-LIVE-TASK", "warn", "no task was run");
    assert_eq!(platform.runpod.seen("run").len(), 0);

    platform.runpod.script("health", Trouble::reply(401, ""));
    assert_check(&doctor(&user, &[]), "OB-RUNPOD-KEY", "fail", "RunPod refuses the key");
    let text = user.run(&["doctor", "--provider", "runpod"]);
    assert!(text.stdout.contains("fail  OB-RUNPOD-WORKERS (endpoint ep1): it may have no workers"), "{}", text.stdout);
    assert!(text.stdout.contains("      try: raise the maximum in RunPod's console"), "{}", text.stdout);

    // What is not there.
    let nobody = User::new();
    let done = nobody.run(&["doctor", "--provider", "runpod", "--json"]);
    assert_eq!(done.code, 1);
    assert_check(&done, "OB-NOT-SET-UP", "fail", "not set up");
    assert_eq!(nobody.run(&["doctor"]).code, 0, "this machine alone is well");
    let unknown = nobody.run(&["doctor", "--provider", "moon"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains(
        "there is no provider `moon`\n  flag: --provider\n  try: use one of http, runpod, aws-lambda, cuda, cpu"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_crash_are_seen() {
    let Some(python) = python("workers_that_crash_are_seen") else { return };
    let platform = Platform::new(python, None).await;
    platform.runpod.set_fate("ep1", Fate::CrashLoop);
    let user = platform.user("crash_patience = \"2m\"");
    let mut child = user.start(&["train", "job.toml"]);
    until(|| platform.runpod.live_jobs("ep1") == 1).await;
    let mut done = doctor(&user, &[]);
    while checks(&done, "OB-RUNPOD-WORKERS")[0]["verdict"] != "fail" {
        done = doctor(&user, &[]);
    }
    assert_check(&done, "OB-RUNPOD-WORKERS", "fail", "its workers crash while they start (");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What was compared, by the names of facts.
fn compared(user: &User, more: &[&str]) -> (Done, serde_json::Map<String, Value>) {
    let done = user.run(&[&["doctor", "env", "--provider", "runpod", "--json", "--all"], more].concat());
    let facts = done.lines().into_iter().filter(|line| line["event"] == "fact");
    let named = facts.map(|fact| (fact["name"].as_str().unwrap().to_string(), fact)).collect();
    (done, named)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_a_worker_is_compared_with_a_bucket_and_without() {
    let test = "the_place_of_a_worker_is_compared_with_a_bucket_and_without";
    let (Some(python), Some(server)) = (python(test), s3::server(test)) else { return };
    for server in [Some(server), None] {
        let platform = Platform::new(python.clone(), server).await;
        let user = platform.user("");
        let (done, facts) = compared(&user, &[]);
        assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
        assert_eq!(facts["cpu.features"]["here"], facts["cpu.features"]["there"]);
        assert_eq!(facts["program.version"]["there"], env!("CARGO_PKG_VERSION"));
        let cost = done.last()["cost_usd"].as_f64().unwrap();
        assert!(cost > 0.0 && cost <= 0.05, "{cost}");
        assert!((charged(&user) as f64 / 1e9 - cost).abs() < 1e-9, "{cost}");
        for secret in [KEY, "s3cret", "Signature=", "Bearer"] {
            assert!(!done.stdout.contains(secret), "{secret}");
        }
        let (refused, _) = compared(&user, &["--max-cost", "0.001"]);
        assert_eq!(refused.code, 1, "{}", refused.stdout);
        assert!(refused.stderr.contains("raise `--max-cost`") && refused.stderr.contains("OB-"), "{}", refused.stderr);
        assert_eq!(platform.runpod.seen("run").len(), 1, "nothing more was started");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_libraries_of_the_worker_for_pytorch_are_compared() {
    let test = "the_libraries_of_the_worker_for_pytorch_are_compared";
    let (Some(python), Some(sources)) = (python(test), torch_worker(test)) else { return };
    let platform = Platform::torch(python.clone(), &sources, None, |_| {}).await;
    let user = platform.user("");
    let (done, facts) = compared(&user, &["--python", python.to_str().unwrap()]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    for name in ["library.torch", "library.python", "library.numpy", "library.libstdcxx", "library.glibc"] {
        let fact = &facts[name];
        assert!(fact["here"].is_string() && fact["here"] == fact["there"], "{fact}");
    }
    assert!(facts["program.numerics"]["so"].as_str().unwrap().contains("not the same bytes"), "{facts:?}");
    assert!(!done.stdout.contains(KEY));
}
