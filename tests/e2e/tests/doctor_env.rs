//! `outboard doctor env` as a user meets it, on this machine and with a worker elsewhere.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use outboard_e2e::{Done, User, Worker};
use serde_json::Value;

fn compare(user: &User, more: &[&str]) -> Done {
    user.run(&[&["doctor", "env", "--json"], more].concat())
}

#[track_caller]
fn fact(done: &Done, name: &str) -> Value {
    let found = done.lines().into_iter().find(|line| line["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {}{}", done.stdout, done.stderr))
}

#[test]
fn this_machine_differs_in_nothing_from_itself() {
    let user = User::new();
    let done = compare(&user, &["--provider", "cpu"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let last = done.last();
    assert_eq!((&last["event"], &last["differences"], &last["cost_usd"]), (&"compared".into(), &0.into(), &0.0.into()));
    assert_eq!(done.lines().len(), 1, "what is the same is not printed: {}", done.stdout);
    let all = compare(&user, &["--provider", "cpu", "--all"]);
    let path = fact(&all, "env.PATH");
    assert_eq!((&path["here"], &path["differs"]), (&path["there"], &false.into()));
    assert_eq!(all.lines().len() as u64, all.last()["facts"].as_u64().unwrap() + 1);
    let text = user.run(&["doctor", "env", "--provider", "cpu"]).stdout;
    assert!(text.starts_with("0 of ") && text.contains(" facts differ from those of cpu ("), "{text}");
    assert!(text.ends_with("; `--all` shows the others too; charged $0.00\n"), "{text}");
}

#[test]
fn a_worker_elsewhere_is_compared_without_its_secrets() {
    let user = User::new();
    let folder = tempfile::tempdir().unwrap();
    let worker = Worker::start_with(folder.path(), |mut command| {
        command
            .env("OMP_NUM_THREADS", "1")
            .env("LD_PRELOAD", "")
            .env("LC_ALL", "C")
            .env("TZ", "Asia/Kolkata")
            .env("TORCH_HOME", "/opt/".to_string() + &"deep/".repeat(20))
            .env("RUNPOD_API_KEY", "rpa_0123456789abcdef")
            .env("PYTHONSTARTUP", "/run/rpa_0123456789abcdef")
            .env("HTTPS_PROXY", "http://me:hunter2@proxy.example:3128");
        command
    });
    let entry = Worker::entry(worker.address());
    user.write("outboard.toml", &format!("[providers.http]\nenabled = true\nworkers = [{entry}]\n"));
    let run = |more: &[&str]| {
        let mut command = user.command(&[&["doctor", "env", "--provider", "http"], more].concat());
        for name in ["OMP_NUM_THREADS", "TZ", "TORCH_HOME", "PYTHONSTARTUP", "HTTPS_PROXY"] {
            command.env_remove(name);
        }
        Done::of(command.env("LC_ALL", "C.UTF-8"))
    };
    let done = run(&["--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    for (name, here, there, so) in [
        ("env.TZ", None, "Asia/Kolkata", "local times differ"),
        ("system.locale", Some("C.UTF-8"), "C", "no UTF-8"),
        ("env.HTTPS_PROXY", None, "http://proxy.example:3128", "goes by way of that"),
        ("env.PYTHONSTARTUP", None, "(not told: it holds a secret)", ""),
    ] {
        let fact = fact(&done, name);
        assert_eq!((fact["here"].as_str(), fact["there"].as_str()), (here, Some(there)), "{fact}");
        assert!(fact["so"].as_str().unwrap_or_default().contains(so) && fact["differs"] == true, "{fact}");
    }
    assert!(done.lines().iter().all(|line| line["differs"] != false), "{}", done.stdout);
    let text = run(&[]).stdout;
    assert!(text.starts_with("fact "), "{text}");
    assert!(text.contains("\nenv.TZ ") && text.contains("\n    so: local times differ: in logs"), "{text}");
    let long = "/opt/".to_string() + &"deep/".repeat(20);
    assert!(text.contains(&format!("\n    there: {long}\n")), "{text}");
    for secret in ["rpa_", "hunter2", "API_KEY", Worker::TOKEN] {
        assert!(!done.stdout.contains(secret) && !text.contains(secret), "{secret}");
    }
    let note = "tasks don't run in Python there";
    assert!(run(&["--python", "python3"]).stdout.contains(note));
}

#[test]
fn what_can_not_be_compared_is_told() {
    let user = User::new();
    let unknown = compare(&user, &["--provider", "moon"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("there is no provider `moon`"), "{}", unknown.stderr);
    let unused = compare(&user, &["--provider", "runpod"]);
    assert_eq!((unused.code, unused.last()["status"].as_str()), (2, Some("failed")));
    let words = "the provider `runpod` is not set up, or not enabled\n  try: set OUTBOARD_PROVIDERS__RUNPOD__API_KEY";
    assert!(unused.stderr.contains(words) && unused.stderr.contains("OB-NOT-SET-UP"), "{}", unused.stderr);
    let nobody = Worker::entry("127.0.0.1:1".parse().unwrap());
    user.write("outboard.toml", &format!("[providers.http]\nenabled = true\nworkers = [{nobody}]\n"));
    let lost = compare(&user, &["--provider", "http"]);
    assert_eq!((lost.code, lost.last()["status"].as_str()), (1, Some("failed")), "{}", lost.stdout);
    let missing = user.run(&["doctor", "env"]);
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("--provider <PROVIDER>"), "{}", missing.stderr);
}
