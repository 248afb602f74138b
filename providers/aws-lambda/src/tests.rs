//! The provider against a stand-in that says what no emulator says: throttling, and logs.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use outboard_core::{
    ComputeProvider, ComputeProviderExt, Error, ErrorKind, Layer, Retry, Task, TaskId, code,
    finding::{Findings, Verdict},
    job::Loss,
    provider::{Cancelled, Health},
    task::{Architecture, EvaluateTask, Metrics, Operation, Outcome, Phase, Revision, TaskState, Timings},
};
use outboard_protocol::{InlineReply, InlineRequest, PROTOCOL_VERSION, TaskResult, envelope::Ending};
use outboard_store::FolderStore;
use tokio::{net::TcpListener, sync::Notify};

use crate::{AwsLambdaProvider, Config, examine};

const METRICS: Metrics = Metrics { loss: 0.5, accuracy: None, rows: 3 };
/// No test takes that long, unless something hangs.
const LONG: Duration = Duration::from_secs(60);

/// What the next invocation meets.
#[derive(Clone)]
enum Trouble {
    /// 429 with this reason, and perhaps a time to wait.
    Throttle(&'static str, Option<u64>),
    /// Another refusal.
    Refuse(u16, &'static str),
    /// A success that brings this body, with the header of a function's error.
    FunctionError(&'static str),
    /// As the last, without the header.
    Body(&'static str),
}

#[derive(Default)]
struct Stub {
    troubles: Mutex<VecDeque<Trouble>>,
    requests: AtomicUsize,
    probes: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    /// Invocations at the same time; more are throttled.
    limit: usize,
    /// Invocations wait for it, where they are held.
    release: Option<Notify>,
}

async fn invoke(State(stub): State<Arc<Stub>>, headers: HeaderMap, body: Bytes) -> Response {
    let authorization = headers["authorization"].to_str().unwrap();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{authorization}");
    if headers["x-amz-invocation-type"] == "DryRun" {
        stub.probes.fetch_add(1, Ordering::SeqCst);
        return StatusCode::NO_CONTENT.into_response();
    }
    assert_eq!(
        (&headers["x-amz-invocation-type"], &headers["x-amz-log-type"]),
        (&"RequestResponse".parse().unwrap(), &"Tail".parse().unwrap())
    );
    stub.requests.fetch_add(1, Ordering::SeqCst);
    let trouble = stub.troubles.lock().unwrap().pop_front();
    let log = "START RequestId: 1\nREPORT RequestId: 1\tDuration: 11.20 ms\tBilled Duration: 277 ms\tMemory Size: 512 MB\t\
               Max Memory Used: 30 MB\tInit Duration: 265.72 ms\t\n";
    let answer = |error: bool, body: Vec<u8>| {
        let mut response = body.into_response();
        response.headers_mut().insert("x-amz-log-result", STANDARD.encode(log).parse().unwrap());
        if error {
            response.headers_mut().insert("x-amz-function-error", "Unhandled".parse().unwrap());
        }
        response
    };
    match trouble {
        Some(Trouble::Throttle(reason, after)) => return throttle(reason, after),
        Some(Trouble::Refuse(status, code)) => return refuse(status, code, "{\"message\":\"no\"}".into()),
        Some(Trouble::FunctionError(body)) => return answer(true, body.into()),
        Some(Trouble::Body(body)) => return answer(false, body.into()),
        None => {}
    }
    let running = stub.running.fetch_add(1, Ordering::SeqCst) + 1;
    if running > stub.limit {
        stub.running.fetch_sub(1, Ordering::SeqCst);
        return throttle("ReservedFunctionConcurrentInvocationLimitExceeded", None);
    }
    stub.most.fetch_max(running, Ordering::SeqCst);
    match &stub.release {
        Some(release) => release.notified().await,
        None => tokio::task::yield_now().await,
    }
    stub.running.fetch_sub(1, Ordering::SeqCst);
    let request: InlineRequest = serde_json::from_slice(&body).unwrap();
    assert_eq!(request.blobs.len(), 2);
    let task = request.envelope.task;
    let result = TaskResult {
        protocol: PROTOCOL_VERSION,
        key: task.key,
        attempt: task.attempt,
        ended: Ending::Finished(Outcome::Evaluate(METRICS)),
        timings: Timings { compute: 0.01, ..Timings::default() },
    };
    answer(false, serde_json::to_vec(&InlineReply { result, events: vec![], blobs: vec![] }).unwrap())
}

/// The shape is that of AWS's documentation of 2026-11.
async fn configuration(Query(asked): Query<HashMap<String, String>>) -> Response {
    assert_eq!(asked.get("Qualifier").map(String::as_str), Some("live"));
    let body = "{\"FunctionName\":\"outboard\",\"MemorySize\":512,\"Timeout\":60,\"Architectures\":[\"arm64\"]}";
    ([("content-type", "application/json")], body).into_response()
}

/// The shape is that of AWS's documentation of 2026-08.
fn throttle(reason: &str, after: Option<u64>) -> Response {
    let body = format!("{{\"Reason\":\"{reason}\",\"Type\":\"User\",\"message\":\"Rate Exceeded.\"}}");
    let mut response = refuse(429, "TooManyRequestsException", body);
    if let Some(after) = after {
        response.headers_mut().insert("retry-after", after.into());
    }
    response
}

fn refuse(status: u16, code: &str, body: String) -> Response {
    let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
    response.headers_mut().insert("x-amzn-errortype", code.parse().unwrap());
    response
}

/// The stand-in, and a provider for it.
struct Bed {
    config: Config,
    stub: Arc<Stub>,
    provider: Arc<AwsLambdaProvider>,
    store: FolderStore,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn new(stub: Stub, adjust: impl FnOnce(&mut Config)) -> Self {
        let stub = Arc::new(stub);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/2015-03-31/functions/outboard/invocations", post(invoke))
            .route("/2015-03-31/functions/outboard/configuration", get(configuration));
        let service = routes.with_state(stub.clone());
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self::at(address, stub, adjust)
    }

    fn at(address: SocketAddr, stub: Arc<Stub>, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            region: Some("us-east-1".into()),
            access_key_id: Some("AKIDEXAMPLE".into()),
            secret_access_key: Some("s3cret".into()),
            endpoint_url: Some(format!("http://{address}")),
            ..Config::default()
        };
        adjust(&mut config);
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        let provider = Arc::new(AwsLambdaProvider::new(&config, store.clone(), None).unwrap());
        Self { config, stub, provider, store, _folder: folder }
    }

    fn task(&self, key: &str) -> Task {
        let (data, weights) = (self.store.write(b"rows").unwrap(), self.store.write(b"weights").unwrap());
        let model = Architecture { layers: vec![Layer::Relu], input: vec![3] };
        let operation = Operation::Evaluate(EvaluateTask { model, weights, data, loss: Loss::Mse });
        Task { key: key.into(), job: "job".into(), attempt: format!("{key}#1"), operation, limit: Some(LONG) }
    }

    async fn meets(&self, trouble: Trouble) -> Result<TaskState, Error> {
        self.stub.troubles.lock().unwrap().push_back(trouble);
        let id = self.provider.submit(&self.task("k")).await?;
        self.provider.follow(&id, std::future::pending(), drop).await
    }
}

fn many(limit: usize) -> Stub {
    Stub { limit, ..Stub::default() }
}

#[tokio::test]
async fn the_doctor_compares_the_function_with_the_configuration() {
    let told = async |bed: Bed| {
        let found = Findings::default();
        examine(&bed.config, &found).await;
        let limits = found.take().into_iter().filter(|finding| finding.code == code::AWS_LIMITS);
        limits.map(|finding| (finding.verdict, finding.evidence)).collect::<Vec<_>>()
    };
    let as_it_is = |config: &mut Config| {
        config.memory_mb = 512;
        config.timeout = Duration::from_secs(60);
        config.architecture = crate::Architecture::Arm;
    };
    let words = "512 MB of memory, a time-out of 60s and arm64, as configured".to_string();
    assert_eq!(told(Bed::new(many(1), as_it_is).await).await, [(Verdict::Pass, words)]);
    let verdicts: Vec<_> =
        told(Bed::new(many(1), |_| {}).await).await.into_iter().map(|(verdict, _)| verdict).collect();
    assert_eq!(verdicts, [Verdict::Warn, Verdict::Fail, Verdict::Fail]);
}

#[tokio::test]
async fn the_report_tells_what_is_billed_and_a_cold_start() {
    let bed = Bed::new(many(1), |_| {}).await;
    assert_eq!(bed.provider.health().await.unwrap(), Health::Ready);
    let id = bed.provider.submit(&bed.task("k")).await.unwrap();
    let state = bed.provider.follow(&id, std::future::pending(), drop).await.unwrap();
    assert!(matches!(&state.phase, Phase::Finished(Outcome::Evaluate(found)) if *found == METRICS), "{state:?}");
    let usage = state.usage.unwrap();
    assert_eq!(usage.billed, Some(Duration::from_millis(277)));
    assert_eq!((usage.timings.boot, usage.timings.compute), (0.26572, 0.01));
    assert!(usage.bytes_down > 0);
    // The same attempt is that task; it isn't invoked again.
    assert_eq!(bed.provider.submit(&bed.task("k")).await.unwrap(), id);
    assert_eq!(bed.stub.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn many_jobs_at_once_ask_once_whether_the_function_is_there() {
    let bed = Bed::new(many(1), |_| {}).await;
    let ask = || {
        let provider = bed.provider.clone();
        tokio::spawn(async move { provider.health().await.unwrap() })
    };
    for answer in [ask(), ask(), ask()] {
        assert_eq!(answer.await.unwrap(), Health::Ready);
    }
    assert_eq!(bed.stub.probes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn throttling_is_told_with_its_reason_and_the_attempt_may_be_sent_again() {
    let bed = Bed::new(many(1), |_| {}).await;
    for (reason, after) in [
        ("ConcurrentInvocationLimitExceeded", None),
        ("ReservedFunctionConcurrentInvocationLimitExceeded", Some(7)),
        ("FunctionInvocationRateLimitExceeded", None),
        ("CallerRateLimitExceeded", Some(1)),
        ("SomethingNew", None),
    ] {
        let error = bed.meets(Trouble::Throttle(reason, after)).await.unwrap_err();
        let expected = Retry::Same { after: after.map(Duration::from_secs) };
        assert_eq!((error.kind(), error.retry()), (ErrorKind::RateLimited, expected), "{error:?}");
        assert!(error.report().contains(&format!("reason: {reason}")), "{}", error.report());
        assert!(!error.report().contains("s3cret"));
    }
    let id = bed.provider.submit(&bed.task("k")).await.unwrap();
    assert!(bed.provider.follow(&id, std::future::pending(), drop).await.unwrap().phase.is_final());
    assert_eq!(bed.stub.requests.load(Ordering::SeqCst), 6);
}

/// Drill: fifty tasks at once against a limit of ten. All finish, and none is sent that would be throttled.
#[tokio::test]
async fn fifty_tasks_against_a_limit_of_ten_all_finish_without_a_storm() {
    let bed = Bed::new(many(10), |config| config.concurrency = 10).await;
    let tasks = (0..50).map(|n| {
        let (provider, task) = (bed.provider.clone(), bed.task(&format!("k{n}")));
        tokio::spawn(async move { provider.run(&task, std::future::pending(), drop).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap().unwrap(), Outcome::Evaluate(METRICS));
    }
    assert_eq!(bed.stub.requests.load(Ordering::SeqCst), 50);
    assert!(bed.stub.most.load(Ordering::SeqCst) <= 10);
}

#[tokio::test]
async fn a_task_that_waits_for_its_turn_is_cancelled_and_one_that_runs_is_not() {
    let stub = Stub { limit: 1, release: Some(Notify::new()), ..Stub::default() };
    let bed = Bed::new(stub, |config| config.concurrency = 1).await;
    let running = bed.provider.submit(&bed.task("a")).await.unwrap();
    let waiting = bed.provider.submit(&bed.task("b")).await.unwrap();
    let phase = async |id: &TaskId| bed.provider.wait(id, Revision(0), Duration::ZERO).await.unwrap().phase;
    assert!(matches!((phase(&running).await, phase(&waiting).await), (Phase::Running, Phase::Queued)));
    let still = bed.provider.cancel(&running).await.unwrap();
    assert!(matches!(still, Cancelled::StillBilled { until } if until > LONG), "{still:?}");
    assert_eq!(bed.provider.cancel(&waiting).await.unwrap(), Cancelled::Stopped);
    assert!(matches!(phase(&waiting).await, Phase::Cancelled));
    bed.stub.release.as_ref().unwrap().notify_one();
    let state = bed.provider.follow(&running, std::future::pending(), drop).await.unwrap();
    assert!(matches!(state.phase, Phase::Finished(_)));
    assert_eq!(bed.stub.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_turn_is_not_waited_for_without_end() {
    let stub = Stub { limit: 1, release: Some(Notify::new()), ..Stub::default() };
    let bed = Bed::new(stub, |config| {
        config.concurrency = 1;
        config.start_within = Duration::from_millis(50);
    })
    .await;
    bed.provider.submit(&bed.task("a")).await.unwrap();
    let error = bed.provider.submit(&bed.task("b")).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::QuotaExceeded, Retry::Other));
    assert_eq!(error.to_string(), "the task has waited 50ms for one of 1 others to end");
}

#[tokio::test]
async fn errors_behind_a_success_are_told_and_billed() {
    let bed = Bed::new(many(1), |_| {}).await;
    let exit = "{\"errorType\":\"Runtime.ExitError\",\"errorMessage\":\"RequestId: 1 Error: Runtime exited with error: exit status 3\"}";
    for (n, (trouble, kind, billed)) in [
        (Trouble::FunctionError(exit), ErrorKind::WorkerUnhealthy, 277),
        (Trouble::FunctionError("{\"errorMessage\":\"1 Task timed out after 3.00 seconds\"}"), ErrorKind::Timeout, 277),
        (Trouble::Body("{\"errorType\":\"X\",\"errorMessage\":\"y\"}"), ErrorKind::WorkerUnhealthy, 277),
        (Trouble::Body("\"ok\""), ErrorKind::WorkerUnhealthy, 277),
    ]
    .into_iter()
    .enumerate()
    {
        bed.stub.troubles.lock().unwrap().push_back(trouble);
        let id = bed.provider.submit(&bed.task(&format!("k{n}"))).await.unwrap();
        let state = bed.provider.follow(&id, std::future::pending(), drop).await.unwrap();
        assert_eq!(state.usage.unwrap().billed, Some(Duration::from_millis(billed)));
        let Phase::Failed(error) = state.phase else { panic!("{:?}", state.phase) };
        assert_eq!((error.kind(), error.provider()), (kind, Some("aws-lambda")), "{error:?}");
    }
}

#[tokio::test]
async fn what_was_refused_costs_nothing_and_what_may_run_is_unknown() {
    let bed = Bed::new(many(1), |_| {}).await;
    for (status, code, kind) in [
        (404, "ResourceNotFoundException", ErrorKind::NotFound),
        (403, "AccessDeniedException", ErrorKind::PermissionDenied),
        (403, "UnrecognizedClientException", ErrorKind::Unauthenticated),
        (502, "EC2ThrottledException", ErrorKind::WorkerUnhealthy),
    ] {
        let error = bed.meets(Trouble::Refuse(status, code)).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, Retry::Other), "{error:?}");
        assert_eq!((error.operation(), error.advice().is_some()), (Some("submit"), true));
    }
    let error = bed.meets(Trouble::Refuse(500, "ServiceException")).await.unwrap_err();
    assert!(matches!(error.retry(), Retry::Unknown { until } if until > Duration::from_secs(900)), "{error:?}");
    assert_eq!(bed.stub.requests.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn nobody_there_is_a_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let bed = Bed::at(address, Arc::new(many(1)), |_| {});
    let error = bed.provider.submit(&bed.task("k")).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Same { after: None }), "{error:?}");
    assert_eq!(error.to_string(), "Lambda can't be reached");
    let Health::Unavailable(why) = bed.provider.health().await.unwrap() else { panic!() };
    assert!(why.starts_with("Lambda can't be reached; check the network"), "{why}");
}
