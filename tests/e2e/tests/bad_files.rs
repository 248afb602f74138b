//! Files and folders that are missing, damaged, or not what they should be; outputs that nobody reads.

#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::Child,
};

use outboard_e2e::{User, wait};
use serde_json::{Value, json};

/// A user with a model in `good/model.safetensors`.
fn user_with_model() -> User {
    let user = User::new();
    user.job(&[("epochs = 20", "epochs = 1")]);
    let done = user.run(&["train", "job.toml", "--output", "good"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    user
}

const MODEL: &str = "good/model.safetensors";

/// Writes `name`: the model with `from` replaced by `to`, which is as long.
fn altered_model(user: &User, name: &str, from: &str, to: &str) {
    let mut bytes = fs::read(user.path().join(MODEL)).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    fs::write(user.path().join(name), bytes).unwrap();
}

/// Starts to train a job with this name that doesn't end by itself, and kills it once it runs; the job's id.
fn killed(user: &User) -> String {
    user.job(&[("epochs = 20", "epochs = 100000")]);
    let mut child = user.start(&["train", "job.toml", "--json"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let event: Value = serde_json::from_str(&line).unwrap();
    event["job"].as_str().unwrap().to_string()
}

fn record(user: &User, job: &str) -> PathBuf {
    user.path().join("home/jobs").join(job).join("record.json")
}

/// A file in the record of a job; its path below the working directory.
fn blob(user: &User, job: &str, pointer: &str) -> String {
    let record: Value = serde_json::from_slice(&fs::read(record(user, job)).unwrap()).unwrap();
    format!("home/blobs/{}", record.pointer(pointer).unwrap().as_str().unwrap())
}

fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn weights_that_cannot_be_started_from() {
    let user = user_with_model();
    user.write("weights.pt", "\u{80}\u{2}}q\u{0}(X\u{8}\u{0}\u{0}\u{0}0.weight");
    let weights = |path: &str| format!("weights = \"{path}\"\n[data]");
    for (path, change, text) in [
        (
            "none.safetensors",
            ("", ""),
            "cannot read none.safetensors: no such file or folder\n  file: none.safetensors\n  key: model.weights\n  \
             job file: job.toml\n  try: check the path",
        ),
        (
            "weights.pt",
            ("", ""),
            "not a whole safetensors file: header too large\n  file: weights.pt\n  key: model.weights\n  \
             job file: job.toml\n  \
             try: save a state dict with safetensors.torch.save_file; pickles (.pt, .pth) are not read",
        ),
        (
            MODEL,
            ("out = 64", "out = 65"),
            "tensor `0.weight` has shape [64, 64], but the model needs [65, 64]\n  file: good/model.safetensors\n  \
             key: model.weights\n  job file: job.toml\n  \
             try: change the model's layers, or start from other weights",
        ),
        (
            MODEL,
            ("  { type = \"relu\" },\n", ""),
            "the file has no tensor `1.weight` of shape [10, 64]\n  file: good/model.safetensors\n  \
             key: model.weights\n  job file: job.toml\n  \
             try: it has 0.bias, 0.weight, 2.bias, 2.weight; rename them to match the model's layers",
        ),
    ] {
        user.job(&[("[data]", &weights(path)), change]);
        assert_eq!(user.refused(&["train", "job.toml"]), format!("error: {text}\n"));
    }
}

#[test]
fn files_that_are_no_models() {
    let user = user_with_model();
    let bytes = fs::read(user.path().join(MODEL)).unwrap();
    fs::write(user.path().join("short.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    altered_model(&user, "newer.safetensors", r#"\"protocol\":1"#, r#"\"protocol\":9"#);
    altered_model(&user, "bare.safetensors", r#""outboard":"#, r#""somebody":"#);
    for (model, text) in [
        ("none.safetensors", "cannot read the model none.safetensors: no such file or folder\n  try: check the path"),
        ("good", "cannot read the model good: it is a folder, not a file\n  try: name a file in it"),
        (
            "short.safetensors",
            "not a whole safetensors file: incomplete metadata, file not fully covered\n  file: short.safetensors\n  \
             try: use a model.safetensors that `outboard train` wrote",
        ),
        (
            "job.toml",
            "not a whole safetensors file: header too large\n  file: job.toml\n  \
             try: use a model.safetensors that `outboard train` wrote",
        ),
        (
            "bare.safetensors",
            "the file holds weights, but not what they mean\n  file: bare.safetensors\n  \
             try: use a model.safetensors that `outboard train` wrote; to start from these weights, name them in \
             `model.weights`",
        ),
        (
            "newer.safetensors",
            "the file is of protocol version 9, but this program speaks version 1\n  file: newer.safetensors\n  \
             try: use the version of outboard that wrote it",
        ),
    ] {
        for command in ["evaluate", "predict"] {
            assert_eq!(user.refused(&[command, model, "digits.csv"]), format!("error: {text}\n"));
        }
    }
}

#[test]
fn data_that_does_not_suit_a_model() {
    let user = user_with_model();
    let digits = fs::read_to_string(user.path().join("digits.csv")).unwrap();
    user.write("fewer.csv", &digits.replacen("p7,", "P7,", 1));
    user.write("label.csv", &digits.replacen(",0\n", ",77\n", 1));
    for command in ["evaluate", "predict"] {
        assert_eq!(
            user.refused(&[command, MODEL, "none.csv"]),
            "error: cannot read none.csv: no such file or folder\n  file: none.csv\n  try: check the path\n"
        );
        assert_eq!(
            user.refused(&[command, MODEL, "fewer.csv"]),
            "error: the training data has a column `p7`, but this file has not\n  file: fewer.csv\n  column: p7\n  \
             try: rename `P7` in its header, or add the column\n"
        );
    }
    assert_eq!(
        user.refused(&["evaluate", MODEL, "label.csv"]),
        "error: line 2: `77` is not one of the classes of the training data: `0`, `1`, `2`, `3`, `4`, `5`, `6`, `7`, \
         `8`, `9`\n  file: label.csv\n  row: 1\n  column: label\n  \
         try: fix the cell, or train on data that has it too\n"
    );
}

#[test]
fn outputs_that_cannot_be_written() {
    let user = user_with_model();
    // A read-only folder wouldn't stop root; these do.
    for (output, why) in
        [("job.toml/out", "a part of the path is not a folder"), ("job.toml", "a file of that name is in its place")]
    {
        let rest = "job file: job.toml\n  try: name another folder with `--output DIR`, or change its permissions\n";
        assert_eq!(
            user.refused(&["train", "job.toml", "--output", output]),
            format!("error: cannot create the folder {output}: {why}\n  output: {output}\n  {rest}")
        );
    }
    if Path::new("/proc/self").exists() {
        let text = user.refused(&["train", "job.toml", "--output", "/proc/out"]);
        assert!(text.starts_with("error: cannot create the folder /proc/out: "), "{text}");
    }
    // The data stays in the store, for whoever asks about it again.
    assert_eq!(user.run(&["predict", MODEL, "digits.csv"]).code, 0);
    assert_eq!(
        user.refused(&["predict", MODEL, "digits.csv", "--output", "none/out.csv"]),
        "error: cannot write none/out.csv: no such file or folder\n  try: check the path\n"
    );
    if let Ok(full) = File::options().write(true).open("/dev/full") {
        let text = user.refused_command(user.command(&["predict", MODEL, "digits.csv"]).stdout(full));
        assert!(text.starts_with("error: cannot write to standard output: "), "{text}");
        assert!(text.ends_with("\n  try: check where it goes, then run the command again\n"), "{text}");
    }
}

#[test]
fn a_home_that_cannot_be_made() {
    let user = User::new();
    user.job(&[]);
    let home = user.path().join("job.toml/here");
    assert_eq!(
        user.refused_command(user.command(&["train", "job.toml"]).env("OUTBOARD_HOME", home)),
        "error: cannot create the folder job.toml/here/blobs: a part of the path is not a folder\n  key: home\n  \
         try: set OUTBOARD_HOME to a folder of yours\n"
    );
}

#[test]
fn jobs_that_cannot_be_resumed() {
    let user = User::new();
    for job in ["unknown", "../x", ""] {
        assert_eq!(
            user.refused(&["train", "--resume", job]),
            format!("error: there is no job `{job}`\n  try: no job was started under home/jobs; check OUTBOARD_HOME\n")
        );
    }
    let job = killed(&user);
    assert_eq!(
        user.refused(&["train", "--resume", "unknown"]),
        format!("error: there is no job `unknown`\n  try: use the id of a job, such as {job}\n")
    );
    for (text, cause) in [
        ("{\"protocol\":1,", "EOF while parsing a value at line 1 column 14"),
        ("{\"protocol\":1,\"id\":3}", "invalid type: integer `3`, expected a string at line 1 column 20"),
    ] {
        fs::write(record(&user, &job), text).unwrap();
        assert_eq!(
            user.refused(&["train", "--resume", &job]),
            format!(
                "error: the job's record cannot be read: it was damaged, or written by another version\n  \
                 file: home/jobs/{job}/record.json\n  cause: {cause}\n  try: start the job again with `outboard train`\n"
            )
        );
    }
    fs::write(record(&user, &job), "{\"protocol\":9}").unwrap();
    assert_eq!(
        user.refused(&["train", "--resume", &job]),
        format!(
            "error: job `{job}` was started under protocol version 9, but this program speaks version 1\n  \
             try: resume it with the version of outboard that started it\n"
        )
    );
}

#[test]
fn damaged_blobs_are_noticed_and_mended_by_starting_again() {
    let user = User::new();
    let job = killed(&user);
    let resume = || {
        let done = user.run(&["train", "--resume", &job]);
        assert_eq!(done.code, 2, "{}", done.stderr);
        user.shortened(&done.failure())
    };
    for pointer in ["/data", "/validation", "/checkpoint/digest"] {
        let path = blob(&user, &job, pointer);
        let whole = fs::read(user.path().join(&path)).unwrap();
        flip_a_bit(&user.path().join(&path));
        assert_eq!(
            resume(),
            format!(
                "error: a blob does not match its digest: the file was damaged\n  file: {path}\n  provider: cpu\n  \
                 try: start the job again\n"
            )
        );
        if pointer == "/checkpoint/digest" {
            fs::remove_file(user.path().join(&path)).unwrap();
            assert_eq!(
                resume(),
                format!(
                    "error: cannot read the blob {path}: no such file or folder\n  provider: cpu\n  \
                     try: start the job again\n"
                )
            );
            continue;
        }
        user.job(&[("epochs = 20", "epochs = 1")]);
        assert_eq!(user.run(&["train", "job.toml"]).code, 0);
        assert_eq!(fs::read(user.path().join(&path)).unwrap(), whole);
    }
}

#[test]
fn a_loss_that_is_not_a_number() {
    let user = User::new();
    user.job(&[("lr = 1e-3", "lr = 1e30")]);
    let advice = "lower the learning rate, set `clip_norm = 1.0` under [train], or check the data for outliers";
    let done = user.run(&["train", "job.toml"]);
    assert_eq!(done.code, 3);
    assert_eq!(
        done.failure(),
        format!(
            "error: the loss became NaN\n  epoch: 1\n  step: 2\n  last good checkpoint: the initial weights\n  \
             provider: cpu\n  try: {advice}\n"
        )
    );
    let done = user.run(&["train", "job.toml", "--json"]);
    assert_eq!(done.code, 3);
    let last = done.last();
    assert_eq!(
        (&last["event"], &last["status"], &last["job"]),
        (&json!("finished"), &json!("failed"), &done.lines()[0]["job"])
    );
    assert_eq!(
        last["error"],
        json!({
            "kind": "job_failed",
            "code": "OB-JOB-FAILED",
            "message": "the loss became NaN",
            "context": {"epoch": "1", "step": "2", "last good checkpoint": "the initial weights"},
            "try": advice,
        })
    );
}

/// Reads the first line of a child's standard output, then closes it.
fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line
}

#[test]
fn a_job_goes_on_when_nobody_reads_any_more() {
    let user = User::new();
    user.job(&[]);
    for arguments in
        [&["train", "job.toml", "--output", "out"][..], &["train", "job.toml", "--output", "out", "--json"]]
    {
        let mut child = user.start(arguments);
        first_line(&mut child);
        assert_eq!(wait(child).code, 0);
        fs::remove_file(user.path().join("out/model.safetensors")).unwrap();
    }
    let mut child = user.start(&["train", "job.toml", "--output", "out", "--log", "trace"]);
    let (mut stderr, mut first) = (child.stderr.take().unwrap(), [0]);
    stderr.read_exact(&mut first).unwrap();
    drop(stderr);
    assert_eq!(wait(child).code, 0);

    let mut child = user.start(&["predict", "out/model.safetensors", "digits.csv"]);
    assert_eq!(first_line(&mut child), "label,probability\n");
    assert_eq!(wait(child).code, 0);
}

#[test]
fn commands_in_one_home_do_not_disturb_each_other() {
    let user = user_with_model();
    let model = fs::read(user.path().join(MODEL)).unwrap();
    let predictions = user.run(&["predict", MODEL, "digits.csv"]).stdout;
    let evaluation = user.run(&["evaluate", MODEL, "digits.csv"]).stdout;
    for _ in 0..3 {
        let start = |arguments: &[&str]| [user.start(arguments), user.start(arguments)];
        let trains = ["one", "two"].map(|output| user.start(&["train", "job.toml", "--output", output]));
        let predicts = start(&["predict", MODEL, "digits.csv"]);
        let evaluates = start(&["evaluate", MODEL, "digits.csv"]);
        for (children, stdout) in [(predicts, &predictions), (evaluates, &evaluation)] {
            for done in children.map(wait) {
                assert_eq!((done.code, &done.stdout), (0, stdout), "{}", done.stderr);
            }
        }
        for (child, output) in trains.into_iter().zip(["one", "two"]) {
            let done = wait(child);
            assert_eq!(done.code, 0, "{}", done.stderr);
            assert!(fs::read(user.path().join(output).join("model.safetensors")).unwrap() == model);
        }
    }
    assert_eq!(fs::read_dir(user.path().join("home/scratch")).unwrap().count(), 0);
}

#[test]
fn equal_jobs_keep_checkpoints_of_their_own() {
    let user = User::new();
    // Long enough to be killed before its first checkpoint.
    user.job(&[("out = 64", "out = 512"), ("epochs = 20", "epochs = 60")]);
    let mut child = user.start(&["train", "job.toml", "--json", "--output", "one"]);
    let first: Value = serde_json::from_str(&first_line(&mut child)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(user.run(&["train", "job.toml", "--output", "two"]).code, 0);
    let done = user.run(&["train", "--resume", first["job"].as_str().unwrap()]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let model = |output: &str| fs::read(user.path().join(output).join("model.safetensors")).unwrap();
    assert!(model("one") == model("two"));
}
