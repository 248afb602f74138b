//! Many small jobs at once on Lambda: as many tasks at the same time as configured, within the budget.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{path::Path, process::Command, time::Instant};

use futures_util::future::join_all;
use outboard_e2e::{User, is_thorough};

mod lambda;

use lambda::{Bed, MACHINES};

/// Holds what about ten tasks can cost at most, and all of what they do cost.
const DAY_USD: f64 = 0.05;

#[tokio::test(flavor = "multi_thread")]
async fn many_small_jobs_stay_within_concurrency_and_budget() {
    let Some(bed) = Bed::new("many_small_jobs_stay_within_concurrency_and_budget").await else { return };
    let count = if is_thorough() { 200 } else { 60 };
    let client = bed.client(DAY_USD);
    let plan = client.plan(bed.job("plan")).await.unwrap().plan;
    let worst = plan.choice.unwrap().worst_cost.0 as f64 / 1e9;
    assert!(worst < DAY_USD && worst * count as f64 > 2.0 * DAY_USD, "{worst}: they must have to wait for each other");
    let began = Instant::now();
    let jobs = join_all((0..count).map(|n| client.train(bed.job(&format!("job-{n}"))))).await;
    let took = began.elapsed().as_secs_f64();
    for (n, job) in jobs.iter().enumerate() {
        assert!(job.is_ok(), "job {n}: {}", job.as_ref().unwrap_err().report());
    }
    assert_eq!((bed.endpoint.invocations(), bed.endpoint.throttled()), (count, 0));
    assert!(bed.endpoint.most() <= MACHINES as usize);
    let charged: f64 = jobs.iter().map(|job| job.as_ref().unwrap().cost.0 as f64 / 1e9).sum();
    let billed = bed.billed_usd();
    assert!(charged >= billed && charged <= DAY_USD, "charged {charged}, billed {billed}");
    println!(
        "figure: {count} jobs at once, each one task: {:.1} tasks/s, {} at the same time at most, charged ${charged:.6}, \
         billed ${billed:.6}, of a budget of ${DAY_USD}",
        count as f64 / took,
        bed.endpoint.most()
    );
}

#[test]
fn what_cannot_be_packaged_is_told() {
    let user = User::new();
    let refused = |arguments: &[&str]| {
        let done = user.run(&[&["aws", "package"], arguments].concat());
        assert_ne!(done.code, 0, "{}", done.stdout);
        done.stderr
    };
    let error = refused(&["--architecture", "mips"]);
    assert!(
        error.contains("`mips` is not an architecture of Lambda's") && error.contains("x86_64 or arm64"),
        "{error}"
    );
    let error = refused(&["--source", "."]);
    assert!(error.contains("is not a folder with Outboard's source") && error.contains("--source"), "{error}");
    let target = "aarch64-unknown-linux-gnu";
    let libraries = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output().unwrap();
    if Path::new(String::from_utf8(libraries.stdout).unwrap().trim()).is_dir() {
        println!("skipped: what_cannot_be_packaged_is_told: Rust's target {target} is installed");
        return;
    }
    let source = outboard_e2e::repository();
    let error = refused(&["--architecture", "arm64", "--source", source.to_str().unwrap()]);
    assert!(error.contains("Rust's target aarch64-unknown-linux-gnu is not installed here"), "{error}");
    assert!(error.contains("rustup target add aarch64-unknown-linux-gnu"), "{error}");
}
