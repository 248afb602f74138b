//! `outboard runpod` on RunPod's stand-in.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;

use outboard_testbed::runpod::Fate;

mod common;

use common::{Platform, charged, python};

const DEPLOY: &str = "deploy = { image = \"me/outboard-worker:0.1.0\", gpus = [\"RTX 4090\"], max_workers = 2 }";

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_made_tried_changed_and_removed() {
    let Some(python) = python("an_endpoint_is_made_tried_changed_and_removed") else { return };
    let platform = Platform::new(python, None).await;
    let user = platform.user(DEPLOY);
    user.job(&[("epochs = 20", "epochs = 2")]);
    let file = user.path().join("outboard.toml");
    // As it is before anything was deployed.
    let text =
        fs::read_to_string(&file).unwrap().replace("endpoints = [{ id = \"ep1\", gpu = \"RTX 4090\" }]\n", "# mine\n");
    fs::write(&file, &text).unwrap();

    let done = user.run(&["runpod", "deploy", "--dry-run"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stdout.contains("make the endpoint outboard: up to 2 workers with NVIDIA GeForce RTX 4090"),
        "{}",
        done.stdout
    );
    assert!(
        done.stdout.contains("idling costs nothing; after its last task a worker is kept for 5s"),
        "{}",
        done.stdout
    );
    assert!(user.run(&["runpod", "status"]).stdout.contains("nothing is deployed"));
    assert_eq!((charged(&user), fs::read_to_string(&file).unwrap()), (0, text.clone()));

    let done = user.run(&["runpod", "deploy"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("pass  OB-LIVE-TASK: "), "{}", done.stdout);
    let now = fs::read_to_string(&file).unwrap();
    assert!(now.contains("endpoints = [{ id = \"made2\", gpu = \"RTX 4090\" }]") && now.contains("# mine"), "{now}");
    assert!(charged(&user) > 0);
    let done = user.run(&["train", "job.toml", "--output", "out", "--json"]);
    assert_eq!((done.code, done.last()["provider"].as_str()), (0, Some("runpod")), "{}", done.stderr);

    // Again: nothing changes. Another image: another template, and the old one goes.
    let done = user.run(&["runpod", "deploy", "--dry-run"]);
    assert!(done.stdout.starts_with("nothing is to be changed\n"), "{}", done.stdout);
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("worker:0.1.0", "worker:0.2.0")).unwrap();
    let done = user.run(&["runpod", "deploy"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("change the template of the endpoint made2"), "{}", done.stdout);
    let status = user.run(&["runpod", "status"]).stdout;
    assert!(status.contains("endpoint made2: up to 2 workers with NVIDIA GeForce RTX 4090"), "{status}");

    let refused = user.run(&["runpod", "destroy"]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("this would remove the endpoint made2, the template outboard-"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("try: run `outboard runpod destroy --yes`"), "{}", refused.stderr);
    let done = user.run(&["runpod", "destroy", "--yes"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(fs::read_to_string(&file).unwrap().contains("endpoints = []"));
    assert_eq!(user.run(&["runpod", "destroy", "--yes"]).stdout, "there is nothing to remove\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_and_what_does_not_work_is_not_configured() {
    let Some(python) = python("what_is_wrong_is_told_and_what_does_not_work_is_not_configured") else { return };
    let platform = Platform::new(python, None).await;
    let user = platform
        .user("crash_patience = \"1s\"\n[providers.runpod.deploy]\nimage = \"me/worker\"\ngpus = [\"RTX 4090\"]");
    let wrong = user.run(&["runpod", "deploy"]);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.stderr.starts_with(
            "error: the image has no tag that stays what it is\n  key: providers.runpod.deploy.image\n  \
             provider: runpod\n  try: write its version"
        ),
        "{}",
        wrong.stderr
    );
    let image = ["--set", "providers.runpod.deploy.image=me/worker:1"];
    let moon = ["--set", "providers.runpod.deploy.gpus=[\"Moon\"]"];
    let wrong = user.run(&[&["runpod", "deploy"], &image[..], &moon[..]].concat());
    assert!(wrong.stderr.contains("RunPod's catalogue has no GPU `Moon`"), "{}", wrong.stderr);
    assert!(platform.runpod.seen("templates").is_empty());

    platform.runpod.set_new_fate(Fate::CrashLoop);
    let before = fs::read_to_string(user.path().join("outboard.toml")).unwrap();
    let done = user.run(&[&["runpod", "deploy"], &image[..]].concat());
    assert_eq!(done.code, 3, "{}", done.stdout);
    assert!(done.stdout.contains("its workers crash while they start"), "{}", done.stdout);
    assert!(done.stderr.contains("the endpoint made2 doesn't work"), "{}", done.stderr);
    assert_eq!(fs::read_to_string(user.path().join("outboard.toml")).unwrap(), before);
}
