//! Budgets and the ledger, with real clients that are killed and real workers that bill. Each drill prints its figures.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Child,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use outboard_e2e::{Done, User, Worker, is_thorough, wait};
use outboard_testbed::{Fault, Proxy, Weather};
use serde_json::Value;

/// Part of a second of training on one thread.
const LONG: [(&str, &str); 2] = [
    ("out = 64", "out = 256 }, { type = \"dropout\", p = 0.2 }, { type = \"linear\", out = 256"),
    ("epochs = 20", "epochs = 10"),
];

/// A dollar a second: what is billed is seen in the ledger.
const PRICE: &str = "usd_per_hour = 3600.0\n";

fn config(workers: &[SocketAddr], budget: &str) -> String {
    let entries: Vec<_> = workers.iter().map(|address| Worker::entry(*address)).collect();
    format!(
        "checkpoint.every = \"20ms\"\nproviders.cpu.enabled = false\n[providers.http]\nenabled = true\n\
         workers = [{}]\nrequest_timeout = \"2s\"\n{PRICE}\n[budget]\n{budget}\n",
        entries.join(", ")
    )
}

fn user(workers: &[SocketAddr], budget: &str) -> User {
    let user = User::new();
    user.write("outboard.toml", &config(workers, budget));
    user.job(&LONG);
    user
}

fn model(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model.safetensors")).unwrap()
}

fn undisturbed() -> Vec<u8> {
    let user = User::new();
    user.job(&LONG);
    assert_eq!(user.run(&["train", "job.toml", "--output", "out"]).code, 0);
    model(&user.path().join("out"))
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The only job of a user, if it has begun.
fn only_job(user: &User) -> Option<String> {
    let jobs = fs::read_dir(user.path().join("home/jobs")).ok()?;
    let named = |entry: fs::DirEntry| entry.path().join("record.json").exists().then(|| entry.file_name());
    jobs.flatten().find_map(named)?.into_string().ok()
}

/// The attempts of a job, as the ledger has them.
fn attempts(user: &User, job: &str) -> Vec<Value> {
    user.run(&["jobs", "show", job, "--json"]).last()["attempts"].as_array().cloned().unwrap_or_default()
}

/// Results that a worker's store holds.
fn results(store: &Path) -> Vec<Value> {
    let tasks = fs::read_dir(store.join("tasks")).unwrap().flatten();
    tasks.filter_map(|task| serde_json::from_slice(&fs::read(task.path().join("result")).ok()?).ok()).collect()
}

/// What a worker's results cost at a dollar a second, in nano-dollars, each rounded up.
fn billed(results: &[Value]) -> u64 {
    let cost = |result: &Value| {
        let seconds = ["boot", "load", "compute"].map(|phase| result["timings"][phase].as_f64().unwrap());
        // As the client computes it: a time in whole nanoseconds, then a cost that is rounded up.
        u64::try_from(Duration::from_secs_f64(seconds.iter().sum()).as_nanos()).unwrap()
    };
    results.iter().map(cost).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_at_any_moment_pays_once_for_what_was_executed() {
    let rounds = if is_thorough() { 50 } else { 6 };
    let expected = undisturbed();
    let mut random = fastrand::Rng::with_seed(11);
    let (mut kills, mut tasks) = (0, 0);
    for round in 0..rounds {
        let folder = tempfile::tempdir().unwrap();
        let worker = Worker::start(folder.path());
        let proxy = Proxy::start(worker.address(), Weather::fair()).await.unwrap();
        let user = user(&[proxy.address()], "day_usd = 1000.0");
        // In every third round the reply to the first task is held back until the client is dead: it was accepted, and
        // the ledger doesn't know.
        let is_accepted_in_vain = round % 3 == 0;
        if is_accepted_in_vain {
            let held = Fault::Delay(Duration::from_secs(60));
            proxy.set(Weather::fair().then("POST /v1/tasks", held));
        }
        let mut child = user.start(&["train", "job.toml", "--output", "out"]);
        let exchanges = proxy.exchanges();
        let job = loop {
            match only_job(&user) {
                Some(job) => break job,
                None => tokio::task::yield_now().await,
            }
        };
        if is_accepted_in_vain {
            while results_or_leases(&folder.path().join("store")) == 0 {
                tokio::task::yield_now().await;
            }
        } else {
            tokio::time::sleep(Duration::from_millis(random.u64(0..900))).await;
        }
        kill(&mut child);
        kills += 1;
        proxy.set(Weather::fair());
        let done = resume(&user, &job).await;
        assert_eq!(done.code, 0, "round {round}, {exchanges} exchanges: {}", done.stderr);
        assert!(model(&user.path().join("out")) == expected, "round {round}: other weights");

        let attempts = attempts(&user, &job);
        for attempt in &attempts {
            let state = attempt["state"].as_str().unwrap();
            assert!(["settled", "released"].contains(&state), "round {round}: {attempts:#?}");
        }
        let results = results(&folder.path().join("store"));
        let charged: f64 = attempts.iter().map(|attempt| attempt["charged_usd"].as_f64().unwrap()).sum();
        assert_eq!((charged * 1e9).round() as u64, billed(&results), "round {round}: {attempts:#?} {results:#?}");
        let mut keys: Vec<_> = results.iter().map(|result| result["key"].to_string()).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), results.len(), "round {round}: a task ran twice");
        tasks += results.len();
    }
    println!(
        "figure: {kills} clients killed and resumed, {tasks} tasks executed once each: same bytes, no reservation left open, \
         the ledger's total is what the workers executed, to the nano-dollar"
    );
}

fn results_or_leases(store: &Path) -> usize {
    let tasks = fs::read_dir(store.join("tasks")).into_iter().flatten().flatten();
    tasks.filter(|task| task.path().join("lease").exists()).count()
}

async fn resume(user: &User, job: &str) -> Done {
    let child = user.start(&["train", "--resume", job]);
    tokio::task::spawn_blocking(move || wait(child)).await.unwrap()
}

#[test]
fn many_processes_never_spend_past_a_budget() {
    const PROCESSES: usize = 8;
    // A job asks for half a minute at most, and costs part of a second: one fits at a time, until this much is spent.
    let spent = if is_thorough() { 12.0 } else { 1.5 };
    let budget = 30.0 + spent;
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(folder.path());
    let user = user(&[worker.address()], &format!("day_usd = {budget}\nwait = \"20s\""));
    let is_over = AtomicBool::new(false);
    let began = Instant::now();
    let (mut succeeded, mut refused, mut most) = (0, 0, 0.0f64);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = 0.0f64;
            while !is_over.load(Ordering::Relaxed) {
                let lines = user.run(&["costs", "--json"]).lines();
                let day = lines.iter().find(|line| line["event"] == "budget").unwrap();
                most = most.max(day["charged_usd"].as_f64().unwrap() + day["reserved_usd"].as_f64().unwrap());
                thread::sleep(Duration::from_millis(50));
            }
            most
        });
        let running: Vec<_> = (0..PROCESSES)
            .map(|process| {
                let user = &user;
                scope.spawn(move || {
                    let output = |n: usize| format!("out-{process}-{n}");
                    let run = |n| user.run(&["train", "job.toml", "--json", "--output", &output(n)]);
                    let mut done: Vec<Done> = Vec::new();
                    while done.last().is_none_or(|last| last.code == 0) {
                        done.push(run(done.len()));
                    }
                    done
                })
            })
            .collect();
        for process in running {
            for done in process.join().unwrap() {
                match done.code {
                    0 => succeeded += 1,
                    2 => {
                        refused += 1;
                        let error = &done.last()["error"];
                        assert_eq!(error["kind"], "budget_exceeded", "{error}");
                        let why = error["context"]["http"].as_str().unwrap();
                        assert!(why.contains("of the day budget") || why.contains("left"), "{why}");
                        assert!(error["try"].as_str().unwrap().contains("budget"), "{error}");
                    }
                    code => panic!("{code}: {}", done.stderr),
                }
            }
        }
        is_over.store(true, Ordering::Relaxed);
        most = watching.join().unwrap();
    });
    assert!(most <= budget, "{most} USD were charged or reserved");
    assert_eq!(refused, PROCESSES, "each goes on until it is refused");
    assert!(succeeded > 0);
    let lines = user.run(&["costs", "--json"]).lines();
    let day = lines.iter().find(|line| line["event"] == "budget").unwrap();
    assert_eq!(day["reserved_usd"], 0.0, "{day}");
    let charged = day["charged_usd"].as_f64().unwrap();
    assert_eq!((charged * 1e9).round() as u64, billed(&results(&folder.path().join("store"))));
    println!(
        "figure: {PROCESSES} processes against a budget of ${budget}: {succeeded} jobs ran, {refused} were refused, \
         at most ${most:.3} charged or reserved at a time, ${charged:.3} in the end, {:.1} jobs/s",
        (succeeded + refused) as f64 / began.elapsed().as_secs_f64()
    );
}

#[test]
fn a_job_that_cannot_fit_is_refused_with_what_was_left_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(folder.path());
    let user = user(&[worker.address()], "day_usd = 10.0");
    let done = user.run(&["train", "job.toml", "--output", "out"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.starts_with("error: no provider fits the budget\n"), "{}", done.stderr);
    assert!(done.stderr.contains("$10.00") && done.stderr.contains("try: "), "{}", done.stderr);
    assert!(results(&folder.path().join("store")).is_empty());
    // Zero is not "no limit".
    let done = user.run(&["train", "job.toml", "--output", "out", "--max-cost", "0"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    // And what would be paid for is planned without being paid for.
    let plan = user.run(&["plan", "job.toml", "--json"]).last();
    assert_eq!(plan["providers"][0]["verdict"], "excluded");
    assert!(plan["providers"][0]["quote"]["worst_cost_usd"].as_f64().unwrap() > 10.0);
    assert_eq!(user.run(&["costs", "--json"]).lines().last().unwrap()["charged_usd"], 0.0);
}

#[test]
fn what_a_dead_client_left_is_found_stopped_and_settled() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(folder.path());
    let user = user(&[worker.address()], "day_usd = 1000.0");
    user.job(&[LONG[0], ("epochs = 20", "epochs = 100000")]);
    let mut child = user.start(&["train", "job.toml", "--output", "out"]);
    let is_open = |user: &User| {
        only_job(user)
            .is_some_and(|job| attempts(user, &job).last().is_some_and(|attempt| attempt["state"] == "accepted"))
    };
    while !is_open(&user) {
        thread::yield_now();
    }
    assert_eq!(user.run(&["reap"]).stdout, "nothing was left running or reserved\n", "its client lives");
    kill(&mut child);
    let job = only_job(&user).unwrap();
    assert_eq!(user.run(&["jobs"]).stdout.lines().nth(1).unwrap().split_whitespace().nth(1), Some("interrupted"));
    let reaped = user.run(&["reap", "--json"]).last();
    assert_eq!((reaped["event"].as_str(), reaped["what"].as_str()), (Some("reaped"), Some("stopped and settled")));
    let all = attempts(&user, &job);
    assert_eq!(all[0]["state"], "settled");
    let results = results(&folder.path().join("store"));
    assert_eq!((all[0]["charged_usd"].as_f64().unwrap() * 1e9).round() as u64, billed(&results));
    assert_eq!(user.run(&["reap"]).stdout, "nothing was left running or reserved\n");
}

#[test]
fn another_process_can_stop_a_job() {
    let user = User::new();
    user.job(&[LONG[0], ("epochs = 20", "epochs = 100000")]);
    let child = user.start(&["train", "job.toml", "--output", "out"]);
    let job = loop {
        match only_job(&user) {
            Some(job) => break job,
            None => thread::yield_now(),
        }
    };
    while !user.run(&["jobs", "show", &job]).stdout.starts_with(&format!("job {job}: running\n")) {
        thread::yield_now();
    }
    assert!(user.run(&["jobs", "cancel", &job]).stdout.starts_with("its process was asked to stop"));
    let done = wait(child);
    assert_eq!(done.code, 4, "{}", done.stderr);
    assert!(user.run(&["jobs", "show", &job]).stdout.starts_with(&format!("job {job}: interrupted\n")));
    let unknown = user.run(&["jobs", "show", "nothing"]);
    assert!(unknown.stderr.contains("try: list the jobs with `outboard jobs`"), "{}", unknown.stderr);
}

#[test]
fn a_ledger_that_cannot_be_used_is_refused_and_nothing_is_lost() {
    let user = User::new();
    user.job(&[]);
    assert_eq!(user.run(&["train", "job.toml", "--output", "good"]).code, 0);
    let ledger = user.path().join("home/ledger.db");
    // What is not yet in the file itself lies beside it.
    let files = ["", "-wal", "-shm"].map(|end| user.path().join(format!("home/ledger.db{end}")));
    let whole = files.each_ref().map(|file| fs::read(file).ok());
    fs::write(&ledger, "no ledger at all, but long enough to be taken for one".repeat(20)).unwrap();
    let done = user.run(&["train", "job.toml", "--output", "out"]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(done.stderr.contains("ledger.db") && done.stderr.contains("  try: "), "{}", done.stderr);
    for (file, bytes) in files.iter().zip(whole) {
        match bytes {
            Some(bytes) => fs::write(file, bytes).unwrap(),
            None => drop(fs::remove_file(file)),
        }
    }
    assert_eq!(user.run(&["jobs", "--json"]).lines().len(), 1, "the ledger was damaged");
}

#[test]
fn a_crossed_threshold_is_told_before_and_after_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start(folder.path());
    let user = user(&[worker.address()], "day_usd = 40.0\nthresholds = [{ at = 0.001, do = \"warn\" }]");
    let first = user.run(&["train", "job.toml", "--output", "a"]);
    assert_eq!((first.code, first.stderr.as_str()), (0, ""));
    assert!(first.stdout.ends_with(" of the day budget is used\n"), "{}", first.stdout);
    let second = user.run(&["train", "job.toml", "--output", "b"]);
    assert!(
        second.stderr.starts_with("warning: ") && second.stderr.ends_with(" of the day budget is used\n"),
        "{}",
        second.stderr
    );
}

#[test]
fn a_job_says_where_it_may_run() {
    let user = User::new();
    let routing = |keys: &str| user.job(&[("seed = 7\n", &format!("seed = 7\n[routing]\n{keys}\n"))]);
    for (keys, why) in [
        ("exclude = [\"cpu\"]", "  cpu: the job excludes it\n"),
        ("providers = [\"http\"]", "  cpu: the job runs only on `http`\n"),
    ] {
        routing(keys);
        let done = user.run(&["train", "job.toml"]);
        assert_eq!(done.code, 3, "{keys}: {}", done.stderr);
        assert!(
            done.stderr.contains("error: no provider can take the task\n") && done.stderr.contains(why),
            "{}",
            done.stderr
        );
    }
    routing("providers = [\"cpu\"]\npolicy = \"cheapest\"\nvalue_of_time_usd_per_hour = 2\nlocal_fallback = false");
    assert_eq!(user.run(&["train", "job.toml"]).code, 0);
    routing("policy = \"quickest\"");
    let done = user.run(&["plan", "job.toml"]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("routing.policy") && done.stderr.contains("must be one of \"cheapest\""),
        "{}",
        done.stderr
    );
}
