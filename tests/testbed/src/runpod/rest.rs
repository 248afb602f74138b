//! Endpoints, workers, prices and bills, as far as clients of the job API look at them.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::{Shared, state::Endpoint};

type Platform = State<Arc<Shared>>;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/rest/v1/endpoints", get(endpoints))
        .route("/rest/v1/endpoints/{id}", get(endpoint))
        .route("/rest/v1/templates", get(templates))
        .route("/rest/v1/billing/endpoints", get(billing))
        .route("/rest/v2/serverless/{id}/workers", get(workers))
        .route("/rest/v2/catalog/gpus", get(gpus))
}

fn described(endpoint: &Endpoint) -> Value {
    let settings = &endpoint.settings;
    json!({
        "id": settings.id,
        "name": settings.id,
        "templateId": "template",
        "computeType": "GPU",
        "gpuTypeIds": [settings.gpu],
        "gpuCount": 1,
        "workersMin": settings.workers_min,
        "workersMax": settings.workers_max,
        "idleTimeout": settings.idle_timeout.as_secs(),
        "executionTimeoutMs": u64::try_from(settings.execution_timeout.as_millis()).unwrap_or(u64::MAX),
    })
}

async fn endpoints(State(shared): Platform) -> Response {
    let all: Vec<_> = shared.state().endpoints.values().map(described).collect();
    Json(all).into_response()
}

async fn endpoint(State(shared): Platform, Path(id): Path<String>) -> Response {
    match shared.state().endpoints.get(&id) {
        Some(endpoint) => Json(described(endpoint)).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({ "message": "endpoint not found" }))).into_response(),
    }
}

async fn templates() -> Response {
    Json(json!([{ "id": "template", "name": "outboard", "imageName": "outboard/worker", "isServerless": true }]))
        .into_response()
}

async fn billing(State(shared): Platform) -> Response {
    let now = shared.now();
    let bill = |endpoint: &Endpoint| {
        let bill = endpoint.bill(now);
        json!({
            "endpointId": endpoint.settings.id,
            "amount": bill.nano_usd as f64 / 1e9,
            "diskSpaceBilledGb": 0,
            // All of it is today's: a test is over before the day is.
            "time": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            "timeBilledMs": bill.seconds * 1000,
        })
    };
    let all: Vec<_> = shared.state().endpoints.values().map(bill).collect();
    Json(all).into_response()
}

async fn workers(State(shared): Platform, Path(id): Path<String>) -> Response {
    let state = shared.state();
    let Some(endpoint) = state.endpoints.get(&id) else {
        let body = json!({ "title": "Not Found", "status": 404, "detail": "no such endpoint", "errors": [] });
        return (StatusCode::NOT_FOUND, Json(body)).into_response();
    };
    let now = shared.now();
    let worker = |(id, worker): (&String, &super::state::Worker)| {
        json!({
            "id": id,
            "status": worker.phase.name(),
            "isStale": false,
            "version": 1,
            "gpuCount": 1,
            "image": "outboard/worker",
            "uptimeSeconds": worker.billed_from.map_or(0, |from| now.saturating_sub(from).as_secs()),
            "gpuTypeId": endpoint.settings.gpu,
            "dataCenterId": "EU-RO-1",
        })
    };
    let count = |name: &str| endpoint.workers.values().filter(|worker| worker.phase.name() == name).count();
    Json(json!({
        "workers": endpoint.workers.iter().map(worker).collect::<Vec<_>>(),
        "summary": {
            "running": count("RUNNING"),
            "idle": count("IDLE"),
            "initializing": count("INITIALIZING"),
            "throttled": count("THROTTLED"),
            "unhealthy": count("UNHEALTHY"),
            "total": endpoint.workers.len(),
        },
        "endpointVersion": 1,
    }))
    .into_response()
}

async fn gpus(State(shared): Platform) -> Response {
    let gpu = |endpoint: &Endpoint| {
        let hour = endpoint.settings.nano_usd_per_second as f64 * 3600.0 / 1e9;
        json!({
            "id": endpoint.settings.gpu,
            "name": endpoint.settings.gpu,
            "memory": 24,
            "price": { "serverless": hour },
            "availability": "HIGH",
        })
    };
    let all: Vec<_> = shared.state().endpoints.values().map(gpu).collect();
    Json(json!({ "gpus": all })).into_response()
}
