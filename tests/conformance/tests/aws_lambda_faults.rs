//! What may go wrong with a Lambda function, in AWS's emulator and in serverless-offline.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use outboard_aws_lambda::AwsLambdaProvider;
use outboard_core::{
    ComputeProvider, ErrorKind, Event, Layer, NanoUsd, Retry, Task, layer,
    provider::Cancelled,
    task::{Architecture, Ended, Operation, Outcome, Phase, PredictTask, Revision},
};
use outboard_protocol::{
    Checkpoint, Envelope, InlineReply, InlineRequest, Position,
    envelope::{Ending, encode},
    initial,
};
use outboard_testbed::lambda::{Emulator, FUNCTION, offline_name};

mod lambda;

use lambda::{
    LambdaFixture, OF_AWS, TIMEOUT, config, emulator, failure,
    remote::{Home, end, jobs, named, s3},
};

/// Names the folder into which npm has installed serverless-offline; `cargo xtask test --all` sets it.
const SERVERLESS: &str = "TEST_SERVERLESS_OFFLINE";

/// Drill: the function's process dies in the middle of a task; the next invocation starts another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_dies_is_told_and_the_next_task_runs() {
    let test = "a_function_that_dies_is_told_and_the_next_task_runs";
    let Some(program) = emulator(test, OF_AWS) else { return };
    // As the system does where the memory is used up, and as an abort does.
    for (signal, kind) in [("KILL", ErrorKind::OutOfMemory), ("ABRT", ErrorKind::WorkerUnhealthy)] {
        let fixture = LambdaFixture::of_aws(program.clone(), None, TIMEOUT).await;
        let provider = fixture.bare();
        let id = provider.submit(&fixture.home.endless()).await.unwrap();
        jobs::signal(fixture.process().await, signal);
        let error = failure(&provider, &id).await;
        assert_eq!((error.kind(), error.retry()), (kind, Retry::Other), "{signal}: {error:?}");
        assert_eq!(error.is_death(), signal == "ABRT", "{error:?}");
        let next = provider.submit(&fixture.home.short("next")).await.unwrap();
        assert!(matches!(end(&provider, &next).await.phase, Phase::Finished(_)));
    }
}

/// Drill: with a bucket, what a dead function had stored is there, and the task goes on from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_dies_leaves_its_checkpoint_in_the_bucket() {
    let test = "a_function_that_dies_leaves_its_checkpoint_in_the_bucket";
    let Some(program) = emulator(test, OF_AWS) else { return };
    let Some(server) = s3::server(test) else { return };
    let fixture = LambdaFixture::of_aws(program, Some(server), TIMEOUT).await;
    let provider = fixture.bare();
    let mut task = fixture.home.endless();
    let Operation::Train(train) = &mut task.operation else { panic!() };
    train.checkpoint_every = Duration::from_millis(1);
    let id = provider.submit(&task).await.unwrap();
    let (mut seen, mut last) = (Revision::default(), None);
    while last.is_none() {
        let state = provider.wait(&id, seen, jobs::DEADLINE).await.unwrap();
        assert!(!state.phase.is_final(), "{state:?}");
        seen = state.revision;
        last = state.events.iter().rev().find_map(|event| match event {
            Event::Checkpoint(checkpoint) => Some(*checkpoint),
            _ => None,
        });
    }
    jobs::signal(fixture.process().await, "KILL");
    assert_eq!(failure(&provider, &id).await.kind(), ErrorKind::OutOfMemory);
    assert!(fixture.home.store.read(&last.unwrap().digest).is_ok());
}

/// Drill: the function's time-out is shorter than the client believes. The worker knows it, and leaves its checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_stops_before_the_functions_own_deadline() {
    let test = "a_task_stops_before_the_functions_own_deadline";
    let Some(program) = emulator(test, OF_AWS) else { return };
    let fixture = LambdaFixture::of_aws(program, None, Duration::from_secs(4)).await;
    let provider = fixture.bare();
    let id = provider.submit(&fixture.home.endless()).await.unwrap();
    let phase = end(&provider, &id).await.phase;
    let Phase::Finished(Outcome::Train { checkpoint, ended: Ended::Limit }) = phase else { panic!("{phase:?}") };
    assert!(fixture.home.store.read(&checkpoint.digest).is_ok());
}

/// Drill: a function that hangs as a whole is ended at its time-out.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_hangs_times_out() {
    let Some(program) = emulator("a_function_that_hangs_times_out", OF_AWS) else { return };
    let fixture = LambdaFixture::of_aws(program, None, Duration::from_secs(3)).await;
    let provider = fixture.bare();
    let id = provider.submit(&fixture.home.endless()).await.unwrap();
    assert!(matches!(provider.cancel(&id).await.unwrap(), Cancelled::StillBilled { until } if !until.is_zero()));
    jobs::signal(fixture.process().await, "STOP");
    let state = end(&provider, &id).await;
    assert!(state.usage.unwrap().billed.unwrap() >= Duration::from_secs(1));
    let Phase::Failed(error) = state.phase else { panic!("{:?}", state.phase) };
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Other), "{error:?}");
    assert_eq!(error.to_string(), "the function was ended at its time-out");
}

/// Drill: the reply is lost. Without a store nobody knows what became of the task, and it isn't invoked again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_without_a_store_is_unknown_and_stays_so() {
    let test = "a_lost_reply_without_a_store_is_unknown_and_stays_so";
    let Some(program) = emulator(test, OF_AWS) else { return };
    let fixture = LambdaFixture::of_aws(program, None, TIMEOUT).await;
    fixture.loses_a_reply();
    let provider = fixture.bare();
    let task = fixture.home.short("k");
    let id = provider.submit(&task).await.unwrap();
    for _ in 0..2 {
        let error = provider.wait(&id, Revision::default(), jobs::DEADLINE).await.unwrap_err();
        assert!(matches!(error.retry(), Retry::Unknown { until } if !until.is_zero()), "{error:?}");
        assert_eq!(error.to_string(), "the connection to Lambda was cut");
        assert_eq!(provider.submit(&task).await.unwrap(), id);
    }
    assert!(matches!(provider.cancel(&id).await.unwrap(), Cancelled::StillBilled { .. }));
    assert_eq!(fixture.proxy.exchanges(), 1);
    let price = provider.price().await.unwrap();
    assert!(price.worst(TIMEOUT) > NanoUsd::ZERO);
}

/// Drill: the client dies after it has handed a task over. With a bucket the next one finds the result by the key.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_client_finds_its_result_by_the_key() {
    let test = "a_dead_client_finds_its_result_by_the_key";
    let Some(program) = emulator(test, OF_AWS) else { return };
    let Some(server) = s3::server(test) else { return };
    let fixture = LambdaFixture::of_aws(program, Some(server), TIMEOUT).await;
    let task = fixture.home.short("k");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let provider = fixture.bare();
    let id = {
        let task = task.clone();
        runtime.spawn(async move { provider.submit(&task).await.unwrap() }).await.unwrap()
    };
    // With its requests.
    runtime.shutdown_background();
    let next = fixture.bare();
    assert_eq!(next.submit(&task).await.unwrap(), id);
    let (expected, bytes) = jobs::Job::short().directly();
    let state = end(&next, &id).await;
    assert!(matches!(&state.phase, Phase::Finished(outcome) if *outcome == expected), "{state:?}");
    assert_eq!(fixture.home.store.read(&expected.blob().unwrap()).unwrap(), bytes);
    let usage = state.usage.unwrap();
    assert!(usage.billed.unwrap() >= usage.timings.running());
}

/// Outputs that no reply can carry.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_too_large_is_told() {
    let Some(program) = emulator("a_result_that_is_too_large_is_told", OF_AWS) else { return };
    let fixture = LambdaFixture::of_aws(program, None, TIMEOUT).await;
    let model = Architecture { layers: vec![Layer::Linear { out: 128, bias: true }], input: vec![32] };
    let plan = layer::plan(&model.layers, &model.input).unwrap();
    let tensors = initial::weights(&plan, 7).into_iter().map(|(name, t)| (format!("model.{name}"), t)).collect();
    let weights = Checkpoint { position: Position::start("job", 7), tensors }.encode().unwrap();
    let data = jobs::Job { epochs: 1, rows: 20_000 }.data();
    let (data, weights) = (fixture.home.store.write(&data).unwrap(), fixture.home.store.write(&weights).unwrap());
    let operation = Operation::Predict(PredictTask { model, weights, data });
    let task = Task { key: "k".into(), job: "j".into(), attempt: "k#1".into(), operation, limit: None };
    let provider = fixture.bare();
    let id = provider.submit(&task).await.unwrap();
    let error = failure(&provider, &id).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::PayloadTooLarge, Retry::Other), "{error:?}");
    assert!(error.advice().unwrap().contains("[store] url"));

    // And a request that none can carry is refused before it is sent.
    let noise = s3::noise(5_000_000, 1);
    let data = fixture.home.store.write(&noise).unwrap();
    let Operation::Predict(predict) = task.operation else { panic!() };
    let operation = Operation::Predict(PredictTask { data, ..predict });
    let large = Task { key: "l".into(), attempt: "l#1".into(), operation, ..task };
    let before = fixture.proxy.exchanges();
    let error = provider.submit(&large).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::PayloadTooLarge, Retry::Other), "{error:?}");
    assert_eq!(fixture.proxy.exchanges(), before);
}

/// What the function says to a request that isn't whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_request_is_refused_and_the_next_one_runs() {
    let test = "a_truncated_request_is_refused_and_the_next_one_runs";
    let Some(program) = emulator(test, OF_AWS) else { return };
    let fixture = LambdaFixture::of_aws(program, None, TIMEOUT).await;
    let request = InlineRequest { envelope: Envelope::new(fixture.home.short("k"), TIMEOUT, TIMEOUT), blobs: vec![] };
    let mut body = encode(&request).unwrap();
    body.truncate(body.len() / 2);
    let said = String::from_utf8(invoke(&fixture, body).await).unwrap();
    assert!(said.contains("DeserializeError") && said.contains("EOF"), "{said}");
    let provider = fixture.bare();
    let id = provider.submit(&fixture.home.short("l")).await.unwrap();
    assert!(matches!(end(&provider, &id).await.phase, Phase::Finished(_)));
}

/// URLs whose time is over, though the envelope says otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn expired_urls_are_a_failure_that_says_so() {
    let test = "expired_urls_are_a_failure_that_says_so";
    let Some(program) = emulator(test, OF_AWS) else { return };
    let Some(server) = s3::server(test) else { return };
    let bucket = server.bucket();
    let fixture = LambdaFixture::of_aws(program, Some(server), TIMEOUT).await;
    let task = fixture.home.short("k");
    let needs = task.operation.needs();
    for digest in &needs {
        bucket.upload(digest, &fixture.home.store).await.unwrap();
    }
    let mut grant = bucket.grant("k", &needs, 1, Duration::from_secs(1)).await.unwrap();
    let over = grant.until + 1500;
    grant.until += 600_000;
    while outboard_protocol::envelope::now() < over {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let envelope = Envelope { store: Some(grant), ..Envelope::new(task, TIMEOUT, TIMEOUT) };
    let body = encode(&InlineRequest { envelope, blobs: vec![] }).unwrap();
    let reply: InlineReply = serde_json::from_slice(&invoke(&fixture, body).await).unwrap();
    let Ending::Failed(failure) = reply.result.ended else { panic!("{reply:?}") };
    assert_ne!(failure.retry, Retry::Never);
    assert!(matches!(failure.kind, ErrorKind::Unauthenticated | ErrorKind::Timeout), "{failure:?}");
    assert_eq!(bucket.holder("k").await.unwrap(), None);
}

/// Invokes the function by hand.
async fn invoke(fixture: &LambdaFixture, body: Vec<u8>) -> Vec<u8> {
    let client = outboard_store::transport::client(true).build().unwrap();
    let url = format!("{}/2015-03-31/functions/{FUNCTION}/invocations", fixture.lambda.url());
    client.post(url).body(body).send().await.unwrap().bytes().await.unwrap().to_vec()
}

/// What Lambda itself says in a header: a function failed, behind a success.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_failed_is_told_by_the_header() {
    let test = "a_function_that_failed_is_told_by_the_header";
    let Some(installed) = named(test, SERVERLESS, "--all") else { return };
    let home = Home::new(None);
    let task = home.short("k");
    let handlers = "exports.throws = async () => { throw new TypeError('no such layer') };\n\
                    exports.hangs = () => new Promise(() => {});\n\
                    exports.answers = async () => ({ ok: true });\n";
    let names = ["throws", "hangs", "answers"];
    let lambda = Emulator::of_serverless(&installed, home.folder.path(), handlers, &names, Duration::from_secs(5));
    let lambda = lambda.unwrap();
    let provider = |function: &str| {
        let config = config(&offline_name(function), lambda.url());
        AwsLambdaProvider::new(&config, home.store.clone(), None).unwrap()
    };
    for (name, message, told) in [
        ("throws", "the function failed", "reply: no such layer"),
        ("hangs", "the function failed", "Lambda timeout"),
        ("answers", "the function's reply isn't that of an Outboard worker", "reply: {\"ok\":true}"),
    ] {
        let provider = provider(name);
        let id = provider.submit(&task).await.unwrap();
        let error = failure(&provider, &id).await;
        assert_eq!((error.kind(), error.retry()), (ErrorKind::WorkerUnhealthy, Retry::Other), "{name}: {error:?}");
        assert_eq!(error.to_string(), message, "{name}");
        assert!(error.report().contains(told), "{name}: {}", error.report());
    }
    let error = provider("missing").submit(&task).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::NotFound, Retry::Other), "{error:?}");
}
