//! Tasks that wait for a worker: why, how long, and what follows.

use outboard_core::{ErrorKind, Retry, provider::Health};
use outboard_testbed::{
    Fault, Weather,
    runpod::{Fate, Trouble},
};

use super::*;

/// An endpoint whose workers have this fate, twenty times as fast, and a provider with this little patience.
async fn doomed(fate: Fate, patience: impl FnOnce(&mut Config)) -> Bed {
    started(fate, Duration::ZERO, patience).await
}

async fn started(fate: Fate, cold_start: Duration, patience: impl FnOnce(&mut Config)) -> Bed {
    let command = outboard_testbed::runpod::WorkerCommand {
        program: "sleep".into(),
        args: vec!["1000".into()],
        env: Vec::new(),
        log: None,
    };
    // Its own time limit must not come first.
    let endpoint = EndpointSettings { cold_start, ..EndpointSettings::new(ENDPOINT, Some(command)) };
    let bed = Bed::with(20.0, vec![endpoint], |config| {
        config.start_within = Duration::from_secs(86_400);
        patience(config);
    })
    .await;
    bed.runpod.set_fate(ENDPOINT, fate);
    bed
}

const SHORT: Duration = Duration::from_millis(300);

/// Drill: workers crash as they start; the queue alone would never tell.
#[tokio::test]
async fn each_cause_is_told_and_the_job_is_cancelled() {
    for (fate, kind, words) in [
        (Fate::CrashLoop, ErrorKind::WorkerUnhealthy, "its workers crash while they start"),
        (Fate::Throttled, ErrorKind::CapacityUnavailable, "its workers are throttled: their hosts have no GPU free"),
        (
            Fate::NoCapacity,
            ErrorKind::CapacityUnavailable,
            "it has no workers: none were given to it, or it may have none",
        ),
        // `sleep` never asks for a job.
        (Fate::Well, ErrorKind::WorkerUnhealthy, "its workers have been starting for too long"),
    ] {
        let bed = doomed(fate, |config| match fate {
            Fate::CrashLoop => config.crash_patience = SHORT,
            Fate::Throttled => config.throttled_patience = SHORT,
            Fate::NoCapacity => config.capacity_patience = SHORT,
            Fate::Well => config.cold_start_patience = SHORT,
        })
        .await;
        let id = bed.submit("k").await;
        assert!(matches!(bed.wait(&id, Revision(0)).await.unwrap().phase, Phase::Queued));
        let state = bed.end(&id).await;
        assert_eq!(state.usage.unwrap().billed, Some(Duration::ZERO), "no worker has had it: {fate:?}");
        let Phase::Failed(error) = state.phase else { panic!("{:?}", state.phase) };
        assert_eq!((error.kind(), error.retry()), (kind, Retry::Other), "{fate:?}");
        assert_eq!(error.to_string(), format!("the endpoint does not start the task: {words}"));
        assert!(error.advice().is_some() && error.report().contains("workers of the endpoint: "), "{}", error.report());
        assert_eq!(bed.runpod.live_jobs(ENDPOINT), 0, "it is cancelled: {fate:?}");
        assert_eq!((bed.runpod.executions(ENDPOINT), bed.runpod.seen("cancel").len()), (0, 1));
    }
}

#[tokio::test]
async fn health_says_what_stands_against_a_task() {
    let bed = doomed(Fate::CrashLoop, |_| {}).await;
    assert_eq!(bed.provider.health().await.unwrap(), Health::Ready, "scaled to zero is no reason");
    bed.submit("k").await;
    let why = loop {
        match bed.provider.health().await.unwrap() {
            Health::Ready => tokio::task::yield_now().await,
            Health::Unavailable(why) => break why,
        }
    };
    assert!(why.starts_with("endpoint ep1: its workers crash while they start; look at"), "{why}");
    bed.runpod.script("health", Trouble::reply(401, ""));
    let Health::Unavailable(why) = bed.provider.health().await.unwrap() else { panic!() };
    assert!(why.contains("RunPod refuses the key; set OUTBOARD_PROVIDERS__RUNPOD__API_KEY"), "{why}");
}

#[tokio::test]
async fn a_cancellation_that_is_not_confirmed_is_tried_again() {
    for is_lost in [false, true] {
        let bed = doomed(Fate::NoCapacity, |config| config.capacity_patience = SHORT).await;
        match is_lost {
            true => bed.runpod.weather(Weather::fair().then("POST /v2/ep1/cancel", Fault::LoseReply)),
            false => bed.runpod.script("cancel", Trouble::reply(500, "")),
        }
        let id = bed.submit("k").await;
        let error = bed.failure(&id).await;
        assert_eq!((error.kind(), error.retry()), (ErrorKind::CapacityUnavailable, Retry::Other), "{error:?}");
        // One whose reply was lost was heard.
        assert_eq!(bed.runpod.seen("cancel").len(), if is_lost { 1 } else { 2 });
        assert_eq!(bed.runpod.live_jobs(ENDPOINT), 0);
    }
}

#[tokio::test]
async fn a_start_is_told_from_a_wait_for_its_turn() {
    let bed = Bed::new(1.0, |_| {}).await;
    let id = bed.submit("cold").await;
    // Until it was seen that there is no worker.
    while bed.runpod.seen("health").is_empty() {
        bed.provider.wait(&id, Revision(1), Duration::from_millis(100)).await.unwrap();
    }
    bed.finish(&bed.take().await).await;
    let cold = bed.end(&id).await.usage.unwrap().timings;
    assert!(cold.boot > 0.0 && cold.queue == 0.0, "{cold:?}");
    let id = bed.submit("warm").await;
    bed.finish(&bed.take().await).await;
    assert_eq!(bed.end(&id).await.usage.unwrap().timings.boot, 0.0);
}

#[tokio::test]
async fn a_key_that_may_not_list_workers_is_asked_once() {
    let bed = doomed(Fate::Throttled, |config| config.throttled_patience = SHORT).await;
    bed.runpod.script("serverless", Trouble::reply(403, ""));
    let id = bed.submit("k").await;
    assert_eq!(bed.failure(&id).await.kind(), ErrorKind::CapacityUnavailable);
    assert_eq!(bed.runpod.seen("serverless").len(), 1);
    assert!(bed.runpod.seen("health").len() > 1);
}

#[tokio::test]
async fn a_task_whose_worker_is_gone_is_given_up() {
    let bed = Bed::new(1.0, |config| config.lost_patience = SHORT).await;
    let id = bed.submit("k").await;
    bed.take().await;
    // The worker says that it is unfit, and is never heard again; its job stays as it is.
    let url = bed.url("ping/w1?status=unhealthy&check=gpu&reason=x");
    bed.worker.get(url).header("authorization", KEY).send().await.unwrap();
    let error = bed.failure(&id).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::WorkerUnhealthy, Retry::Other));
    assert_eq!(error.to_string(), "the worker that ran the task is gone");
    assert_eq!(bed.runpod.live_jobs(ENDPOINT), 0);
}

/// RunPod bills the start, the execution and the idle tail of a worker; what is charged for a task covers them.
#[tokio::test]
async fn what_is_charged_covers_what_runpod_bills() {
    let cold_start = Duration::from_secs(10);
    let bed = started(Fate::Well, cold_start, |_| {}).await;
    let id = bed.submit("k").await;
    let worker = loop {
        if let Some(worker) = bed.workers().await.pop() {
            break worker;
        }
    };
    // It isn't ready before its container has started.
    while bed.runpod.bill(ENDPOINT).start < cold_start {
        bed.workers().await;
    }
    let job = bed.take_as(&worker).await;
    bed.finish_as(&worker, &job).await;
    let usage = bed.end(&id).await.usage.unwrap();
    while !bed.workers().await.is_empty() {}
    let bill = bed.runpod.bill(ENDPOINT);
    assert_eq!(bill.workers, 1);
    assert!(bill.start >= cold_start && bill.seconds >= 15, "{bill:?}");
    assert_eq!(bill.nano_usd, bill.seconds * 310_000);
    let tail = bed.config.idle_timeout;
    // Replies tell whole milliseconds.
    let rounding = Duration::from_millis(2);
    assert!(usage.billed.unwrap() + rounding >= bill.start + bill.execution + tail, "{usage:?} {bill:?}");
}

/// Clocks that differ change nothing: only RunPod's own says when its time to wait is over.
#[tokio::test]
async fn a_wrong_clock_does_not_change_the_time_to_wait() {
    let bed = Bed::new(1.0, |_| {}).await;
    bed.runpod.set_skew(-86_400);
    let headers = vec![("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT".to_string())];
    bed.runpod.script("run", Trouble::Reply { status: 429, headers, body: String::new() });
    let error = bed.provider.submit(&bed.task("k")).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Same { after: Some(Duration::ZERO) });
    let id = bed.submit("k").await;
    let job = bed.take().await;
    bed.finish(&job).await;
    bed.assert_finishes(&id).await;
}
