//! Several workers, and what they say of themselves.

use super::*;
use crate::stand_in::Fault;
use axum::http::Method;
use outboard_core::{ComputeProvider, Error, ErrorKind, NanoUsd, Retry, TaskId, provider::Health, task::Revision};

fn reason(health: Health) -> String {
    match health {
        Health::Unavailable(reason) => reason,
        Health::Ready => panic!("it is ready"),
    }
}

#[tokio::test]
async fn one_ready_worker_is_enough_and_else_each_says_why_not() {
    let workers = [StandIn::start().await, StandIn::start().await];
    let client = Client::of(&workers);
    workers[0].inner().health.draining = true;
    assert_eq!(client.provider.health().await.unwrap(), Health::Ready);
    (workers[1].inner().health.running, workers[1].inner().health.queued) = (2, 2);
    let [a, b] = [&workers[0].url, &workers[1].url];
    assert_eq!(
        reason(client.provider.health().await.unwrap()),
        format!(
            "{a}: the worker is shutting down; start it again\n\
             {b}: the worker has 4 tasks, and takes no more; wait, or add a worker"
        )
    );
    workers[0].fault(Method::GET, Fault::Hang);
    workers[1].inner().health.protocol = 9;
    let why = reason(client.provider.health().await.unwrap());
    assert!(why.contains("did not answer in time") && why.contains("version 9"), "{why}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_in_words() {
    let worker = StandIn::start().await;
    let nowhere = nowhere();
    let https = worker.url.replace("http", "https");
    for (url, words, retry) in [
        (&nowhere, "nothing listens at the worker's address", Retry::Same { after: None }),
        (&https, "the worker can't be reached safely", Retry::Other),
    ] {
        let client = Client::new(&[url]);
        let error = client.provider.submit(&task("k", 1)).await.unwrap_err();
        assert!(error.to_string().starts_with(words), "{}", error.report());
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, retry));
        assert!(reason(client.provider.health().await.unwrap()).contains(words));
        assert_eq!(client.provider.list().await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn a_worker_that_does_not_answer_is_passed_over() {
    let worker = StandIn::start().await;
    let client = Client::new(&[&nowhere(), &worker.url]);
    for key in ["a", "b", "c"] {
        client.provider.submit(&task(key, 1)).await.unwrap();
    }
    assert_eq!(worker.accepted().len(), 3);
    worker.inner().health.layers.clear();
    let error = client.provider.submit(&task("d", 1)).await.unwrap_err();
    assert_eq!(error.to_string(), "nothing listens at the worker's address", "that may pass");
    assert!(error.report().contains("the worker does not know the layer `relu`"), "{}", error.report());
}

#[tokio::test]
async fn the_holder_of_the_blobs_comes_first_unless_the_task_would_wait_there() {
    let workers = [StandIn::start().await, StandIn::start().await, StandIn::start().await];
    workers[1].put(DATA);
    let client = Client::of(&workers);
    for key in ["a", "b", "c", "d"] {
        let id = client.provider.submit(&task(key, 1)).await.unwrap();
        assert!(id.0.starts_with(&workers[1].url), "{key}");
    }
    workers[1].inner().health.running = 2;
    workers[0].inner().health.running = 1;
    let id = client.provider.submit(&task("e", 1)).await.unwrap();
    assert!(id.0.starts_with(&workers[2].url));
    let puts: Vec<_> = workers.iter().map(|worker| worker.seen("PUT").len()).collect();
    assert_eq!(puts, [0, 1, 2]);
}

#[tokio::test]
async fn equals_take_turns() {
    let workers = [StandIn::start().await, StandIn::start().await];
    for worker in &workers {
        worker.put(DATA);
        worker.put(WEIGHTS);
    }
    let client = Client::of(&workers);
    for key in 0..6 {
        client.provider.submit(&task(&key.to_string(), 1)).await.unwrap();
    }
    assert_eq!(workers.each_ref().map(|worker| worker.accepted().len()), [3, 3]);
}

#[tokio::test]
async fn capabilities_are_learned_once_all_workers_spoke() {
    let workers = [StandIn::start().await, StandIn::start().await];
    let client = Client::of(&workers);
    let stated = client.provider.capabilities().clone();
    assert_eq!(
        (&stated.layers[..], stated.max_concurrent_tasks),
        (&outboard_engine::LAYERS.map(String::from)[..], None)
    );
    workers[1].inner().health.layers.push("conv2d".into());
    workers[0].fault(Method::GET, Fault::Reply(503, "x", "y"));
    client.provider.health().await.unwrap();
    assert_eq!(client.provider.capabilities(), &stated);
    client.provider.health().await.unwrap();
    let learned = client.provider.capabilities();
    assert_eq!((&learned.layers[..], learned.max_concurrent_tasks), (&["relu".into(), "conv2d".into()][..], Some(4)));
}

#[tokio::test]
async fn replies_are_bounded() {
    static LARGE: [u8; 17 << 20] = [b' '; 17 << 20];
    let worker = StandIn::start().await;
    let client = Client::new(&[&worker.url]);
    worker.fault(Method::GET, Fault::Body(&LARGE));
    assert!(reason(client.provider.health().await.unwrap()).contains("larger than"));
}

#[tokio::test]
async fn secrets_are_nowhere() {
    let worker = StandIn::start().await;
    let client = Client::with_token(&[&worker.url], "hunter2");
    let mut texts = vec![format!("{:?}", client.provider), reason(client.provider.health().await.unwrap())];
    let id = TaskId(format!("{}/v1/tasks/k", worker.url));
    let errors: Vec<Error> = vec![
        client.provider.submit(&task("k", 1)).await.unwrap_err(),
        client.provider.wait(&id, Revision(0), Duration::ZERO).await.unwrap_err(),
        client.provider.cancel(&id).await.unwrap_err(),
        client.provider.list().await.unwrap_err(),
    ];
    for error in errors {
        // A reply to HEAD has no words.
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unauthenticated, Retry::Other));
        texts.extend([error.report(), format!("{error:?}")]);
    }
    for text in texts {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn an_hour_costs_what_the_user_says() {
    let folder = tempfile::tempdir().unwrap();
    let worker = WorkerConfig { url: "http://[::1]:9".into(), token: Some("t".into()), ..WorkerConfig::default() };
    let price = async |usd_per_hour| {
        let config = Config { workers: vec![worker.clone()], usd_per_hour, ..Config::default() };
        HttpProvider::new(&config, FolderStore::open(folder.path()).unwrap()).unwrap().price().await.unwrap()
    };
    assert_eq!(price(NanoUsd(360)).await.cost(Duration::from_secs(100)), NanoUsd(10));
    assert_eq!(price(NanoUsd::ZERO).await.source, "your own machine");
}
