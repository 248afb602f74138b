//! The suite over the `aws-lambda` provider: our worker as a function in the emulators of AWS and of cargo-lambda, with a
//! bucket and without; and what may go wrong there.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use outboard_aws_lambda::{AwsLambdaProvider, Config};
use outboard_conformance::{Fixture, Possible, run_all};
use outboard_core::{
    ComputeProvider, ComputeProviderExt, Digest, Error, ErrorKind, Event, Layer, NanoUsd, Retry, Task, TaskId, layer,
    provider::Cancelled,
    task::{Architecture, Ended, Operation, Outcome, Phase, PredictTask, Revision, TaskState},
};
use outboard_protocol::{
    Checkpoint, Envelope, InlineReply, InlineRequest, Position,
    envelope::{Ending, encode},
    initial,
};
use outboard_store::{Bucket, FolderStore};
use outboard_testbed::{
    Fault, Proxy, Weather,
    lambda::{Emulator, FUNCTION, Function},
};
use outboard_wrappers::standard;
use tempfile::TempDir;

#[path = "../../../crates/store/tests/common/mod.rs"]
mod s3;

#[path = "../../../crates/worker/tests/common/mod.rs"]
mod jobs;

/// Name the emulators; `cargo xtask test aws` sets them.
const OF_AWS: &str = "OUTBOARD_LAMBDA_RIE";
const OF_CARGO: &str = "OUTBOARD_CARGO_LAMBDA";

const SECRET: &str = "s3cret";
/// The function's time-out, where none of the tests' own matters.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Nothing cancels an invocation, so that no task stays live for sure: the cases that need that don't apply.
const PASSED: usize = 26;
/// Without a bucket a restarted client and a lost reply are out of reach too.
const PASSED_INLINE: usize = 24;

fn emulator(test: &str, variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        println!("skipped: {test}: {variable} is not set; `cargo xtask test aws` sets it");
    }
    program
}

fn function(folder: &TempDir, timeout: Duration) -> Function {
    let place = folder.path().join("function");
    fs::create_dir_all(&place).unwrap();
    Function { program: env!("CARGO_BIN_EXE_conformance-bootstrap").into(), folder: place, timeout, env: Vec::new() }
}

struct LambdaFixture {
    lambda: Emulator,
    proxy: Proxy,
    server: Option<s3::Server>,
    store: FolderStore,
    machines: u32,
    folder: TempDir,
}

impl LambdaFixture {
    async fn of_aws(program: PathBuf, server: Option<s3::Server>, timeout: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lambda = Emulator::of_aws(&program, &function(&folder, timeout)).unwrap();
        Self::new(lambda, server, folder, 1).await
    }

    async fn of_cargo(program: PathBuf, server: Option<s3::Server>, machines: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lambda = Emulator::of_cargo(&program, &function(&folder, TIMEOUT), machines).unwrap();
        Self::new(lambda, server, folder, machines).await
    }

    async fn new(lambda: Emulator, server: Option<s3::Server>, folder: TempDir, machines: u32) -> Self {
        let proxy = Proxy::start(lambda.address(), Weather::fair()).await.unwrap();
        let store = FolderStore::open(&folder.path().join("client")).unwrap();
        Self { lambda, proxy, server, store, machines, folder }
    }

    fn config(&self) -> Config {
        Config {
            enabled: true,
            region: Some("us-east-1".into()),
            access_key_id: Some("AKIDEXAMPLE".into()),
            secret_access_key: Some(SECRET.into()),
            function: FUNCTION.into(),
            qualifier: String::new(),
            endpoint_url: Some(format!("http://{}", self.proxy.address())),
            concurrency: self.machines,
            timeout: TIMEOUT,
            ..Config::default()
        }
    }

    fn bare(&self) -> AwsLambdaProvider {
        let bucket = self.server.as_ref().map(|server| Bucket::open(&server.config()).unwrap());
        AwsLambdaProvider::new(&self.config(), self.store.clone(), bucket).unwrap()
    }

    fn client(&self) -> Arc<dyn ComputeProvider> {
        standard(Arc::new(self.bare()), &outboard_wrappers::Settings::default())
    }

    fn loses_a_reply(&self) {
        self.proxy.set(Weather::fair().then("POST /2015-03-31/functions/", Fault::LoseReply));
    }

    /// The process that runs the function, once it does.
    async fn process(&self) -> u32 {
        loop {
            if let Some(id) = self.lambda.processes().pop() {
                return id;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The end of a task that must fail.
    async fn failure(&self, provider: &dyn ComputeProvider, id: &TaskId) -> Error {
        match end(provider, id).await.phase {
            Phase::Failed(error) => error,
            other => panic!("{other:?}"),
        }
    }
}

async fn end(provider: &dyn ComputeProvider, id: &TaskId) -> TaskState {
    provider.follow(id, std::future::pending(), drop).await.unwrap()
}

/// A task that ends only when something ends it.
fn endless(store: &FolderStore) -> Task {
    let job = jobs::Job::endless();
    job.prepare(store);
    job.envelope("endless").task
}

fn short(store: &FolderStore, key: &str) -> Task {
    let job = jobs::Job::short();
    job.prepare(store);
    job.envelope(key).task
}

#[async_trait]
impl Fixture for LambdaFixture {
    async fn provider(&self) -> Arc<dyn ComputeProvider> {
        self.client()
    }

    fn store(&self) -> &FolderStore {
        &self.store
    }

    fn numerics(&self) -> String {
        outboard_engine::numerics::class().into()
    }

    fn secrets(&self) -> Vec<String> {
        vec![SECRET.into()]
    }

    fn remembers_tasks(&self) -> Possible<()> {
        self.server.as_ref().map(drop).ok_or("without a store a restarted client doesn't know what it handed over")
    }

    fn corrupt(&self, blob: &Digest) -> Possible<()> {
        fs::write(self.folder.path().join("client/blobs").join(blob.to_string()), "damaged").unwrap();
        Ok(())
    }

    async fn losing_a_reply(&self) -> Possible<Arc<dyn ComputeProvider>> {
        if self.server.is_none() {
            return Err("without a store nobody finds what was lost");
        }
        self.loses_a_reply();
        Ok(self.client())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_bucket() {
    let Some(program) = emulator("with_a_bucket", OF_AWS) else { return };
    let Some(server) = s3::server("with_a_bucket") else { return };
    run_all(&LambdaFixture::of_aws(program, Some(server), TIMEOUT).await).await.assert_passed(PASSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store() {
    let Some(program) = emulator("without_a_store", OF_AWS) else { return };
    run_all(&LambdaFixture::of_aws(program, None, TIMEOUT).await).await.assert_passed(PASSED_INLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_several_machines() {
    let Some(program) = emulator("with_several_machines", OF_CARGO) else { return };
    let Some(server) = s3::server("with_several_machines") else { return };
    run_all(&LambdaFixture::of_cargo(program, Some(server), 2).await).await.assert_passed(PASSED);
}

/// Drill: the function's process dies in the middle of a task; the next invocation starts another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_dies_is_told_and_the_next_task_runs() {
    let test = "a_function_that_dies_is_told_and_the_next_task_runs";
    let Some(program) = emulator(test, OF_AWS) else { return };
    // As the system does where the memory is used up, and as an abort does.
    for (signal, kind) in [("KILL", ErrorKind::OutOfMemory), ("ABRT", ErrorKind::WorkerUnhealthy)] {
        let fixture = LambdaFixture::of_aws(program.clone(), None, TIMEOUT).await;
        let provider = fixture.bare();
        let id = provider.submit(&endless(&fixture.store)).await.unwrap();
        jobs::signal(fixture.process().await, signal);
        let error = fixture.failure(&provider, &id).await;
        assert_eq!((error.kind(), error.retry()), (kind, Retry::Other), "{signal}: {error:?}");
        assert_eq!(error.is_death(), signal == "ABRT", "{error:?}");
        let next = provider.submit(&short(&fixture.store, "next")).await.unwrap();
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
    let mut task = endless(&fixture.store);
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
    assert_eq!(fixture.failure(&provider, &id).await.kind(), ErrorKind::OutOfMemory);
    assert!(fixture.store.read(&last.unwrap().digest).is_ok());
}

/// Drill: the function's time-out is shorter than the client believes. The worker knows it, and leaves its checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_stops_before_the_functions_own_deadline() {
    let test = "a_task_stops_before_the_functions_own_deadline";
    let Some(program) = emulator(test, OF_AWS) else { return };
    let fixture = LambdaFixture::of_aws(program, None, Duration::from_secs(4)).await;
    let provider = fixture.bare();
    let id = provider.submit(&endless(&fixture.store)).await.unwrap();
    let phase = end(&provider, &id).await.phase;
    let Phase::Finished(Outcome::Train { checkpoint, ended: Ended::Limit }) = phase else { panic!("{phase:?}") };
    assert!(fixture.store.read(&checkpoint.digest).is_ok());
}

/// Drill: a function that hangs as a whole is ended at its time-out.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_hangs_times_out() {
    let Some(program) = emulator("a_function_that_hangs_times_out", OF_AWS) else { return };
    let fixture = LambdaFixture::of_aws(program, None, Duration::from_secs(3)).await;
    let provider = fixture.bare();
    let id = provider.submit(&endless(&fixture.store)).await.unwrap();
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
    let task = short(&fixture.store, "k");
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
    let task = short(&fixture.store, "k");
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
    assert_eq!(fixture.store.read(&expected.blob().unwrap()).unwrap(), bytes);
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
    let (data, weights) = (fixture.store.write(&data).unwrap(), fixture.store.write(&weights).unwrap());
    let operation = Operation::Predict(PredictTask { model, weights, data });
    let task = Task { key: "k".into(), job: "j".into(), attempt: "k#1".into(), operation, limit: None };
    let provider = fixture.bare();
    let id = provider.submit(&task).await.unwrap();
    let error = fixture.failure(&provider, &id).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::PayloadTooLarge, Retry::Other), "{error:?}");
    assert!(error.advice().unwrap().contains("[store] url"));

    // And a request that none can carry is refused before it is sent.
    let noise = s3::noise(5_000_000, 1);
    let data = fixture.store.write(&noise).unwrap();
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
    let request =
        InlineRequest { envelope: Envelope::new(short(&fixture.store, "k"), TIMEOUT, TIMEOUT), blobs: vec![] };
    let mut body = encode(&request).unwrap();
    body.truncate(body.len() / 2);
    let said = String::from_utf8(invoke(&fixture, body).await).unwrap();
    assert!(said.contains("DeserializeError") && said.contains("EOF"), "{said}");
    let provider = fixture.bare();
    let id = provider.submit(&short(&fixture.store, "l")).await.unwrap();
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
    let task = short(&fixture.store, "k");
    let needs = task.operation.needs();
    for digest in &needs {
        bucket.upload(digest, &fixture.store).await.unwrap();
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
