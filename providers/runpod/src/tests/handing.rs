//! Tasks on their way to RunPod.

use outboard_core::{ErrorKind, Retry, task::Operation};
use outboard_testbed::{Fault, Weather, runpod::Trouble};

use super::*;

#[tokio::test]
async fn a_job_brings_its_blobs_and_its_end() {
    let bed = Bed::new(1.0, |_| {}).await;
    let mut task = bed.task("k/1");
    task.limit = Some(Duration::from_secs(90));
    let id = bed.provider.submit(&task).await.unwrap();
    let seen = bed.runpod.seen("run");
    assert_eq!(seen.len(), 1, "an evaluation of 90 s isn't waited for");
    let body: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!(body["policy"], json!({ "executionTimeout": 150_000, "ttl": 1_050_000 }));

    let job = bed.take().await;
    let request: InlineRequest = serde_json::from_value(job["input"].clone()).unwrap();
    assert_eq!((&request.envelope.task, digests(&request)), (&task, task.operation.needs()));
    assert!(matches!(bed.wait(&id, Revision(0)).await.unwrap().phase, Phase::Running));
    bed.finish(&job).await;
    let state = bed.end(&id).await;
    let usage = state.usage.unwrap();
    assert_eq!(usage.timings.compute, 0.25);
    assert!(usage.billed.unwrap() >= bed.config.idle_timeout && usage.bytes_down > 0);
    assert!(matches!(state.phase, Phase::Finished(_)));
    assert_eq!(bed.provider.submit(&task).await.unwrap(), id);
    // A restarted client needs the id alone.
    let restarted = RunPodProvider::new(&bed.config, bed.store.clone(), None).unwrap();
    let state = restarted.wait(&id, Revision(0), Duration::ZERO).await.unwrap();
    assert!(matches!(state.phase, Phase::Finished(_)));
    assert_eq!(bed.runpod.executions(ENDPOINT), 1);
}

#[tokio::test]
async fn a_short_one_is_answered_at_once() {
    let bed = Bed::new(1.0, |_| {}).await;
    let mut task = bed.task("k");
    task.limit = Some(Duration::from_secs(20));
    let (id, ()) = tokio::join!(bed.provider.submit(&task), async {
        let job = bed.take().await;
        bed.finish(&job).await;
    });
    bed.assert_finishes(&id.unwrap()).await;
    assert!(bed.runpod.seen("runsync")[0].path.ends_with("/runsync?wait=1000"));
    assert!(bed.runpod.seen("status").is_empty());
}

#[tokio::test]
async fn what_has_no_end_or_too_late_a_one_is_refused() {
    let bed = Bed::new(1.0, |config| config.max_task_time = Duration::from_secs(3600)).await;
    let endless = Task { limit: None, ..bed.task("k") };
    let error = bed.provider.submit(&endless).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidRequest, Retry::Never));
    assert_eq!(error.to_string(), "a task on RunPod needs a time limit, since it is paid by time");
    let long = Task { limit: Some(Duration::from_secs(3601)), ..bed.task("k") };
    let error = bed.provider.submit(&long).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidRequest, Retry::Other));
    assert!(bed.runpod.seen("").is_empty());
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_sent() {
    let bed = Bed::new(1.0, |_| {}).await;
    // Bytes that nothing compresses.
    let mut x = 1_u64;
    let mut noise = |n: usize| -> Vec<u8> {
        std::iter::repeat_with(|| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 56) as u8
        })
        .take(n)
        .collect()
    };
    let mut with = |n: usize| {
        let mut task = bed.task("k");
        let Operation::Evaluate(evaluate) = &mut task.operation else { panic!() };
        evaluate.data = bed.store.write(&noise(n)).unwrap();
        task
    };
    let error = bed.provider.submit(&with(16_000_000)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::PayloadTooLarge, Retry::Other));
    assert!(error.advice().unwrap().contains("[store]"));
    // More than `/run` takes, less than `/runsync` does.
    bed.provider.submit(&with(9_000_000)).await.unwrap();
    assert_eq!((bed.runpod.seen("run").len(), bed.runpod.seen("runsync").len()), (0, 1));
}

/// Drill: the reply to a submission is lost, and nothing but time tells what became of it.
#[tokio::test]
async fn without_a_store_a_lost_reply_is_waited_out_and_never_sent_again() {
    for trouble in ["lost", "500", "truncated"] {
        let bed = Bed::new(1.0, |_| {}).await;
        let run = "POST /v2/ep1/run";
        match trouble {
            "lost" => bed.runpod.weather(Weather::fair().then(run, Fault::LoseReply)),
            "truncated" => bed.runpod.weather(Weather::fair().then(run, Fault::TruncateReply(100))),
            _ => bed.runpod.script("run", Trouble::reply(500, "<html>")),
        }
        let task = bed.task("k");
        let error = bed.provider.submit(&task).await.unwrap_err();
        let ttl = Duration::from_secs(60 + 60 + 900);
        assert_eq!(error.retry(), Retry::Unknown { until: ttl }, "{trouble}: {error:?}");
        let again = bed.provider.submit(&task).await.unwrap_err();
        assert!(matches!(again.retry(), Retry::Unknown { until } if until <= ttl), "{trouble}: {again:?}");
        assert_eq!(bed.runpod.seen("run").len(), 1, "{trouble}");
    }
}

/// Drill: the client is killed while it hands a task over, or just after it.
#[tokio::test]
async fn a_restarted_client_without_a_store_sends_nothing_twice() {
    let bed = Bed::new(1.0, |_| {}).await;
    let restarted = || RunPodProvider::new(&bed.config, bed.store.clone(), None).unwrap();
    let accepted = bed.task("k");
    assert_eq!(restarted().find_attempt(&accepted.attempt, &accepted.key).await.unwrap(), None, "it was never sent");
    let id = bed.provider.submit(&accepted).await.unwrap();
    assert_eq!(restarted().find_attempt(&accepted.attempt, &accepted.key).await.unwrap(), Some(id.clone()));
    assert_eq!(restarted().submit(&accepted).await.unwrap(), id);

    bed.runpod.weather(Weather::fair().then("POST /v2/ep1/run", Fault::LoseReply));
    let lost = bed.task("l");
    bed.provider.submit(&lost).await.unwrap_err();
    assert_eq!(
        restarted().find_attempt(&lost.attempt, &lost.key).await.unwrap(),
        Some(TaskId("ep1/-/l#1/l".into())),
        "without a job"
    );
    let error = restarted().submit(&lost).await.unwrap_err();
    assert!(matches!(error.retry(), Retry::Unknown { until } if until <= Duration::from_secs(1020)), "{error:?}");
    assert_eq!(error.to_string(), "the attempt may be running on RunPod: the reply to its submission was lost");

    let refused = bed.task("m");
    bed.runpod.script("run", Trouble::reply(429, ""));
    bed.provider.submit(&refused).await.unwrap_err();
    assert_eq!(restarted().find_attempt(&refused.attempt, &refused.key).await.unwrap(), None, "it was not taken");
    restarted().submit(&refused).await.unwrap();
    assert_eq!(bed.runpod.seen("run").len(), 4);
}

#[tokio::test]
async fn what_was_not_accepted_may_be_sent_again() {
    let bed = Bed::new(1.0, |_| {}).await;
    let task = bed.task("k");
    for (status, body, kind, retry) in [
        (401, "{\"message\":\"unauthorized\"}", ErrorKind::Unauthenticated, Retry::Other),
        (429, "too many", ErrorKind::RateLimited, Retry::Same { after: None }),
        (404, "", ErrorKind::NotFound, Retry::Other),
    ] {
        bed.runpod.script("run", Trouble::reply(status, body));
        let error = bed.provider.submit(&task).await.unwrap_err();
        assert_eq!((error.kind(), error.retry(), error.provider()), (kind, retry, Some("runpod")), "{status}");
        assert!(!error.report().contains(KEY));
    }
    let headers = vec![("retry-after", "7".to_string())];
    bed.runpod.script("run", Trouble::Reply { status: 429, headers, body: String::new() });
    let error = bed.provider.submit(&task).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Same { after: Some(Duration::from_secs(7)) });
    bed.provider.submit(&task).await.unwrap();
    assert_eq!(bed.runpod.live_jobs(ENDPOINT), 1);
}

#[tokio::test]
async fn several_endpoints_share_and_stand_in_for_each_other() {
    let endpoints = vec![EndpointSettings::new(ENDPOINT, None), EndpointSettings::new("ep2", None)];
    let bed = Bed::with(1.0, endpoints, |config| config.endpoints[0].weight = 3).await;
    for n in 0..8 {
        bed.submit(&format!("k{n}")).await;
    }
    assert_eq!((bed.runpod.live_jobs(ENDPOINT), bed.runpod.live_jobs("ep2")), (6, 2));
    bed.runpod.script("run", Trouble::reply(429, ""));
    let id = bed.submit("other").await;
    assert_eq!(bed.runpod.seen("run").len(), 10);
    let elsewhere = bed.submit("next").await;
    let first = |id: &TaskId| id.0.split('/').next().unwrap().to_string();
    assert_eq!(first(&id), first(&elsewhere), "what was too busy rests");
}
