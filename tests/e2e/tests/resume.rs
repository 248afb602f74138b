//! Jobs that are interrupted, killed, or run out of disk, and go on.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use outboard_e2e::{User, program, wait};
use serde_json::Value;

/// About a second of training, with a checkpoint every few batches.
const LONG: [(&str, &str); 2] = [
    ("out = 64", "out = 512 }, { type = \"dropout\", p = 0.2 }, { type = \"linear\", out = 256"),
    ("epochs = 20", "epochs = 30"),
];
const OFTEN: [&str; 2] = ["--set", "checkpoint.every=\"20ms\""];

fn train<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    [&["train", "--json"], rest, &OFTEN].concat()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Reads standard output until a line satisfies `enough`; the job's id.
fn read_until(child: &mut Child, enough: impl Fn(&Value) -> bool) -> String {
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    loop {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the program ended early");
        let event: Value = serde_json::from_str(&line).unwrap();
        if enough(&event) {
            // Put back for whoever wants the rest.
            child.stdout = Some(reader.into_inner());
            return event["job"].as_str().unwrap().to_string();
        }
    }
}

/// What must not depend on how a job was run: its epochs, without their times.
fn curve(folder: &Path) -> Vec<Value> {
    let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut epoch: Value = serde_json::from_str(line).unwrap();
        for key in ["seconds", "samples_per_second"] {
            epoch.as_object_mut().unwrap().remove(key);
        }
        epoch
    };
    metrics.lines().map(parse).collect()
}

/// The bytes and the curve of an uninterrupted run.
fn uninterrupted(user: &User) -> (Vec<u8>, Vec<Value>) {
    let done = user.run(&train(&["job.toml", "--output", "whole"]));
    assert_eq!(done.code, 0, "{}", done.stderr);
    let whole = user.path().join("whole");
    (fs::read(whole.join("model.safetensors")).unwrap(), curve(&whole))
}

fn assert_same(user: &User, output: &str, (model, epochs): &(Vec<u8>, Vec<Value>)) {
    let folder = user.path().join(output);
    assert!(fs::read(folder.join("model.safetensors")).unwrap() == *model, "other weights");
    assert_eq!(curve(&folder), *epochs);
}

#[test]
fn ctrl_c_saves_and_resuming_ends_with_the_same_bytes() {
    let user = User::new();
    user.job(&LONG);
    let whole = uninterrupted(&user);
    let mut child = user.start(&train(&["job.toml", "--output", "out"]));
    let job = read_until(&mut child, |event| event["event"] == "epoch" && event["epoch"] == 3);
    signal(&child, "INT");
    let done = wait(child);
    assert_eq!(done.code, 4, "{}", done.stderr);
    assert!(!user.path().join("out/model.safetensors").exists());

    // What it printed is what to do next.
    let mut child = user.start(&train(&["--resume", &job]));
    read_until(&mut child, |event| event["event"] == "started" && event["resumed_at"]["epoch"].as_u64() >= Some(3));
    signal(&child, "TERM");
    let done = wait(child);
    assert_eq!(done.code, 4, "{}", done.stderr);
    let last: Value = serde_json::from_str(done.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["status"], "interrupted");
    let resume = last["resume"].as_str().unwrap();
    assert!(resume.ends_with(&format!(" train --resume {job}")), "{resume}");

    let done = user.run(&train(&["--resume", &job]));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_same(&user, "out", &whole);

    // Resuming what is finished gives its result again, and trains nothing.
    let again = user.run(&train(&["--resume", &job]));
    assert_eq!(again.code, 0);
    assert_eq!(again.lines().len(), 1);
    assert_eq!(again.last(), done.last());
}

#[test]
fn text_tells_how_to_go_on() {
    let user = User::new();
    user.job(&LONG);
    let mut child = user.start(&["train", "job.toml"]);
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("   1/30") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0);
    }
    signal(&child, "INT");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut reader, &mut rest).unwrap();
    assert_eq!(wait(child).code, 4);
    let command = rest.lines().last().unwrap().strip_prefix("go on with: ").unwrap_or_else(|| panic!("{rest}"));
    assert!(command.starts_with(program().to_str().unwrap()), "{command}");
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(user.path())
        .env("OUTBOARD_HOME", user.path().join("home"))
        .env_remove("TEST_OUTBOARD_BIN")
        .output();
    assert!(output.unwrap().status.success());
}

#[test]
fn sigkill_at_any_moment_loses_at_most_the_work_since_the_last_checkpoint() {
    const KILLS: u32 = 12;
    let user = User::new();
    user.job(&LONG);
    let began = Instant::now();
    let whole = uninterrupted(&user);
    let length = began.elapsed();
    let jobs = user.path().join("home/jobs");
    let known = || -> BTreeSet<String> {
        fs::read_dir(&jobs).into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    let (mut kills, mut ended) = (0, 0);
    for round in 0..2 * KILLS {
        if kills >= KILLS {
            break;
        }
        let (before, output) = (known(), format!("out-{round}"));
        let mut job: Option<String> = None;
        // Killed up to three times: before it is written down, while it trains, while the model is written.
        for attempt in 0..3 {
            let resume = job.clone().unwrap_or_default();
            let mut child = match &job {
                None => user.start(&train(&["job.toml", "--output", &output])),
                Some(_) => user.start(&train(&["--resume", &resume])),
            };
            // Moments spread over the whole run, each a little different.
            let share = (round * 37 + attempt * 59) % 100;
            std::thread::sleep(length * share / 100 + Duration::from_micros(u64::from(round * 131)));
            if child.try_wait().unwrap().is_none() {
                signal(&child, "KILL");
                kills += 1;
            }
            child.wait().unwrap();
            job = known().difference(&before).next().cloned();
        }
        let Some(job) = job else { continue };
        let done = user.run(&train(&["--resume", &job]));
        if done.code == 2 && done.stderr.contains("there is no job") {
            // Killed before its record was written: nothing was promised.
            continue;
        }
        assert_eq!((done.code, done.stderr.as_str()), (0, ""));
        assert!(!done.stdout.contains("warning"), "{}", done.stdout);
        assert_same(&user, &output, &whole);
        ended += 1;
    }
    println!("{kills} kills, {ended} jobs, all of which ended with the same bytes");
    assert!(kills >= KILLS && ended >= KILLS / 4, "{kills} kills, {ended} jobs");
}

#[test]
fn one_process_at_a_time_runs_a_job() {
    let user = User::new();
    user.job(&LONG);
    let mut child = user.start(&train(&["job.toml"]));
    let job = read_until(&mut child, |event| event["event"] == "started");
    let text = user.run(&["train", "--resume", &job]);
    assert_eq!(text.code, 2);
    assert_eq!(
        text.failure(),
        format!(
            "error: job `{job}` is being run by another process\n  try: wait for it to end, or stop that process first\n"
        )
    );
    signal(&child, "KILL");
    child.wait().unwrap();
}

#[test]
fn a_full_disk_keeps_the_last_checkpoint() {
    let user = User::new();
    user.job(&[("out = 64", "out = 256"), ("epochs = 20", "epochs = 40")]);
    let whole = uninterrupted(&user);
    fs::create_dir(user.path().join("small")).unwrap();
    // A file system of its own, with room for the data and one checkpoint, but not for a second beside it.
    let script = format!(
        "mount -t tmpfs -o size=850k none small && export OUTBOARD_HOME=$PWD/small OUTBOARD_LEDGER=$PWD/ledger.db && \
         {bin} train job.toml --json --output out {often} >first.json 2>first.txt; echo $? >first.code; \
         mount -o remount,size=20m none small && \
         {bin} train --json --resume $(ls small/jobs) {often} >second.json 2>second.txt; echo $? >second.code",
        bin = program().display(),
        often = "--set 'checkpoint.every=\"5ms\"'",
    );
    let run = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .current_dir(user.path())
        .env_remove("TEST_OUTBOARD_BIN")
        .output();
    let read = |name: &str| fs::read_to_string(user.path().join(name)).unwrap_or_default();
    match run {
        Ok(output) if output.status.success() => {}
        other => {
            println!("skipped: a_full_disk_keeps_the_last_checkpoint: no mount namespace: {other:?}");
            return;
        }
    }
    assert_eq!(read("first.code").trim(), "2", "{}{}", read("first.json"), read("first.txt"));
    let text = read("first.txt");
    assert!(text.contains("the disk is full\n") && text.contains("  last good checkpoint: after "), "{text}");
    assert!(
        text.contains("  try: free some space, then run the command again; to go on from that checkpoint: "),
        "{text}"
    );
    assert_eq!(read("second.code").trim(), "0", "{}{}", read("second.json"), read("second.txt"));
    assert_same(&user, "out", &whole);
}

#[test]
fn a_deadline_stops_the_job_with_a_checkpoint() {
    let user = User::new();
    user.job(&[
        LONG[0],
        ("epochs = 20", "epochs = 100000"),
        ("seed = 7\n", "seed = 7\n[limits]\ndeadline = \"300ms\"\n"),
    ]);
    let done = user.run(&["train", "job.toml"]);
    assert_eq!(done.code, 3, "{}", done.stderr);
    assert!(done.stderr.starts_with("error: the job's deadline of 300ms has passed\n"), "{}", done.stderr);
    assert!(done.stderr.contains("  last good checkpoint: after "), "{}", done.stderr);
}
