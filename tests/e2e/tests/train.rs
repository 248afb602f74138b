//! Training, evaluating and predicting, when all goes well.

#![allow(clippy::unwrap_used)]

use std::fs;

use outboard_e2e::{User, repository};
use serde_json::json;

#[test]
fn the_first_command_of_the_readme_trains_on_real_data() {
    let user = User::new();
    let job = repository().join("examples/digits.toml");
    let done = user.run(&["train", job.to_str().unwrap()]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let lines: Vec<_> = done.stdout.lines().collect();
    assert!(
        lines[0].starts_with("job digits-") && lines[0].contains("1,438 rows (359 held out), 4,810 parameters"),
        "{}",
        lines[0]
    );
    assert_eq!(
        lines.iter().filter(|line| line.trim_start().split('/').nth(1).is_some_and(|l| l.starts_with("20 "))).count(),
        20
    );
    let find = |name: &str| *lines.iter().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    let accuracy: f64 = find("accuracy").split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(accuracy >= 0.95, "{accuracy}");
    assert_eq!(find("cost").split_whitespace().collect::<Vec<_>>(), ["cost", "$0.00", "(free)"]);
    assert!(done.stdout.contains("validation loss, epochs 1 to 20"));

    // The commands that the summary gives run as they are.
    for name in ["evaluate", "predict"] {
        let printed = find(name).split_once(' ').unwrap().1.trim();
        let output = std::process::Command::new("sh")
            .args(["-c", printed])
            .current_dir(user.path())
            .env("OUTBOARD_HOME", user.path().join("home"))
            .env_remove("TEST_OUTBOARD_BIN")
            .output()
            .unwrap();
        assert!(output.status.success(), "{printed}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match name {
            "evaluate" => assert!(text.starts_with("accuracy  0.98"), "{text}"),
            _ => assert_eq!((text.lines().next(), text.lines().count()), (Some("label,probability"), 1798)),
        }
    }
    assert_eq!(user.files(), ["digits.csv", "home", "runs"]);
}

/// The five lines in the README are those that the library's documentation compiles.
#[test]
fn the_example_of_the_readme_is_compiled() {
    let lines = |path: &str| -> Vec<String> {
        let text = fs::read_to_string(repository().join(path)).unwrap();
        let block = text.split("```rust").nth(1).or_else(|| text.split("```no_run").nth(1)).unwrap();
        let lines = block.split("```").next().unwrap().lines().filter(|line| line.starts_with(char::is_alphabetic));
        lines.map(String::from).collect()
    };
    assert!(lines("README.md").len() >= 4);
    assert_eq!(lines("README.md"), lines("crates/runtime/README.md"));
}

/// Every line of a log names the job and the attempt that it belongs to.
#[test]
fn logs_are_keyed_by_job_and_attempt() {
    let user = User::new();
    user.job(&[("epochs = 20", "epochs = 2")]);
    let done = user.run(&["train", "job.toml", "--json", "--log", "outboard=debug", "--log-format", "json"]);
    let job = done.last()["job"].clone();
    let lines: Vec<serde_json::Value> = done.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let spans = |line: &serde_json::Value| line["spans"].as_array().cloned().unwrap_or_default();
    assert!(
        lines.iter().any(|line| spans(line).iter().any(|s| s["job"] == job && s["attempt"].is_string())),
        "{}",
        done.stderr
    );
    let named = |line: &serde_json::Value| line["fields"]["job"] == job || spans(line).iter().any(|s| s["job"] == job);
    assert!(lines.iter().all(named), "{}", done.stderr);
}

#[test]
fn json_lines_follow_the_schema() {
    let user = User::new();
    user.job(&[]);
    let done = user.run(&["train", "job.toml", "--json", "--output", "out"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.stderr, "");
    let lines = done.lines();
    let job = lines[0]["job"].as_str().unwrap();
    assert!(job.starts_with("job-"));
    for line in &lines {
        assert_eq!((&line["job"], &line["schema"]), (&json!(job), &json!(1)), "{line}");
    }
    assert_eq!(lines[0]["event"], "started");
    let epochs: Vec<_> = lines.iter().filter(|line| line["event"] == "epoch").collect();
    assert_eq!(epochs.iter().map(|e| e["epoch"].as_u64().unwrap()).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    for epoch in &epochs {
        for key in [
            "loss",
            "accuracy",
            "validation_loss",
            "validation_accuracy",
            "seconds",
            "samples_per_second",
            "learning_rate",
        ] {
            assert!(epoch[key].as_f64().is_some_and(f64::is_finite), "{key} in {epoch}");
        }
    }
    let last = done.last();
    let model = last["model"].as_str().unwrap();
    assert_eq!(
        (&last["event"], &last["status"], &last["provider"]),
        (&json!("finished"), &json!("succeeded"), &json!("cpu"))
    );
    assert_eq!((&last["epochs"], &last["cost_usd"]), (&json!(20), &json!(0.0)));
    assert_eq!(last["metrics"]["validation_loss"], epochs[19]["validation_loss"]);
    assert!(last["metrics"]["validation_accuracy"].as_f64().unwrap() >= 0.95);
    assert!(last["seconds"].as_f64().unwrap() > 0.0);

    assert_eq!(model, user.path().join("out/model.safetensors").to_str().unwrap());
    let metrics = fs::read_to_string(user.path().join("out/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 20);
    // The copy of the job trains the same model again.
    let again = user.run(&["train", "out/job.toml", "--json", "--output", "again"]).last();
    assert_eq!(fs::read(model).unwrap(), fs::read(again["model"].as_str().unwrap()).unwrap());
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let user = User::new();
    user.job(&[("out = 64", "out = 300"), ("epochs = 20", "epochs = 3")]);
    let bytes = |threads: &str| {
        let done =
            user.run(&["train", "job.toml", "--output", threads, "--set", &format!("providers.cpu.threads={threads}")]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        fs::read(user.path().join(threads).join("model.safetensors")).unwrap()
    };
    let one = bytes("1");
    assert!(["2", "3", "5"].iter().all(|threads| bytes(threads) == one));
}

#[test]
fn early_stopping_keeps_the_best_epoch() {
    let user = User::new();
    user.job(&[
        ("lr = 1e-3", "lr = 2e-2"),
        ("epochs = 20", "epochs = 200\nkeep = \"best\"\nearly_stopping = { patience = 3 }"),
    ]);
    let done = user.run(&["train", "job.toml", "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let last = done.last();
    let (best, epochs) = (last["best_epoch"].as_u64().unwrap(), last["epochs"].as_u64().unwrap());
    assert!(last["stopped_early"] == true && epochs < 200 && best == epochs - 3, "{last}");
    let lines = done.lines();
    let losses =
        lines.iter().filter(|line| line["event"] == "epoch").map(|line| line["validation_loss"].as_f64().unwrap());
    let lowest = losses.fold(f64::MAX, f64::min);
    assert_eq!(last["metrics"]["validation_loss"].as_f64().unwrap(), lowest);
    // The model is that of the best epoch, not of the last: measured anew on the same rows it gives the same loss.
    let one_row_more = last["model"].as_str().unwrap();
    assert_eq!(user.run(&["evaluate", one_row_more, "digits.csv"]).code, 0);
}

#[test]
fn starts_from_given_weights_and_leaves_frozen_layers_alone() {
    let user = User::new();
    user.job(&[("epochs = 20", "epochs = 2")]);
    let first = user.run(&["train", "job.toml", "--json", "--output", "first"]).last();
    user.job(&[
        ("[data]", "weights = \"first/model.safetensors\"\n[data]"),
        ("epochs = 20", "epochs = 2\nfreeze = [\"0\"]"),
    ]);
    let done = user.run(&["train", "job.toml", "--json", "--output", "second"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let losses = |last: &serde_json::Value| last["metrics"]["loss"].as_f64().unwrap();
    assert!(losses(&done.last()) < losses(&first));
    let tensor = |folder: &str, name: &str| {
        let bytes = fs::read(user.path().join(folder).join("model.safetensors")).unwrap();
        let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
        let at = |i: usize| header[name]["data_offsets"][i].as_u64().unwrap() as usize + 8 + n;
        bytes[at(0)..at(1)].to_vec()
    };
    assert_eq!(tensor("first", "0.weight"), tensor("second", "0.weight"));
    assert_ne!(tensor("first", "2.weight"), tensor("second", "2.weight"));
}

#[test]
fn categories_numbers_and_binary_targets_can_be_predicted() {
    let user = User::new();
    let mut rows = String::from("size,colour,price,sold\n");
    for i in 0..200 {
        let (size, colour) = (i % 20, ["red", "blue", "green"][i % 3]);
        let price = 3 * size + [10, 20, 30][i % 3];
        rows += &format!("{size},{colour},{price},{}\n", if price > 40 { "yes" } else { "no" });
    }
    user.write("sales.csv", &rows);
    let job = |target: &str, other: &str, loss: &str| {
        user.write(
            "job.toml",
            &format!(
                "[model]\nlayers = [{{ type = \"linear\", out = 16 }}, \"tanh\", {{ type = \"linear\", out = 1 }}]\n\
                 [data]\ntrain = \"sales.csv\"\ntarget = \"{target}\"\nexclude = [\"{other}\"]\ncategorical = [\"colour\"]\n\
                 [train]\nloss = \"{loss}\"\noptimizer = {{ type = \"adam\", lr = 0.02 }}\nepochs = 300\n"
            ),
        );
        let done = user.run(&["train", "job.toml", "--json"]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        done.last()
    };
    let number = job("price", "sold", "mse");
    let model = number["model"].as_str().unwrap();
    assert!(number["metrics"]["accuracy"].is_null());
    let new = user.write("new.csv", "colour,size\nred,10\ngreen,0\n");
    let done = user.run(&["predict", model, new.to_str().unwrap()]);
    let prices: Vec<f64> = done.stdout.lines().skip(1).map(|line| line.parse().unwrap()).collect();
    assert!((prices[0] - 40.0).abs() < 3.0 && (prices[1] - 30.0).abs() < 3.0, "{}", done.stdout);

    let binary = job("sold", "price", "bce_with_logits");
    assert!(binary["metrics"]["accuracy"].as_f64().unwrap() > 0.95);
    let done = user.run(&["predict", binary["model"].as_str().unwrap(), "new.csv", "--json"]);
    assert_eq!(done.lines()[1]["prediction"], "no");
    assert!(done.lines()[1]["probabilities"]["yes"].as_f64().unwrap() < 0.5);

    let unseen = user.write("unseen.csv", "colour,size\npurple,10\n");
    let text = user.refused(&["predict", model, unseen.to_str().unwrap()]);
    assert!(text.contains("purple") && text.contains("blue, green, red") || text.contains("`blue`"), "{text}");
}

#[test]
fn models_configuration_and_completions_can_be_shown() {
    let user = User::new();
    user.job(&[]);
    let done = user.run(&["model", "show", "job.toml"]);
    assert_eq!(
        done.stdout,
        "   layer   output  parameters  FLOPs per row\n   input   [64]             0              0\n\
         0  linear  [64]         4,160          8,256\n1  relu    [64]             0             64\n\
         2  linear  [10]           650          1,290\n   total                4,810          9,610\n"
    );
    user.write("outboard.toml", "[checkpoint]\nevery = \"1m\"\n");
    let done = user.run(&["config", "show", "--set", "providers.cpu.threads=2"]);
    let row = |key: &str| done.stdout.lines().find(|line| line.starts_with(key)).unwrap().to_string();
    assert!(
        row("checkpoint.every").ends_with(user.path().join("outboard.toml").canonicalize().unwrap().to_str().unwrap())
    );
    assert!(row("home").ends_with("environment OUTBOARD_HOME"));
    assert!(row("providers.cpu.threads").ends_with("--set"));
    assert!(row("providers.cpu.enabled").ends_with("default"));
    assert!(user.run(&["completions", "bash"]).stdout.contains("_outboard()"));
}

#[test]
fn the_configuration_of_every_situation_is_read() {
    for file in fs::read_dir(repository().join("config/examples")).unwrap() {
        let path = file.unwrap().path();
        let user = User::new();
        user.write("outboard.toml", &fs::read_to_string(&path).unwrap());
        let done = user.run(&["config", "show"]);
        assert_eq!(done.code, 0, "{}: {}", path.display(), done.stderr);
    }
}
