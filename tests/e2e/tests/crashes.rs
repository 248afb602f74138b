//! What is left of a task process that died, as its user reads it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    process::Command,
};

use outboard_e2e::{User, Worker, wait};

#[test]
fn the_end_of_a_task_process_is_kept_with_its_attempt() {
    let user = User::new();
    let worker = Worker::start(&user.path().join("worker"));
    let entry = Worker::entry(worker.address());
    user.write(
        "outboard.toml",
        &format!("providers.cpu.enabled = false\n[providers.http]\nenabled = true\nworkers = [{entry}]\n"),
    );
    user.job(&[("epochs = 20", "epochs = 1000000")]);
    let mut train = user.start(&["train", "job.toml", "--output", "out", "--json"]);
    let mut lines = BufReader::new(train.stdout.take().unwrap()).lines();
    // It trains, so that its death is the task's.
    let epoch = lines.find(|line| line.as_ref().unwrap().contains(r#""event":"epoch""#));
    assert!(epoch.is_some());
    let killed = Command::new("pkill").args(["-ABRT", "-P", &worker.pid().to_string()]).status().unwrap();
    assert!(killed.success());
    // It is told, whether the job ends with it or tries again.
    assert!(lines.any(|line| line.unwrap().contains("the task process died")));
    let stopped = Command::new("kill").args(["-INT", &train.id().to_string()]).status();
    assert!(stopped.is_ok());
    lines.for_each(drop);
    let _ = wait(train);

    let job = user.run(&["jobs", "--json"]).last()["job"].as_str().unwrap().to_string();
    let shown = user.run(&["jobs", "show", &job]).stdout;
    for part in [
        "failed: the task process died (signal: 6 (SIGABRT)",
        "left behind:\n",
        "  peak memory: ",
        "  exit status: signal: 6 (SIGABRT)",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let shown = user.run(&["jobs", "show", &job, "--json"]).last();
    let attempts = shown["attempts"].as_array().unwrap();
    let died = attempts.iter().find(|attempt| attempt["evidence"].as_array().is_some_and(|lines| !lines.is_empty()));
    assert!(died.unwrap()["outcome"].as_str().unwrap().lines().count() == 1, "{shown}");
}
