//! Endpoints, workers, prices and bills, as far as clients of the job API look at them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use serde_json::{Value, json};

use super::{Shared, settings::EndpointSettings, state::Endpoint};

type Platform = State<Arc<Shared>>;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/rest/v1/endpoints", get(endpoints).post(make_endpoint))
        .route("/rest/v1/endpoints/{id}", get(endpoint).patch(change_endpoint).delete(remove_endpoint))
        .route("/rest/v1/templates", get(templates).post(make_template))
        .route("/rest/v1/templates/{id}", delete(remove_template))
        .route("/rest/v1/billing/endpoints", get(billing))
        .route("/rest/v2/serverless/{id}/workers", get(workers))
        .route("/rest/v2/catalog/gpus", get(gpus))
}

fn described(endpoint: &Endpoint) -> Value {
    let settings = &endpoint.settings;
    json!({
        "id": settings.id,
        "name": endpoint.title,
        "templateId": endpoint.template,
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

async fn templates(State(shared): Platform) -> Response {
    Json(shared.state().templates.clone()).into_response()
}

async fn make_template(State(shared): Platform, Json(mut template): Json<Value>) -> Response {
    if !template["name"].is_string() || !template["imageName"].is_string() {
        return (StatusCode::BAD_REQUEST, Json(json!({ "message": "name, imageName" }))).into_response();
    }
    let mut state = shared.state();
    template["id"] = format!("tpl{}", state.templates.len() + 1).into();
    state.templates.push(template.clone());
    Json(template).into_response()
}

async fn remove_template(State(shared): Platform, Path(id): Path<String>) -> Response {
    let mut state = shared.state();
    if state.endpoints.values().any(|endpoint| endpoint.template == id) {
        return (StatusCode::BAD_REQUEST, Json(json!({ "message": "template in use" }))).into_response();
    }
    state.templates.retain(|template| template["id"] != *id);
    StatusCode::NO_CONTENT.into_response()
}

/// It runs what the other endpoints run.
async fn make_endpoint(State(shared): Platform, Json(asked): Json<Value>) -> Response {
    let response = {
        let mut state = shared.state();
        let Some(template) = asked["templateId"].as_str().filter(|id| has_template(&state, id)) else {
            return (StatusCode::BAD_REQUEST, Json(json!({ "message": "templateId" }))).into_response();
        };
        let worker = state.endpoints.values().find_map(|endpoint| endpoint.settings.worker.clone());
        let id = format!("made{}", state.endpoints.len() + 1);
        let mut endpoint = Endpoint::new(EndpointSettings::new(&id, worker));
        (endpoint.template, endpoint.fate) = (template.into(), state.new_fate);
        change(&mut endpoint, &asked);
        let described = described(&endpoint);
        state.endpoints.insert(id, endpoint);
        Json(described).into_response()
    };
    shared.changed();
    response
}

async fn change_endpoint(State(shared): Platform, Path(id): Path<String>, Json(asked): Json<Value>) -> Response {
    let response = match shared.state().endpoints.get_mut(&id) {
        Some(endpoint) => {
            change(endpoint, &asked);
            Json(described(endpoint)).into_response()
        }
        None => not_found(),
    };
    shared.changed();
    response
}

async fn remove_endpoint(State(shared): Platform, Path(id): Path<String>) -> Response {
    let mut state = shared.state();
    match state.endpoints.get_mut(&id) {
        Some(endpoint) if endpoint.settings.workers_max > 0 => {
            (StatusCode::BAD_REQUEST, Json(json!({ "message": "set workersMax to 0 first" }))).into_response()
        }
        Some(endpoint) => {
            endpoint.end_all();
            state.endpoints.remove(&id);
            StatusCode::NO_CONTENT.into_response()
        }
        None => not_found(),
    }
}

fn has_template(state: &super::state::State, id: &str) -> bool {
    state.templates.iter().any(|template| template["id"] == *id)
}

fn change(endpoint: &mut Endpoint, asked: &Value) {
    let number = |name: &str| asked[name].as_u64().and_then(|n| usize::try_from(n).ok());
    let settings = &mut endpoint.settings;
    settings.workers_min = number("workersMin").unwrap_or(settings.workers_min);
    settings.workers_max = number("workersMax").unwrap_or(settings.workers_max);
    settings.idle_timeout = asked["idleTimeout"].as_u64().map_or(settings.idle_timeout, Duration::from_secs);
    if let Some(gpu) = asked["gpuTypeIds"][0].as_str() {
        settings.gpu = gpu.into();
    }
    for (name, field) in [("templateId", &mut endpoint.template), ("name", &mut endpoint.title)] {
        if let Some(text) = asked[name].as_str() {
            *field = text.into();
        }
    }
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "message": "endpoint not found" }))).into_response()
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
