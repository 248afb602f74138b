//! Tasks on their way to a worker.

use super::*;
use crate::stand_in::{Entry, Fault};
use axum::http::Method;
use outboard_core::{
    ComputeProvider, ErrorKind, Retry,
    task::{Metrics, Outcome, Phase, Revision},
};
use outboard_protocol::{
    Envelope,
    envelope::{Ending, Failure, decode},
};

const UNKNOWN: Retry = Retry::Unknown { until: Duration::from_secs(600) };
const SAME: Retry = Retry::Same { after: None };

#[tokio::test]
async fn what_is_missing_is_sent_once_and_then_the_envelope() {
    let worker = StandIn::start().await;
    let client = Client::new(&[&worker.url]);
    let id = client.provider.submit(&task("job/1#2", 1)).await.unwrap();
    assert_eq!(id.0, format!("{}/v1/tasks/job%2F1%232", worker.url));

    let lines: Vec<_> = worker.seen("").into_iter().map(|seen| seen.line).collect();
    let (data, weights) = (Digest::of(DATA), Digest::of(WEIGHTS));
    let expected = [
        format!("HEAD /v1/blobs/{data}"),
        format!("PUT /v1/blobs/{data}"),
        format!("HEAD /v1/blobs/{weights}"),
        format!("PUT /v1/blobs/{weights}"),
        "POST /v1/tasks".into(),
    ];
    assert_eq!(lines, expected);
    for seen in worker.seen("") {
        assert_eq!(seen.headers["authorization"], format!("Bearer {TOKEN}"));
    }
    let puts = worker.seen("PUT");
    assert_eq!(puts[0].headers["content-encoding"], "zstd");
    assert!(puts[0].body.len() < DATA.len() / 10);
    assert_eq!((puts[1].headers.get("content-encoding"), &*puts[1].body), (None, WEIGHTS));
    assert_eq!(puts[1].headers["content-length"], "7");
    let post = &worker.seen("POST")[0];
    assert_eq!(post.headers["content-type"], "application/json");
    let envelope: Envelope = decode(&post.body).unwrap();
    assert_eq!((envelope.task, envelope.patience_seconds), (task("job/1#2", 1), 120.0));
    let left = Duration::from_millis(envelope.not_after - outboard_protocol::envelope::now());
    assert!(left > Duration::from_secs(500) && left <= Duration::from_secs(600));

    for epoch in 0..5 {
        let weights = client.store.write(format!("checkpoint {epoch}").as_bytes()).unwrap();
        client.provider.submit(&task_on(&format!("epoch {epoch}"), 1, data, weights)).await.unwrap();
    }
    assert_eq!(worker.seen(&format!("PUT /v1/blobs/{data}")).len(), 1, "the data cross once per worker, not per epoch");
    assert_eq!(worker.seen("PUT").len(), 2 + 5);
}

#[tokio::test]
async fn large_blobs_come_whole_and_damaged_ones_are_the_stores_fault() {
    let worker = StandIn::start().await;
    let client = Client::new(&[&worker.url]);
    let mut x = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 56) as u8
    })
    .take(1 << 20)
    .collect();
    let data = client.store.write(&noise).unwrap();
    client.provider.submit(&task_on("k", 1, data, Digest::of(WEIGHTS))).await.unwrap();
    let put = &worker.seen(&format!("PUT /v1/blobs/{data}"))[0];
    assert_eq!((put.headers.get("content-encoding"), put.body.len()), (None, 1 << 20));

    let larger = client.store.write(&[noise, vec![0]].concat()).unwrap();
    let error = client.provider.submit(&task_on("l", 1, larger, Digest::of(WEIGHTS))).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::PayloadTooLarge, Retry::Other));

    let damaged = client.store.write(b"damaged").unwrap();
    std::fs::write(client.store.path(&damaged), b"DAMAGED").unwrap();
    let error = client.provider.submit(&task_on("d", 1, damaged, Digest::of(WEIGHTS))).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::CorruptPayload, Retry::Never));
    let error = client.provider.submit(&task_on("m", 1, Digest::of(b"?"), damaged)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, Retry::Never));
    assert_eq!(worker.accepted(), ["k#1"]);
}

#[tokio::test]
async fn blobs_that_the_worker_lost_are_sent_again() {
    let worker = StandIn::start().await;
    let client = Client::new(&[&worker.url]);
    client.provider.submit(&task("a", 1)).await.unwrap();
    worker.inner().blobs.remove(&Digest::of(DATA));
    client.provider.submit(&task("b", 1)).await.unwrap();
    assert_eq!(worker.seen(&format!("PUT /v1/blobs/{}", Digest::of(DATA))).len(), 2);
    assert_eq!(worker.seen(&format!("PUT /v1/blobs/{}", Digest::of(WEIGHTS))).len(), 1);
    assert_eq!(worker.seen("POST").len(), 3);
}

#[tokio::test]
async fn the_same_attempt_runs_once_also_after_a_restart() {
    let workers = [StandIn::start().await, StandIn::start().await, StandIn::start().await];
    let client = Client::of(&workers);
    let task = task("k", 1);
    let (one, two) = tokio::join!(client.provider.submit(&task), client.provider.submit(&task));
    let id = one.unwrap();
    assert_eq!(two.unwrap(), id);
    for _ in 0..3 {
        assert_eq!(Client::of(&workers).provider.submit(&task).await.unwrap(), id);
    }
    assert_eq!(workers.iter().flat_map(StandIn::accepted).collect::<Vec<_>>(), ["k#1"]);

    let worker = workers.iter().find(|worker| id.0.starts_with(&worker.url)).unwrap();
    let metrics = Metrics { loss: 0.5, accuracy: None, rows: 3 };
    worker.push("k", Entry::Ended(Ending::Finished(Outcome::Evaluate(metrics))));
    assert_eq!(client.provider.submit(&super::task("k", 2)).await.unwrap(), id, "the key has an outcome");
    let state = client.provider.wait(&id, Revision(0), Duration::ZERO).await.unwrap();
    assert!(matches!(state.phase, Phase::Finished(Outcome::Evaluate(found)) if found == metrics));
}

#[tokio::test]
async fn another_attempt_goes_elsewhere_once_the_first_came_to_nothing() {
    let mut workers = vec![StandIn::start().await, StandIn::start().await];
    let client = Client::of(&workers);
    let id = client.provider.submit(&task("k", 1)).await.unwrap();
    let first = workers.iter().position(|worker| id.0.starts_with(&worker.url)).unwrap();
    let failure = Failure {
        kind: ErrorKind::Preempted,
        retry: SAME,
        message: "the worker was restarted while it ran the task".into(),
        context: vec![],
        hint: None,
    };
    workers[first].push("k", Entry::Ended(Ending::Failed(failure)));
    let state = client.provider.wait(&id, Revision(0), Duration::ZERO).await.unwrap();
    let Phase::Failed(error) = state.phase else { panic!("{state:?}") };
    assert_eq!((error.kind(), error.retry(), error.provider()), (ErrorKind::Preempted, SAME, Some("http")));
    assert_eq!(error.context(), [("worker".into(), workers[first].url.clone())]);
    drop(workers.remove(first));
    let id = client.provider.submit(&task("k", 2)).await.unwrap();
    assert!(id.0.starts_with(&workers[0].url));
}

#[tokio::test]
async fn a_lost_reply_is_no_failure() {
    for fault in [Fault::CutAfter, Fault::Reply(502, "x-from", "proxy")] {
        let worker = StandIn::start().await;
        let client = Client::new(&[&worker.url]);
        worker.fault(Method::POST, fault.clone());
        let first = client.provider.submit(&task("k", 1)).await;
        match fault {
            Fault::CutAfter => assert_eq!(first.unwrap().0, format!("{}/v1/tasks/k", worker.url)),
            // It was asked for, and wasn't there.
            _ => assert_eq!(first.unwrap_err().retry(), SAME),
        }
        client.provider.submit(&task("k", 1)).await.unwrap();
        assert_eq!(worker.accepted(), ["k#1"]);
        assert_eq!(worker.seen("GET /v1/tasks/k?seen=0&wait_ms=0").len(), 1);
    }
}

#[tokio::test]
async fn a_task_that_never_arrived_is_given_to_the_same_worker() {
    let workers = [StandIn::start().await, StandIn::start().await];
    let client = Client::of(&workers);
    workers[0].fault(Method::POST, Fault::CutBefore);
    workers[1].fault(Method::POST, Fault::CutBefore);
    let error = client.provider.submit(&task("k", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, SAME));
    let first = workers.iter().position(|worker| !worker.seen("PUT").is_empty()).unwrap();
    let id = client.provider.submit(&task("k", 1)).await.unwrap();
    assert!(id.0.starts_with(&workers[first].url));
}

#[tokio::test]
async fn a_worker_that_is_gone_with_a_task_leaves_it_unknown() {
    let worker = StandIn::start().await;
    let other = StandIn::start().await;
    let client = Client::new(&[&worker.url, &other.url]);
    other.inner().health.draining = true;
    client.provider.submit(&task("k", 1)).await.unwrap();
    other.inner().health.draining = false;
    drop(worker);
    tokio::task::yield_now().await;
    let error = client.provider.submit(&task("k", 1)).await.unwrap_err();
    assert_eq!(error.retry(), UNKNOWN, "{}", error.report());
    assert_eq!(other.accepted(), Vec::<String>::new());
    // What was never there may go elsewhere.
    assert!(client.provider.submit(&task("l", 1)).await.is_ok());
    assert_eq!(other.accepted(), ["l#1"]);
}

#[tokio::test]
async fn a_reply_and_a_question_without_answer_leave_it_unknown() {
    let worker = StandIn::start().await;
    let client = Client::new(&[&worker.url]);
    worker.fault(Method::POST, Fault::CutAfter);
    worker.fault(Method::GET, Fault::Hang);
    let error = client.provider.submit(&task("k", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, UNKNOWN));
    assert_eq!(worker.accepted(), ["k#1"]);
    assert!(client.provider.submit(&task("k", 1)).await.is_ok());
    assert_eq!(worker.accepted(), ["k#1"]);
}

#[tokio::test]
async fn refusals_are_told_as_they_are() {
    let worker = StandIn::start().await;
    let client = Client::new(&[&worker.url]);
    worker.fault(Method::POST, Fault::Reply(429, "retry-after", "7"));
    let error = client.provider.submit(&task("k", 1)).await.unwrap_err();
    let after = Some(Duration::from_secs(7));
    assert_eq!((error.kind(), error.retry()), (ErrorKind::RateLimited, Retry::Same { after }));
    assert_eq!((error.provider(), error.operation()), (Some("http"), Some("submit")));
    worker.fault(Method::POST, Fault::Reply(410, "x", "y"));
    let error = client.provider.submit(&task("k", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Other));
    // Another client doesn't know what the worker holds.
    let client = Client::new(&[&worker.url]);
    worker.inner().blobs.clear();
    worker.fault(Method::HEAD, Fault::Hang);
    let error = client.provider.submit(&task("k", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, SAME));
    worker.fault(Method::PUT, Fault::Hang);
    let error = client.provider.submit(&task("k", 1)).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Timeout, "the transfer stood still"));
    worker.fault(Method::HEAD, Fault::Reply(302, "location", "http://127.0.0.1:1/stolen"));
    let error = client.provider.submit(&task("k", 1)).await.unwrap_err();
    assert_eq!(error.to_string(), "the worker's address is redirected");
}
