//! A worker's HTTP API in memory, with faults, for tests.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing,
};
use outboard_core::{Digest, ErrorKind, Event, error::Retry, task::Timings};
use outboard_protocol::{
    Envelope, PROTOCOL_VERSION, TaskResult,
    envelope::{Ending, Failure, StateMessage, WirePhase, WorkerHealth, decode},
};
use serde::Deserialize;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub(crate) const TOKEN: &str = "s3cret";

/// What goes wrong, once, with the next request to which it applies.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection is cut before the request is looked at.
    CutBefore,
    /// The connection is cut in place of the reply.
    CutAfter,
    /// Nothing is ever answered.
    Hang,
    /// This many bytes of the body come, then the connection is cut.
    Truncate(usize),
    /// Another body comes.
    Body(&'static [u8]),
    /// This reply comes, with a header.
    Reply(u16, &'static str, &'static str),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Method and path, as in `HEAD /v1/health`.
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Started,
    Happened(Event),
    Ended(Ending),
}

#[derive(Debug)]
struct Live {
    attempt: String,
    log: watch::Sender<Vec<Entry>>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) blobs: HashMap<Digest, Vec<u8>>,
    tasks: HashMap<String, Live>,
    pub(crate) health: WorkerHealth,
    pub(crate) seen: Vec<Seen>,
    faults: VecDeque<(Method, &'static str, Fault)>,
}

/// A worker that listens on loopback until it is dropped.
#[derive(Debug)]
pub(crate) struct StandIn {
    pub(crate) url: String,
    inner: Shared,
    server: JoinHandle<()>,
}

type Shared = Arc<Mutex<Inner>>;

impl StandIn {
    pub(crate) async fn start() -> Self {
        let health = WorkerHealth {
            protocol: PROTOCOL_VERSION,
            version: "0.1.0".into(),
            device: "stand-in".into(),
            numerics: "none".into(),
            layers: vec!["relu".into()],
            running: 0,
            queued: 0,
            max_running: 2,
            max_queued: 2,
            max_blob_bytes: 1 << 20,
            blobs: 0,
            draining: false,
        };
        let (blobs, tasks) = (HashMap::new(), HashMap::new());
        let inner = Inner { blobs, tasks, health, seen: Vec::new(), faults: VecDeque::new() };
        let inner: Shared = Arc::new(Mutex::new(inner));
        let app = Router::new()
            .route("/v1/health", routing::get(health_of))
            .route("/v1/blobs/{digest}", routing::get(get_blob).put(put_blob))
            .route("/v1/tasks", routing::post(post_task).get(list))
            .route("/v1/tasks/{key}", routing::get(get_task).delete(delete_task))
            .layer(middleware::from_fn_with_state(inner.clone(), watch_requests))
            .layer(DefaultBodyLimit::disable())
            .with_state(inner.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, inner, server }
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The next request of this method goes wrong; called twice, the next two do.
    pub(crate) fn fault(&self, method: Method, fault: Fault) {
        self.fault_at(method, "/", fault);
    }

    /// The next request of this method to a path that begins like this goes wrong.
    pub(crate) fn fault_at(&self, method: Method, path: &'static str, fault: Fault) {
        self.inner().faults.push_back((method, path, fault));
    }

    pub(crate) fn put(&self, bytes: &[u8]) -> Digest {
        self.inner().blobs.insert(Digest::of(bytes), bytes.into());
        Digest::of(bytes)
    }

    /// Lets something happen to a task.
    pub(crate) fn push(&self, key: &str, entry: Entry) {
        self.inner().tasks[key].log.send_modify(|log| log.push(entry));
    }

    /// Requests so far whose line begins like this.
    pub(crate) fn seen(&self, line: &str) -> Vec<Seen> {
        self.inner().seen.iter().filter(|seen| seen.line.starts_with(line)).cloned().collect()
    }

    /// The attempt of each task that was accepted.
    pub(crate) fn accepted(&self) -> Vec<String> {
        self.inner().tasks.values().map(|live| live.attempt.clone()).collect()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn refuse(status: u16, kind: ErrorKind, message: &str, context: Vec<(String, String)>) -> Response {
    let retry = if status == 424 { Retry::Same { after: None } } else { kind.retry() };
    let failure = Failure { kind, retry, message: message.into(), context, hint: None };
    (StatusCode::from_u16(status).unwrap(), serde_json::to_vec(&failure).unwrap()).into_response()
}

fn json(status: u16, value: &impl serde::Serialize) -> Response {
    (StatusCode::from_u16(status).unwrap(), serde_json::to_vec(value).unwrap()).into_response()
}

/// Unwinds quietly: the server's connection goes with its task.
fn cut() -> ! {
    std::panic::resume_unwind(Box::new("cut"))
}

async fn watch_requests(State(inner): State<Shared>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let line = format!("{} {}", parts.method, parts.uri.path_and_query().unwrap());
    let fault = {
        let mut inner = inner.lock().unwrap();
        let path = parts.uri.path();
        let at = inner.faults.iter().position(|(method, at, _)| *method == parts.method && path.starts_with(at));
        at.and_then(|at| inner.faults.remove(at)).map(|(.., fault)| fault)
    };
    if let Some(Fault::CutBefore) = fault {
        cut();
    }
    let bytes = axum::body::to_bytes(body, 1 << 26).await.unwrap();
    let headers = parts.headers.clone();
    inner.lock().unwrap().seen.push(Seen { line, headers: headers.clone(), body: bytes.to_vec() });
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != &format!("Bearer {TOKEN}")) {
        return refuse(401, ErrorKind::Unauthenticated, "the token is wrong", vec![]);
    }
    match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Body(bytes)) => return bytes.into_response(),
        Some(Fault::Reply(status, name, value)) => {
            return (StatusCode::from_u16(status).unwrap(), [(name, value)]).into_response();
        }
        _ => {}
    }
    let response = next.run(Request::from_parts(parts, Body::from(bytes))).await;
    match fault {
        Some(Fault::CutAfter) => cut(),
        Some(Fault::Truncate(length)) => {
            let (parts, body) = response.into_parts();
            let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let (whole, part) = (bytes.len(), bytes.slice(..length));
            // A pause in between, so that the part is on its way before the connection goes.
            let pieces = futures_util::stream::unfold(Some(Ok(part)), |piece| async {
                if let Some(Err(_)) = piece {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                let next = matches!(piece, Some(Ok(_))).then(|| Err(std::io::Error::other("cut")));
                piece.map(|piece| (piece, next))
            });
            let mut response = Response::from_parts(parts, Body::from_stream(pieces));
            response.headers_mut().insert(header::CONTENT_LENGTH, whole.into());
            response
        }
        _ => response,
    }
}

async fn health_of(State(inner): State<Shared>) -> Response {
    json(200, &inner.lock().unwrap().health)
}

async fn get_blob(State(inner): State<Shared>, Path(digest): Path<String>, headers: HeaderMap) -> Response {
    let inner = inner.lock().unwrap();
    let Some(bytes) = inner.blobs.get(&digest.parse().unwrap()) else {
        return refuse(404, ErrorKind::NotFound, "no such blob", vec![]);
    };
    let range = headers.get(header::RANGE).map(|range| range.to_str().unwrap());
    match range.map(|range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap())
    {
        Some(from) => (StatusCode::PARTIAL_CONTENT, bytes[from..].to_vec()).into_response(),
        None => bytes.clone().into_response(),
    }
}

async fn put_blob(
    State(inner): State<Shared>,
    Path(digest): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut inner = inner.lock().unwrap();
    let limit = inner.health.max_blob_bytes as usize;
    let bytes = match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding == "zstd" => zstd::stream::decode_all(&*body).unwrap(),
        _ => body.to_vec(),
    };
    let digest: Digest = digest.parse().unwrap();
    if bytes.len() > limit {
        return refuse(413, ErrorKind::PayloadTooLarge, "the blob is too large", vec![]);
    }
    if Digest::of(&bytes) != digest {
        return refuse(422, ErrorKind::CorruptPayload, "the bytes do not match their digest", vec![]);
    }
    inner.blobs.insert(digest, bytes);
    StatusCode::CREATED.into_response()
}

async fn post_task(State(inner): State<Shared>, body: Bytes) -> Response {
    let envelope: Envelope = decode(&body).unwrap();
    let (key, attempt) = (envelope.task.key.clone(), envelope.task.attempt.clone());
    let mut inner = inner.lock().unwrap();
    if let Some(live) = inner.tasks.get(&key) {
        let came_to_nothing =
            matches!(live.log.borrow().last(), Some(Entry::Ended(Ending::Failed(_) | Ending::Cancelled)));
        let again = live.attempt != attempt && came_to_nothing;
        if !again {
            return json(200, &state(&key, live, 0));
        }
    }
    if inner.health.draining {
        return refuse(503, ErrorKind::Unavailable, "the worker is shutting down", vec![]);
    }
    let missing = envelope.task.operation.needs().into_iter();
    let missing: Vec<_> = missing.filter(|digest| !inner.blobs.contains_key(digest)).collect();
    if !missing.is_empty() {
        let context = missing.iter().map(|digest| ("blob".to_string(), digest.to_string())).collect();
        return refuse(424, ErrorKind::NotFound, "blobs of the task are missing", context);
    }
    let live = Live { attempt, log: watch::Sender::default() };
    let reply = json(202, &state(&key, &live, 0));
    inner.tasks.insert(key, live);
    reply
}

#[derive(Deserialize)]
struct Poll {
    seen: u64,
    wait_ms: u64,
}

fn unknown() -> Response {
    refuse(404, ErrorKind::NotFound, "no such task", vec![])
}

async fn get_task(State(inner): State<Shared>, Path(key): Path<String>, Query(poll): Query<Poll>) -> Response {
    let Some(mut log) = inner.lock().unwrap().tasks.get(&key).map(|live| live.log.subscribe()) else {
        return unknown();
    };
    let news = log.wait_for(|log| log.len() as u64 + 1 != poll.seen);
    let _ = tokio::time::timeout(Duration::from_millis(poll.wait_ms.min(30_000)), news).await;
    let inner = inner.lock().unwrap();
    json(200, &state(&key, &inner.tasks[&key], poll.seen))
}

async fn delete_task(State(inner): State<Shared>, Path(key): Path<String>) -> Response {
    let inner = inner.lock().unwrap();
    let Some(live) = inner.tasks.get(&key) else { return unknown() };
    // One that runs stops by itself, or doesn't: as the test has it.
    if live.log.borrow().is_empty() {
        live.log.send_modify(|log| log.push(Entry::Ended(Ending::Cancelled)));
    }
    json(200, &state(&key, live, 0))
}

async fn list(State(inner): State<Shared>) -> Response {
    let inner = inner.lock().unwrap();
    let live = inner.tasks.iter().filter(|(_, live)| !matches!(live.log.borrow().last(), Some(Entry::Ended(_))));
    let live = live.map(|(key, live)| {
        serde_json::json!({ "key": key, "attempt": live.attempt, "running": !live.log.borrow().is_empty() })
    });
    json(200, &live.collect::<Vec<_>>())
}

fn state(key: &str, live: &Live, seen: u64) -> StateMessage {
    let log = live.log.borrow();
    let phase = match log.last() {
        Some(Entry::Ended(ended)) => WirePhase::Ended(Box::new(TaskResult {
            protocol: PROTOCOL_VERSION,
            key: key.into(),
            attempt: live.attempt.clone(),
            ended: ended.clone(),
            timings: Timings::default(),
        })),
        Some(_) => WirePhase::Running,
        None => WirePhase::Queued,
    };
    let new = log.get((seen as usize).saturating_sub(1)..).unwrap_or(&log);
    let events = new.iter().filter_map(|entry| match entry {
        Entry::Happened(event) => Some(event.clone()),
        _ => None,
    });
    StateMessage { revision: log.len() as u64 + 1, phase, events: events.collect() }
}
