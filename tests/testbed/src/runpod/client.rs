//! The job API.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Shared,
    settings::Trouble,
    state::{Endpoint, Policy, Status, WorkerPhase},
};

type Platform = State<Arc<Shared>>;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v2/{endpoint}/run", post(run))
        .route("/v2/{endpoint}/runsync", post(runsync))
        .route("/v2/{endpoint}/status/{id}", get(status).post(status))
        .route("/v2/{endpoint}/stream/{id}", get(stream).post(stream))
        .route("/v2/{endpoint}/cancel/{id}", post(cancel))
        .route("/v2/{endpoint}/retry/{id}", post(retry))
        .route("/v2/{endpoint}/purge-queue", post(purge))
        .route("/v2/{endpoint}/health", get(health))
}

/// What a client asks to run.
#[derive(Deserialize)]
struct Asked {
    input: Value,
    #[serde(default)]
    policy: Policy,
}

#[derive(Deserialize)]
struct Wait {
    wait: Option<u64>,
}

/// Bounds in milliseconds.
const DAYS_7: u64 = 7 * 86_400_000;
const EXECUTION: std::ops::RangeInclusive<u64> = 5_000..=DAYS_7;
const TTL: std::ops::RangeInclusive<u64> = 10_000..=DAYS_7;
const WAIT: std::ops::RangeInclusive<u64> = 1_000..=300_000;
const USUAL_WAIT: u64 = 90_000;

fn not_found() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

fn wrong(what: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": what }))).into_response()
}

fn read(body: &[u8]) -> Result<Asked, &'static str> {
    let asked: Asked = serde_json::from_slice(body).map_err(|_| "the body")?;
    match asked.policy {
        Policy { execution_timeout: Some(ms), .. } if !EXECUTION.contains(&ms) => Err("executionTimeout"),
        Policy { ttl: Some(ms), .. } if !TTL.contains(&ms) => Err("ttl"),
        _ => Ok(asked),
    }
}

fn with<T>(shared: &Shared, endpoint: &str, work: impl FnOnce(&mut Endpoint, Duration) -> T) -> Option<T> {
    let worked = shared.state().endpoints.get_mut(endpoint).map(|endpoint| work(endpoint, shared.now()));
    shared.changed();
    worked
}

async fn run(State(shared): Platform, Path(endpoint): Path<String>, body: Bytes) -> Response {
    let asked = match read(&body) {
        Ok(asked) => asked,
        Err(what) => return wrong(what),
    };
    let accept =
        |endpoint: &mut Endpoint, now: Duration| endpoint.accept(asked.input, asked.policy, false, now).id.clone();
    match with(&shared, &endpoint, accept) {
        Some(id) => Json(json!({ "id": id, "status": "IN_QUEUE" })).into_response(),
        None => not_found(),
    }
}

async fn runsync(
    State(shared): Platform,
    Path(endpoint): Path<String>,
    Query(Wait { wait }): Query<Wait>,
    body: Bytes,
) -> Response {
    let asked = match read(&body) {
        Ok(asked) => asked,
        Err(what) => return wrong(what),
    };
    let wait = wait.unwrap_or(USUAL_WAIT);
    if !WAIT.contains(&wait) {
        return wrong("wait");
    }
    let accept =
        |endpoint: &mut Endpoint, now: Duration| endpoint.accept(asked.input, asked.policy, true, now).id.clone();
    let Some(id) = with(&shared, &endpoint, accept) else { return not_found() };
    let ended = shared
        .until(Duration::from_millis(wait), |state, now| {
            let job = state.endpoints.get(&endpoint)?.jobs.get(&id)?;
            job.is_over().then(|| job.body(now))
        })
        .await;
    let body = ended.unwrap_or_else(|| {
        let state = shared.state();
        let job = state.endpoints.get(&endpoint).and_then(|endpoint| endpoint.jobs.get(&id));
        json!({ "id": id, "status": job.map_or("IN_QUEUE", |job| job.status.name()) })
    });
    Json(body).into_response()
}

async fn status(
    State(shared): Platform,
    Path((endpoint, id)): Path<(String, String)>,
    trouble: Option<Extension<Trouble>>,
) -> Response {
    let state = shared.state();
    let Some(job) = state.endpoints.get(&endpoint).and_then(|endpoint| endpoint.jobs.get(&id)) else {
        return not_found();
    };
    if let Some(Extension(Trouble::Status(status))) = trouble {
        return Json(json!({ "id": id, "status": status })).into_response();
    }
    Json(job.body(shared.now())).into_response()
}

async fn stream(State(shared): Platform, Path((endpoint, id)): Path<(String, String)>) -> Response {
    let mut state = shared.state();
    let Some(job) = state.endpoints.get_mut(&endpoint).and_then(|endpoint| endpoint.jobs.get_mut(&id)) else {
        return not_found();
    };
    let chunks: Vec<_> = job.chunks.drain(..).map(|chunk| json!({ "output": chunk })).collect();
    Json(json!({ "status": job.status.name(), "stream": chunks })).into_response()
}

async fn cancel(State(shared): Platform, Path((endpoint, id)): Path<(String, String)>) -> Response {
    let cancel = |endpoint: &mut Endpoint, now: Duration| {
        let job = endpoint.jobs.get(&id)?;
        if !job.is_over() {
            endpoint.end(&id, Status::Cancelled, now);
        }
        Some(endpoint.jobs.get(&id)?.status.name())
    };
    match with(&shared, &endpoint, cancel).flatten() {
        Some(status) => Json(json!({ "id": id, "status": status })).into_response(),
        None => not_found(),
    }
}

async fn retry(State(shared): Platform, Path((endpoint, id)): Path<(String, String)>) -> Response {
    let again = |endpoint: &mut Endpoint, now: Duration| {
        let job = endpoint.jobs.get_mut(&id)?;
        if !matches!(job.status, Status::Failed | Status::TimedOut) {
            return Some(false);
        }
        (job.status, job.submitted, job.taken, job.ended) = (Status::InQueue, now, None, None);
        (job.output, job.error, job.worker) = (None, None, None);
        endpoint.queue.push_back(id.clone());
        endpoint.retried += 1;
        Some(true)
    };
    match with(&shared, &endpoint, again).flatten() {
        Some(true) => Json(json!({ "id": id, "status": "IN_QUEUE" })).into_response(),
        Some(false) => wrong("only a job that failed or timed out is tried again"),
        None => not_found(),
    }
}

async fn purge(State(shared): Platform, Path(endpoint): Path<String>) -> Response {
    let purge = |endpoint: &mut Endpoint, now: Duration| {
        let queued: Vec<_> = endpoint.queue.drain(..).collect();
        queued.iter().for_each(|id| endpoint.end(id, Status::Cancelled, now));
        queued.len()
    };
    match with(&shared, &endpoint, purge) {
        Some(removed) => Json(json!({ "removed": removed, "status": "completed" })).into_response(),
        None => not_found(),
    }
}

async fn health(State(shared): Platform, Path(endpoint): Path<String>) -> Response {
    let state = shared.state();
    let Some(endpoint) = state.endpoints.get(&endpoint) else { return not_found() };
    let workers = |is: fn(&WorkerPhase) -> bool| endpoint.workers.values().filter(|worker| is(&worker.phase)).count();
    let jobs = |status: Status| endpoint.jobs.values().filter(|job| job.status == status).count();
    let idle = workers(|phase| matches!(phase, WorkerPhase::Idle(_)));
    let running = workers(|phase| matches!(phase, WorkerPhase::Running));
    Json(json!({
        "jobs": {
            "completed": endpoint.completed,
            "failed": endpoint.failed,
            "inProgress": jobs(Status::InProgress),
            "inQueue": jobs(Status::InQueue),
            "retried": endpoint.retried,
        },
        "workers": {
            "idle": idle,
            "initializing": workers(|phase| phase.name() == "INITIALIZING"),
            "ready": idle + running,
            "running": running,
            "throttled": workers(|phase| matches!(phase, WorkerPhase::Throttled)),
            "unhealthy": workers(|phase| matches!(phase, WorkerPhase::Unhealthy(_))),
        },
    }))
    .into_response()
}
