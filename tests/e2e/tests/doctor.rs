//! `outboard doctor` as a user meets it, with things that are broken; and the codes that every failure ends with.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use outboard_e2e::{Done, User, Worker};
use serde_json::Value;

fn doctor(user: &User, more: &[&str]) -> Done {
    user.run(&[&["doctor", "--json"], more].concat())
}

/// The findings with this code.
fn checks(done: &Done, code: &str) -> Vec<Value> {
    done.lines().into_iter().filter(|line| line["code"] == code).collect()
}

#[track_caller]
fn assert_check(done: &Done, code: &str, verdict: &str, evidence: &str, remedy: &str) {
    let found = checks(done, code);
    let holds = |value: &Value, text: &str| value.as_str().unwrap_or_default().contains(text);
    let fits = |check: &Value| {
        check["verdict"] == verdict && holds(&check["evidence"], evidence) && holds(&check["try"], remedy)
    };
    assert!(found.iter().any(fits), "{code}: {found:#?}\n{}{}", done.stdout, done.stderr);
    assert_eq!(done.code, i32::from(done.last()["failed"] != 0), "{}", done.stdout);
    if verdict == "fail" {
        assert_eq!(done.code, 1, "{}", done.stdout);
    }
}

#[test]
fn a_new_machine_is_well() {
    let user = User::new();
    user.job(&[]);
    let done = doctor(&user, &["--job", "job.toml"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    for (code, evidence) in [
        ("OB-CONFIG", "there is no outboard.toml"),
        ("OB-CPU", ""),
        ("OB-MEMORY", ""),
        ("OB-FOLDER", "it can be written to"),
        ("OB-DISK", ""),
        ("OB-LEDGER", "there is none yet"),
        ("OB-PROVIDER-READY", "ready"),
        ("OB-PRICE", "free"),
        ("OB-JOB", "1797 rows"),
        ("OB-LIMITS", "it would get the job"),
    ] {
        let found = checks(&done, code);
        assert!(!found.is_empty(), "{code}: {}", done.stdout);
        let text = found.iter().map(|check| check["evidence"].to_string()).collect::<String>();
        assert!(text.contains(evidence), "{code}: {text}");
    }
    assert!(!user.path().join("runs").exists(), "nothing is left behind");
    let text = user.run(&["doctor"]);
    assert!(text.stdout.contains("pass  OB-PROVIDER-READY (cpu): ready ("), "{}", text.stdout);
    assert!(text.stdout.ends_with(" failed\n"), "{}", text.stdout);

    // After a job there is a ledger.
    assert_eq!(user.run(&["train", "job.toml"]).code, 0);
    let done = doctor(&user, &[]);
    assert_check(&done, "OB-LEDGER", "pass", "it is whole", "");
    assert_check(&done, "OB-RESERVATIONS", "pass", "none is stale", "");
    assert_check(&done, "OB-ORPHANS", "pass", "no job was left behind", "");
}

#[test]
fn a_wrong_configuration_is_a_finding_that_names_the_line() {
    let user = User::new();
    user.write("outboard.toml", "[providers.cpu]\nthreds = 2\n");
    let done = doctor(&user, &[]);
    assert_check(&done, "OB-CONFIG", "fail", "unknown key `providers.cpu.threds`", "write `providers.cpu.threads`");
    assert!(checks(&done, "OB-CONFIG")[0]["evidence"].as_str().unwrap().contains("(line: 2)"), "{}", done.stdout);
    assert_eq!(checks(&done, "OB-MEMORY").len(), 1);
    user.write("outboard.toml", "[providers\n");
    assert_check(&doctor(&user, &[]), "OB-CONFIG", "fail", "outboard.toml", "");
}

#[test]
fn a_home_that_cannot_be_used_is_told() {
    let user = User::new();
    let run = |home: &Path| {
        let mut command = user.command(&["doctor", "--json"]);
        Done::of(command.env("OUTBOARD_HOME", home))
    };
    let done = run(&user.path().join("digits.csv/home"));
    assert_check(&done, "OB-FOLDER", "fail", "a part of the path is not a folder", "set OUTBOARD_HOME");
    if Path::new("/proc/self").exists() {
        assert_check(&run(Path::new("/proc/outboard")), "OB-FOLDER", "fail", "cannot create the folder", "");
    }
}

#[test]
fn a_job_that_could_not_run_is_told_why() {
    let user = User::new();
    for (change, code, evidence) in [
        (("epochs = 20", "epochs = 0"), "OB-JOB", "`train.epochs` is 0"),
        (("digits.csv", "digit.csv"), "OB-FILE", "cannot read"),
        (("target = \"label\"", "target = \"lable\""), "OB-DATA", "lable"),
        (("out = 10", "out = 9"), "OB-JOB", "`label` has 10 classes"),
        (("seed = 7", "seed = 7\n[routing]\nproviders = [\"runpod\"]"), "OB-NO-PROVIDER", "no provider could take it"),
    ] {
        user.job(&[change]);
        assert_check(&doctor(&user, &["--job", "job.toml"]), code, "fail", evidence, "");
    }
    user.job(&[("seed = 7\n", "seed = 7\noutput = \"x\"\n")]);
    let done = doctor(&user, &["--job", "none.toml"]);
    assert_check(&done, "OB-FILE", "fail", "no such file or folder", "check the path");
}

#[test]
fn a_damaged_ledger_is_found() {
    let user = User::new();
    user.job(&[]);
    assert_eq!(user.run(&["train", "job.toml"]).code, 0);
    let path = user.path().join("home/ledger.db");
    let bytes = fs::read(&path).unwrap();
    for wal in ["home/ledger.db-wal", "home/ledger.db-shm"] {
        let _ = fs::remove_file(user.path().join(wal));
    }
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_check(&doctor(&user, &[]), "OB-LEDGER", "fail", "the ledger is damaged", "restore it from a backup");
    fs::write(&path, "not a ledger, but a text that is long enough to be taken for one").unwrap();
    assert_check(&doctor(&user, &[]), "OB-LEDGER", "fail", "it is no SQLite database", "move this one away");
}

#[test]
fn a_job_whose_client_was_killed_is_an_orphan() {
    let user = User::new();
    user.job(&[("epochs = 20", "epochs = 100000")]);
    let mut child = user.start(&["train", "job.toml", "--json"]);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    let started: Value = serde_json::from_str(&line).unwrap();
    assert_check(&doctor(&user, &[]), "OB-ORPHANS", "pass", "", "");
    child.kill().unwrap();
    child.wait().unwrap();
    let job = started["job"].as_str().unwrap();
    let done = doctor(&user, &[]);
    assert_check(&done, "OB-ORPHANS", "warn", job, "outboard train --resume");
    assert_eq!(done.code, 0, "a warning is no failure");
}

#[test]
fn a_worker_is_looked_at_from_its_address_to_its_version() {
    let user = User::new();
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(folder.path());
    let config = |entry: &str| {
        user.write("outboard.toml", &format!("[providers.http]\nenabled = true\nworkers = [{entry}]\n"));
    };
    config(&Worker::entry(worker.address()));
    let done = doctor(&user, &["--provider", "http"]);
    assert_check(&done, "OB-NETWORK", "pass", "it answers", "");
    assert_check(&done, "OB-CLOCK", "pass", "agree", "");
    assert_check(&done, "OB-HTTP-WORKER", "pass", "protocol 1", "");
    assert!(checks(&done, "OB-LEDGER").is_empty(), "only the provider");

    config(&Worker::entry(worker.address()).replace(Worker::TOKEN, "another-token-altogether"));
    assert_check(&doctor(&user, &[]), "OB-HTTP-WORKER", "fail", "token", "");
    worker.kill();
    config(&Worker::entry(worker.address()));
    let done = doctor(&user, &[]);
    assert_check(&done, "OB-NETWORK", "fail", "nothing listens at the worker's address", "outboard worker --listen");
    assert_check(&done, "OB-PROVIDER-READY", "pass", "ready", "");
}

#[test]
fn a_certificate_that_nobody_knows_is_told_apart_from_no_network() {
    let user = User::new();
    let folder = tempfile::tempdir().unwrap();
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&certificate, cert.pem()).unwrap();
    fs::write(&key, signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let worker = Worker::start_with(folder.path(), |mut command| {
        command.arg("--tls-cert").arg(&certificate).arg("--tls-key").arg(&key);
        command
    });
    let config = |more: &str| {
        let url = format!("https://localhost:{}", worker.address().port());
        let entry = format!("{{ url = \"{url}\", token = \"{}\"{more} }}", Worker::TOKEN);
        user.write("outboard.toml", &format!("[providers.http]\nenabled = true\nworkers = [{entry}]\n"));
    };
    config("");
    let done = doctor(&user, &[]);
    assert_check(
        &done,
        "OB-TLS",
        "fail",
        "can't be reached safely: invalid peer certificate",
        "trust the worker's certificate",
    );
    config(&format!(", ca_file = \"{}\"", certificate.display()));
    assert_check(&doctor(&user, &[]), "OB-HTTP-WORKER", "pass", "protocol 1", "");
}

#[test]
fn a_dead_proxy_is_told_apart_from_a_dead_peer() {
    let user = User::new();
    user.write(
        "outboard.toml",
        "[providers.http]\nenabled = true\nworkers = [{ url = \"https://worker.invalid\", token = \"0123456789abcdef\" }]\n",
    );
    let mut command = user.command(&["doctor", "--json"]);
    for name in ["NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "https_proxy"] {
        command.env_remove(name);
    }
    // Port 1 is nobody's.
    let done = Done::of(command.env("HTTPS_PROXY", "http://me:s3cret@127.0.0.1:1"));
    assert_check(&done, "OB-PROXY", "fail", "through the proxy http://127.0.0.1:1", "check HTTPS_PROXY");
    assert!(!done.stdout.contains("s3cret"), "{}", done.stdout);
    assert!(checks(&done, "OB-NETWORK").is_empty(), "{}", done.stdout);

    let mut command = user.command(&["doctor", "--json"]);
    for name in ["HTTPS_PROXY", "ALL_PROXY", "all_proxy", "https_proxy"] {
        command.env_remove(name);
    }
    let done = Done::of(&mut command);
    assert_check(&done, "OB-NETWORK", "fail", "the worker can't be reached", "check the network");
}

#[test]
fn a_plugin_that_may_not_be_loaded_is_told_with_its_reason() {
    let user = User::new();
    let library = user.write("plugin.so", "no library");
    fs::set_permissions(&library, fs::Permissions::from_mode(0o644)).unwrap();
    for (extra, evidence, remedy) in [
        (format!("blake3 = \"{}\"", "0".repeat(64)), "has the BLAKE3 digest", "write its new digest"),
        (String::new(), "cannot be loaded", "built for this machine"),
    ] {
        user.write("outboard.toml", &format!("[plugins.odd]\npath = \"plugin.so\"\n{extra}\n"));
        assert_check(&doctor(&user, &[]), "OB-PLUGIN", "fail", evidence, remedy);
    }
    fs::set_permissions(&library, fs::Permissions::from_mode(0o666)).unwrap();
    assert_check(&doctor(&user, &[]), "OB-PLUGIN", "fail", "others may write", "chmod go-w");
    fs::remove_file(&library).unwrap();
    assert_check(&doctor(&user, &["--provider", "odd"]), "OB-PLUGIN", "fail", "no such file", "check the path");
}

#[test]
fn codes_are_explained_and_misspelt_ones_guessed() {
    let user = User::new();
    let done = user.run(&["doctor", "--explain", "OB-DATA"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stdout.starts_with("OB-DATA: The data can't be used\n\nWhat it means\n  A file of the data"),
        "{}",
        done.stdout
    );
    assert!(done.stdout.contains("\nHow to see it\n") && done.stdout.contains("\nWhat to do\n"), "{}", done.stdout);
    // Though the configuration is what is wrong.
    user.write("outboard.toml", "odd = 1\n");
    assert_eq!(user.run(&["doctor", "--explain", "config"]).code, 0);
    let all = user.run(&["doctor", "--explain", "--json"]);
    let names: Vec<_> = all.lines().iter().map(|line| line["code"].as_str().unwrap().to_string()).collect();
    assert!(names.len() > 50 && names.contains(&"OB-CLASH".into()), "{names:?}");
    assert_eq!(
        user.refused(&["doctor", "--explain", "OB-DATE"]),
        "error: there is no code `OB-DATE`\n  try: outboard doctor --explain OB-DATA\n"
    );
}

/// The code of a failure.
fn code(done: &Done) -> String {
    done.failure();
    let last = done.stderr.lines().last().unwrap();
    last.trim().strip_prefix("code: ").unwrap().split(' ').next().unwrap().to_string()
}

#[test]
fn every_failure_ends_with_the_code_that_fits_it() {
    let user = User::new();
    user.job(&[]);
    assert_eq!(user.run(&["train", "job.toml", "--output", "good"]).code, 0);
    user.write("odd.csv", "label,p0\n1,x\n");
    user.write("odd.safetensors", "nothing");
    user.write("odd.toml", "[model\n");
    for (command, expected) in [
        (&["trian"][..], "OB-USAGE"),
        (&["train"], "OB-USAGE"),
        (&["doctor", "--provider", "moon"], "OB-USAGE"),
        (&["train", "odd.toml"], "OB-JOB"),
        (&["train", "none.toml"], "OB-FILE"),
        (&["train", "job.toml", "--set", "providers.cpu.threds=1"], "OB-CONFIG"),
        (&["train", "job.toml", "--on", "moon"], "OB-REQUEST"),
        (&["train", "--resume", "none"], "OB-NOT-FOUND"),
        (&["jobs", "show", "none"], "OB-NOT-FOUND"),
        (&["evaluate", "good/model.safetensors", "odd.csv"], "OB-DATA"),
        (&["evaluate", "odd.safetensors", "digits.csv"], "OB-MODEL"),
        (&["predict", "good/model.safetensors", "none.csv"], "OB-FILE"),
        (&["plugin", "check", "odd.csv"], "OB-PLUGIN"),
    ] {
        let done = user.run(command);
        assert_ne!(done.code, 0, "{command:?}");
        assert_eq!(code(&done), expected, "{command:?}: {}", done.stderr);
    }
    user.job(&[("lr = 1e-3", "lr = 1e30")]);
    assert_eq!(code(&user.run(&["train", "job.toml"])), "OB-JOB-FAILED");
    // Asked-for help is no failure.
    let help = user.run(&["train", "--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
}
