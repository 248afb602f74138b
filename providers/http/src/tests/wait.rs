//! What comes back from a worker.

use super::*;
use crate::stand_in::{Entry, Fault};
use axum::http::Method;
use outboard_core::{
    ComputeProvider, ComputeProviderExt, ErrorKind, Event, Retry, TaskId,
    provider::{Cancelled, TaskSummary},
    task::{Checkpoint, Ended, Outcome, Phase, Revision},
};
use outboard_protocol::envelope::Ending;

const LONG: Duration = Duration::from_secs(20);

fn warning(text: &str) -> Event {
    Event::Warning { message: text.into() }
}

fn checkpoint(digest: Digest) -> Checkpoint {
    Checkpoint { digest, epoch: 1, step_in_epoch: 0 }
}

/// A worker with the task `k`, and its id.
async fn running() -> (StandIn, Client, TaskId) {
    let worker = StandIn::start().await;
    let client = Client::new(&[&worker.url]);
    let id = client.provider.submit(&task("k", 1)).await.unwrap();
    worker.push("k", Entry::Started);
    (worker, client, id)
}

#[tokio::test]
async fn news_come_at_once_and_strangers_are_told_all() {
    let (worker, client, id) = running().await;
    let state = client.provider.wait(&id, Revision(0), LONG).await.unwrap();
    assert!(matches!(state.phase, Phase::Running) && state.events.is_empty());
    let old = client.provider.wait(&id, state.revision, Duration::from_millis(20)).await.unwrap();
    assert_eq!((old.revision, old.events), (state.revision, vec![]));
    assert_eq!(worker.seen("GET /v1/tasks/k?seen=2&wait_ms=").len(), 1);

    let (news, ()) = tokio::join!(client.provider.wait(&id, state.revision, LONG), async {
        worker.push("k", Entry::Happened(warning("hot")));
    });
    let news = news.unwrap();
    assert_eq!(news.events, [warning("hot")]);
    for foreign in [Revision(0), Revision(1), Revision(99), Revision(u64::MAX)] {
        let state = client.provider.wait(&id, foreign, LONG).await.unwrap();
        assert_eq!((state.revision, state.events), (news.revision, vec![warning("hot")]), "{foreign:?}");
    }
}

#[tokio::test]
async fn checkpoints_are_here_before_their_event() {
    let (worker, client, id) = running().await;
    let first = worker.put(b"first");
    worker.push("k", Entry::Happened(Event::Checkpoint(checkpoint(first))));
    let state = client.provider.wait(&id, Revision(0), LONG).await.unwrap();
    assert_eq!(state.events, [Event::Checkpoint(checkpoint(first))]);
    assert!(client.holds(&first).await);

    let last = worker.put(b"last");
    let outcome = Outcome::Train { checkpoint: checkpoint(last), ended: Ended::Complete };
    worker.push("k", Entry::Ended(Ending::Finished(outcome.clone())));
    let state = client.provider.wait(&id, state.revision, LONG).await.unwrap();
    assert!(matches!(state.phase, Phase::Finished(found) if found == outcome));
    assert!(client.holds(&last).await);

    let outputs = worker.put(b"outputs");
    client.provider.submit(&task("p", 1)).await.unwrap();
    worker.push("p", Entry::Ended(Ending::Finished(Outcome::Predict { outputs })));
    let outcome = client.provider.run(&task("p", 1), std::future::pending(), drop).await.unwrap();
    assert_eq!(outcome, Outcome::Predict { outputs });
    assert!(client.holds(&outputs).await);
    assert_eq!(worker.seen("GET /v1/blobs").len(), 3);

    // What a worker made is not sent back to it.
    client.provider.submit(&task_on("next", 1, Digest::of(DATA), last)).await.unwrap();
    assert_eq!(worker.seen("PUT").len(), 2);
}

#[tokio::test]
async fn a_cut_transfer_goes_on_and_no_event_is_lost() {
    let (worker, client, id) = running().await;
    let digest = worker.put(&DATA[1..]);
    worker.push("k", Entry::Happened(warning("before")));
    worker.push("k", Entry::Happened(Event::Checkpoint(checkpoint(digest))));
    worker.fault_at(Method::GET, "/v1/blobs", Fault::Truncate(60_000));
    let error = client.provider.wait(&id, Revision(0), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Same { after: None }));
    assert!(!client.holds(&digest).await);
    let state = client.provider.wait(&id, Revision(0), LONG).await.unwrap();
    assert_eq!(state.events, [warning("before"), Event::Checkpoint(checkpoint(digest))]);
    assert_eq!(client.store.read(&digest).unwrap(), &DATA[1..]);
    let ranges: Vec<_> = worker.seen("GET /v1/blobs").iter().map(|seen| seen.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some("bytes=60000-".parse().unwrap())]);
}

#[tokio::test]
async fn wrong_bytes_never_reach_the_store() {
    let (worker, client, id) = running().await;
    let digest = worker.put(b"right");
    worker.push("k", Entry::Happened(Event::Checkpoint(checkpoint(digest))));
    worker.fault_at(Method::GET, "/v1/blobs", Fault::Body(b"wrong"));
    let error = client.provider.wait(&id, Revision(0), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::CorruptPayload, Retry::Same { after: None }));
    assert!(!client.holds(&digest).await);
    worker.fault_at(Method::GET, "/v1/blobs", Fault::Hang);
    let error = client.provider.wait(&id, Revision(0), LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    client.provider.wait(&id, Revision(0), LONG).await.unwrap();
    assert!(client.holds(&digest).await);

    // One that is gone was overtaken; but what a task came to must be there.
    let gone = checkpoint(Digest::of(b"gone"));
    worker.push("k", Entry::Happened(Event::Checkpoint(gone)));
    let state = client.provider.wait(&id, Revision(0), LONG).await.unwrap();
    assert_eq!(state.events, [Event::Checkpoint(checkpoint(digest))]);
    worker.push("k", Entry::Ended(Ending::Finished(Outcome::Train { checkpoint: gone, ended: Ended::Complete })));
    let error = client.provider.wait(&id, Revision(0), LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::WorkerUnhealthy, Retry::Other));
}

#[tokio::test]
async fn a_restarted_client_waits_and_cancels_by_the_id_alone() {
    let (worker, client, id) = running().await;
    drop(client);
    let client = Client::new(&[&nowhere(), &worker.url]);
    assert!(matches!(client.provider.wait(&id, Revision(0), LONG).await.unwrap().phase, Phase::Running));
    let listed = client.provider.list().await.unwrap();
    assert_eq!(listed, [TaskSummary { id: id.clone(), key: "k".into(), running: true }]);
    let still = Cancelled::StillBilled { until: Duration::from_secs(120) };
    assert_eq!(client.provider.cancel(&id).await.unwrap(), still, "the stand-in goes on with what runs");
    worker.push("k", Entry::Ended(Ending::Cancelled));
    for _ in 0..2 {
        assert_eq!(client.provider.cancel(&id).await.unwrap(), Cancelled::Stopped);
    }
    assert!(matches!(client.provider.wait(&id, Revision(0), LONG).await.unwrap().phase, Phase::Cancelled));
    assert_eq!(client.provider.list().await.unwrap(), []);
}

#[tokio::test]
async fn ids_of_others_lead_nowhere() {
    let (worker, client, _) = running().await;
    worker.inner().seen.clear();
    for id in ["k", "", &nowhere(), "TASKS", "TASKS/", "TASKS/k/../../health", "TASKS/..", "TASKS/k?x=1", "TASKS/k#f"] {
        let id = TaskId(id.replace("TASKS", &format!("{}/v1/tasks", worker.url)));
        assert_eq!(client.provider.wait(&id, Revision(0), LONG).await.unwrap_err().kind(), ErrorKind::NotFound, "{id}");
        assert_eq!(client.provider.cancel(&id).await.unwrap_err().kind(), ErrorKind::NotFound, "{id}");
    }
    assert!(worker.seen("").is_empty());
    let unknown = TaskId(format!("{}/v1/tasks/unknown", worker.url));
    assert_eq!(client.provider.wait(&unknown, Revision(0), LONG).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_worker_that_cannot_be_asked_has_not_failed() {
    let (worker, client, id) = running().await;
    worker.fault(Method::GET, Fault::Hang);
    let error = client.provider.wait(&id, Revision(0), Duration::ZERO).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Same { after: None }));
    worker.fault(Method::GET, Fault::Body(b"<html>"));
    let error = client.provider.wait(&id, Revision(0), Duration::ZERO).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::CorruptPayload, Retry::Same { after: None }));
    worker.fault(Method::GET, Fault::CutAfter);
    let error = client.provider.wait(&id, Revision(0), Duration::ZERO).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Same { after: None }));
    assert!(client.provider.wait(&id, Revision(0), Duration::ZERO).await.is_ok());
}
