//! What workers ask and tell.

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
    settings::{Fate, Trouble},
    state::{Endpoint, Status, Worker, WorkerPhase},
};

type Platform = State<Arc<Shared>>;

/// How long a request for a job is held: the SDK gives up after 90 s.
const HELD: Duration = Duration::from_secs(60);

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v2/{endpoint}/job-take/{worker}", get(take))
        .route("/v2/{endpoint}/job-take-batch/{worker}", get(take_batch))
        .route("/v2/{endpoint}/job-stop/{worker}", get(stop))
        .route("/v2/{endpoint}/job-done/{worker}/{id}", post(done))
        .route("/v2/{endpoint}/job-stream/{worker}/{id}", post(stream))
        .route("/v2/{endpoint}/ping/{worker}", get(ping))
}

/// A worker that asks for work is ready for it.
fn ready<'a>(endpoint: &'a mut Endpoint, id: &str, now: Duration) -> Option<&'a mut Worker> {
    let is_own = endpoint.settings.worker.is_some();
    if !endpoint.workers.contains_key(id) {
        // One of ours that was ended meanwhile gets nothing more.
        if is_own {
            return None;
        }
        endpoint.workers.insert(id.into(), Worker::foreign(now));
    }
    let worker = endpoint.workers.get_mut(id).filter(|worker| !worker.is_leaving)?;
    if worker.phase == WorkerPhase::Booting {
        worker.ready = Some(now);
        worker.phase = WorkerPhase::Idle(now);
    }
    Some(worker)
}

async fn jobs(shared: &Shared, endpoint: &str, worker: &str, most: usize, is_twice: bool) -> Vec<Value> {
    let taken = shared.until(HELD, |state, now| {
        let endpoint = state.endpoints.get_mut(endpoint)?;
        let Some(asking) = ready(endpoint, worker, now) else { return Some(Vec::new()) };
        let is_ready = matches!(asking.phase, WorkerPhase::Idle(_) | WorkerPhase::Running);
        if !is_ready || endpoint.fate != Fate::Well {
            return None;
        }
        let jobs: Vec<_> = std::iter::from_fn(|| endpoint.take(worker, now, is_twice)).take(most).collect();
        (!jobs.is_empty()).then_some(jobs)
    });
    taken.await.unwrap_or_default()
}

async fn take(
    State(shared): Platform,
    Path((endpoint, worker)): Path<(String, String)>,
    trouble: Option<Extension<Trouble>>,
) -> Response {
    let is_twice = matches!(trouble, Some(Extension(Trouble::Twice)));
    match jobs(&shared, &endpoint, &worker, 1, is_twice).await.pop() {
        Some(job) => Json(job).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

#[derive(Deserialize)]
struct Batch {
    batch_size: usize,
}

async fn take_batch(
    State(shared): Platform,
    Path((endpoint, worker)): Path<(String, String)>,
    Query(Batch { batch_size }): Query<Batch>,
) -> Response {
    let jobs = jobs(&shared, &endpoint, &worker, batch_size, false).await;
    if jobs.is_empty() { StatusCode::NO_CONTENT.into_response() } else { Json(jobs).into_response() }
}

async fn stop(State(shared): Platform, Path((endpoint, worker)): Path<(String, String)>) -> Response {
    let stops = shared.until(HELD, |state, now| {
        let endpoint = state.endpoints.get_mut(&endpoint)?;
        let Some(found) = endpoint.workers.get_mut(&worker) else {
            return endpoint.settings.worker.as_ref().map(|_| Vec::new());
        };
        let stops = std::mem::take(&mut found.stops);
        stops.iter().for_each(|id| endpoint.release(&worker, id, now));
        (!stops.is_empty()).then_some(stops)
    });
    match stops.await {
        Some(stops) if !stops.is_empty() => Json(json!({ "jobsToStop": stops })).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

#[derive(Deserialize)]
struct Done {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    output: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
    #[serde(default, rename = "stopPod")]
    stop_pod: bool,
}

async fn done(
    State(shared): Platform,
    Path((endpoint, worker, id)): Path<(String, String, String)>,
    trouble: Option<Extension<Trouble>>,
    body: Bytes,
) -> Response {
    // The body is JSON, whatever its type says.
    let Ok(done) = serde_json::from_slice::<Done>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let now = shared.now();
    if let Some(endpoint) = shared.state().endpoints.get_mut(&endpoint) {
        if done.status.as_deref() == Some("IN_PROGRESS") {
            if let Some(job) = endpoint.jobs.get_mut(&id).filter(|job| !job.is_over()) {
                job.output = done.output;
            }
        } else {
            let is_live = endpoint.jobs.get(&id).is_some_and(|job| !job.is_over());
            if is_live && !matches!(trouble, Some(Extension(Trouble::LoseResult))) {
                finish(endpoint, &id, &done, now);
            }
            endpoint.release(&worker, &id, now);
            if let Some(found) = endpoint.workers.get_mut(&worker) {
                found.stops.retain(|stop| *stop != id);
                // It is ended; a new one takes its place.
                found.is_leaving |= done.stop_pod;
            }
        }
    }
    shared.changed();
    StatusCode::OK.into_response()
}

fn finish(endpoint: &mut Endpoint, id: &str, done: &Done, now: Duration) {
    if let Some(job) = endpoint.jobs.get_mut(id) {
        job.output = done.output.clone();
        job.error = done.error.clone();
    }
    let status = match &done.error {
        Some(_) => {
            endpoint.failed += 1;
            Status::Failed
        }
        None => {
            endpoint.completed += 1;
            Status::Completed
        }
    };
    endpoint.end(id, status, now);
}

async fn stream(
    State(shared): Platform,
    Path((endpoint, _, id)): Path<(String, String, String)>,
    body: Bytes,
) -> Response {
    let Ok(done) = serde_json::from_slice::<Done>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let mut state = shared.state();
    let job = state.endpoints.get_mut(&endpoint).and_then(|endpoint| endpoint.jobs.get_mut(&id));
    if let (Some(job), Some(chunk)) = (job, done.output) {
        job.chunks.push_back(chunk);
    }
    StatusCode::OK.into_response()
}

#[derive(Deserialize)]
struct Ping {
    status: Option<String>,
}

async fn ping(
    State(shared): Platform,
    Path((endpoint, worker)): Path<(String, String)>,
    Query(Ping { status }): Query<Ping>,
) -> Response {
    let now = shared.now();
    if let Some(endpoint) = shared.state().endpoints.get_mut(&endpoint)
        && status.as_deref() == Some("unhealthy")
    {
        let worker = endpoint.workers.entry(worker).or_insert_with(|| Worker::foreign(now));
        worker.phase = WorkerPhase::Unhealthy(now + Duration::from_secs(10));
    }
    shared.changed();
    StatusCode::OK.into_response()
}
