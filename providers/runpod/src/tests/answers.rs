//! What RunPod says of a job, and what it means.

use outboard_core::{ErrorKind, Event, Retry, provider::Cancelled, task::Progress};
use outboard_testbed::{Fault, Weather, runpod::Trouble};

use super::*;

#[tokio::test]
async fn a_body_that_is_not_final_is_never_a_result() {
    let bed = Bed::new(1.0, |_| {}).await;
    let id = bed.submit("k").await;
    let job = bed.take().await;
    let request: InlineRequest = serde_json::from_value(job["input"].clone()).unwrap();
    // An output that looks like a result, of a job that still runs.
    let output = reply(&request, Ending::Finished(Outcome::Evaluate(Metrics { loss: 9.0, ..METRICS })));
    bed.post(&job, &json!({ "status": "IN_PROGRESS", "output": output })).await;
    let state = bed.wait(&id, Revision(0)).await.unwrap();
    assert!(matches!(state.phase, Phase::Running), "{state:?}");
    for status in ["PAUSED", "IN_QUEUE", "RUNNING"] {
        bed.runpod.script("status", Trouble::Status(status));
        let state = bed.provider.wait(&id, state.revision, Duration::from_millis(300)).await.unwrap();
        assert!(matches!(state.phase, Phase::Running), "{status}: {state:?}");
    }
    bed.finish(&job).await;
    bed.assert_finishes(&id).await;
}

#[tokio::test]
async fn progress_is_told_while_a_task_runs_and_epochs_with_its_end() {
    let bed = Bed::new(1.0, |_| {}).await;
    let id = bed.submit("k").await;
    let job = bed.take().await;
    let seen = bed.wait(&id, Revision(0)).await.unwrap().revision;
    let progress = |step| Progress { epoch: 1, step, steps: 9, loss: 0.5, samples_per_second: 10.0, eta_seconds: 1.0 };
    let (early, late) = (Event::Progress(progress(3)), Event::Progress(progress(8)));
    bed.post(&job, &json!({ "status": "IN_PROGRESS", "output": early })).await;
    let state = bed.wait(&id, seen).await.unwrap();
    assert!(matches!(state.phase, Phase::Running) && state.events == [early.clone()], "{state:?}");
    // Only the reply tells what counts.
    let warning = Event::Warning { message: "as told".into() };
    bed.post(&job, &json!({ "status": "IN_PROGRESS", "output": warning })).await;
    let state = bed.provider.wait(&id, state.revision, Duration::from_millis(300)).await.unwrap();
    assert!(state.events.is_empty(), "{state:?}");
    let request: InlineRequest = serde_json::from_value(job["input"].clone()).unwrap();
    let mut output = reply(&request, Ending::Finished(Outcome::Evaluate(METRICS)));
    output.events = vec![early.clone(), late, warning.clone()];
    bed.post(&job, &json!({ "output": output })).await;
    bed.assert_finishes(&id).await;
    let all = bed.provider.wait(&id, Revision(0), Duration::ZERO).await.unwrap().events;
    assert_eq!(all, [early, warning], "each once, what is overtaken left out");
}

#[tokio::test]
async fn what_cannot_be_asked_has_not_failed() {
    let bed = Bed::new(1.0, |config| config.request_timeout = Duration::from_millis(500)).await;
    let id = bed.submit("k").await;
    let job = bed.take().await;
    let seen = bed.wait(&id, Revision(0)).await.unwrap().revision;
    let status = "GET /v2/ep1/status";
    for fault in [Fault::LoseReply, Fault::ResetReply(90), Fault::TruncateReply(120), Fault::HalfOpen] {
        bed.runpod.weather(Weather::fair().then(status, fault));
        let error = bed.wait(&id, seen).await.unwrap_err();
        assert!(matches!(error.retry(), Retry::Same { .. }), "{fault:?}: {error:?}");
    }
    for (code, kind) in [(429, ErrorKind::RateLimited), (500, ErrorKind::Unavailable), (200, ErrorKind::CorruptPayload)]
    {
        bed.runpod.script("status", Trouble::reply(code, "<html>"));
        let error = bed.wait(&id, seen).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, Retry::Same { after: None }));
    }
    bed.finish(&job).await;
    bed.assert_finishes(&id).await;
}

#[tokio::test]
async fn failed_jobs_say_why() {
    let bed = Bed::new(1.0, |_| {}).await;
    for (body, kind, message) in [
        (json!({ "error": "handler said no" }), ErrorKind::WorkerUnhealthy, "the worker failed: handler said no"),
        (
            json!({ "error": "{\"error_type\":\"<class 'MemoryError'>\",\"error_message\":\"too large\"}" }),
            ErrorKind::OutOfMemory,
            "the worker ran out of memory: too large",
        ),
        (json!({ "output": 7 }), ErrorKind::WorkerUnhealthy, "the job's output isn't that of an Outboard worker"),
        (json!({}), ErrorKind::WorkerUnhealthy, "the job's output isn't that of an Outboard worker"),
    ] {
        let id = bed.submit(&format!("{body}")).await;
        let job = bed.take().await;
        bed.post(&job, &body).await;
        let error = bed.failure(&id).await;
        assert_eq!((error.kind(), error.retry(), error.to_string().as_str()), (kind, Retry::Other, message));
        assert!(error.report().contains("RunPod job: ") && error.advice().is_some(), "{}", error.report());
    }
}

#[tokio::test]
async fn a_blob_that_was_damaged_on_the_way_never_arrives() {
    let bed = Bed::new(1.0, |_| {}).await;
    let id = bed.submit("k").await;
    let job = bed.take().await;
    let request: InlineRequest = serde_json::from_value(job["input"].clone()).unwrap();
    let outputs = Digest::of(b"outputs");
    let mut output = reply(&request, Ending::Finished(Outcome::Predict { outputs }));
    let blob = outboard_protocol::InlineBlob {
        digest: outputs,
        encoding: outboard_protocol::Encoding::Raw,
        data: b"OUTPUTS".to_vec(),
    };
    output.blobs.push(blob);
    bed.post(&job, &json!({ "output": output })).await;
    let error = loop {
        match bed.wait(&id, Revision(2)).await {
            Err(error) => break error,
            Ok(state) => assert!(!state.phase.is_final(), "{state:?}"),
        }
    };
    assert_eq!(error.kind(), ErrorKind::CorruptPayload);
    assert!(bed.store.read(&outputs).is_err());
}

/// A worker that was killed posts nothing: RunPod ends the job at its limit, a minute later.
#[tokio::test]
async fn a_lost_result_ends_at_the_time_limit() {
    let bed = Bed::new(200.0, |_| {}).await;
    bed.runpod.script("job-done", Trouble::LoseResult);
    let id = bed.submit("k").await;
    let job = bed.take().await;
    bed.finish(&job).await;
    let error = bed.failure(&id).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::WorkerUnhealthy, Retry::Other));
    assert_eq!(error.to_string(), "the worker fell silent: RunPod ended the job at its time limit");
}

#[tokio::test]
async fn a_job_that_runpod_forgets_is_over() {
    let bed = Bed::new(10_000.0, |_| {}).await;
    let id = bed.submit("k").await;
    let error = bed.failure(&id).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Other));
    assert!(error.to_string().starts_with("RunPod no longer knows the job"), "{error}");
    assert_eq!(bed.provider.cancel(&id).await.unwrap(), Cancelled::Stopped);
}

#[tokio::test]
async fn a_job_that_runs_twice_has_one_outcome() {
    let bed = Bed::new(1.0, |_| {}).await;
    bed.runpod.script("job-take", Trouble::Twice);
    let id = bed.submit("k").await;
    let (first, second) = (bed.take().await, bed.take().await);
    assert_eq!(first["id"], second["id"]);
    bed.finish(&second).await;
    bed.post(&first, &json!({ "error": "too late" })).await;
    bed.assert_finishes(&id).await;
    assert_eq!(bed.runpod.executions(ENDPOINT), 2);
}

/// As RunPod does with a job that it has handed out twice, once one of both has ended.
#[tokio::test]
async fn a_stop_that_nobody_asked_for_is_no_cancellation() {
    let bed = Bed::new(1.0, |_| {}).await;
    let id = bed.submit("k").await;
    let job = bed.take().await;
    let request: InlineRequest = serde_json::from_value(job["input"].clone()).unwrap();
    bed.post(&job, &json!({ "output": reply(&request, Ending::Cancelled) })).await;
    let error = bed.failure(&id).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Preempted, Retry::Same { after: None }));
    assert!(error.advice().is_some());
}

#[tokio::test]
async fn cancelling_stops_what_waits_and_what_runs() {
    let bed = Bed::new(1.0, |_| {}).await;
    let (waiting, running) = (bed.submit("w").await, bed.submit("r").await);
    let tail = Cancelled::StillBilled { until: bed.config.idle_timeout };
    assert_eq!(bed.provider.cancel(&waiting).await.unwrap(), tail);
    bed.take().await;
    assert_eq!(bed.provider.cancel(&running).await.unwrap(), tail);
    for id in [&waiting, &running] {
        assert!(matches!(bed.end(id).await.phase, Phase::Cancelled));
        assert_eq!(bed.provider.cancel(id).await.unwrap(), Cancelled::Stopped);
    }
    assert_eq!(bed.runpod.live_jobs(ENDPOINT), 0);
    let strange = TaskId("elsewhere/job/a/k".into());
    assert_eq!(bed.provider.cancel(&strange).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn polls_back_off() {
    let bed = Bed::new(1.0, |_| {}).await;
    let id = bed.submit("k").await;
    bed.take().await;
    let state = bed.wait(&id, Revision(0)).await.unwrap();
    let before = bed.runpod.seen("status").len();
    bed.provider.wait(&id, state.revision, Duration::from_secs(1)).await.unwrap();
    // However often it is called, RunPod is asked as the time between two looks says.
    for _ in 0..100 {
        bed.provider.wait(&id, state.revision, Duration::ZERO).await.unwrap();
    }
    let polls = bed.runpod.seen("status").len() - before;
    println!("{polls} polls in the first second");
    assert!((1..=8).contains(&polls), "{polls}");
}
