//! What every request passes: keys, limits, scripted replies.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{Seen, Shared, settings::Trouble};

/// What `run` and `runsync` take.
const MAX_RUN: usize = 10_000_000;
const MAX_RUNSYNC: usize = 20_000_000;
/// What a worker's result may have: not documented, so that of the largest request.
const MAX_OTHER: usize = MAX_RUNSYNC;
/// Requests in ten seconds, per endpoint and operation.
const RATES: [(&str, u32); 6] =
    [("run", 1000), ("runsync", 2000), ("status", 2000), ("stream", 2000), ("cancel", 100), ("purge-queue", 2)];
const WINDOW: u64 = 10;

/// The operation of a path: the segment after the endpoint's, or what stands below `rest`.
fn operation(path: &str) -> (&str, &str) {
    let mut segments = path.trim_start_matches('/').split('/');
    match (segments.next(), segments.next(), segments.next()) {
        (Some("v2"), Some(endpoint), Some(operation)) => (endpoint, operation),
        (Some("rest"), _, Some(collection)) => ("", collection),
        _ => ("", ""),
    }
}

pub(super) async fn pass(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path().to_string();
    let (endpoint, operation) = operation(&path);
    let limit = match operation {
        "run" => MAX_RUN,
        "runsync" => MAX_RUNSYNC,
        _ => MAX_OTHER,
    };
    let Ok(body) = to_bytes(body, limit).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let trouble = {
        let mut state = shared.state();
        let full = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        state.seen.push(Seen { operation: operation.into(), path: full, body: body.to_vec() });
        let at = state.script.iter().position(|(scripted, _)| *scripted == operation);
        at.and_then(|at| state.script.remove(at)).map(|(_, trouble)| trouble)
    };
    let mut response = match trouble {
        Some(Trouble::Reply { status, headers, body }) => scripted(status, &headers, body),
        _ if !is_authorized(&shared, &parts.headers, operation) => {
            (StatusCode::UNAUTHORIZED, Json(json!({ "message": "unauthorized" }))).into_response()
        }
        _ if is_too_often(&shared, endpoint, operation) => StatusCode::TOO_MANY_REQUESTS.into_response(),
        trouble => {
            if let Some(Trouble::Slow(time)) = trouble {
                tokio::time::sleep(shared.real(time)).await;
            }
            if let Some(trouble) = trouble {
                parts.extensions.insert(trouble);
            }
            next.run(Request::from_parts(parts, Body::from(body))).await
        }
    };
    let skew = shared.skew.load(Ordering::Relaxed);
    let offset = Duration::from_secs(skew.unsigned_abs());
    let time = if skew < 0 { SystemTime::now() - offset } else { SystemTime::now() + offset };
    if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(time)) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

fn scripted(status: u16, headers: &[(&'static str, String)], body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, body).into_response();
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(*name, value);
        }
    }
    response
}

/// Clients show the key as a bearer's, workers as it is; pings come from a process that shows it too.
fn is_authorized(shared: &Shared, headers: &HeaderMap, operation: &str) -> bool {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if matches!(operation, "job-take" | "job-take-batch" | "job-stop" | "job-done" | "job-stream" | "ping") {
        return shown == shared.key;
    }
    shown.strip_prefix("Bearer ") == Some(&shared.key)
}

fn is_too_often(shared: &Shared, endpoint: &str, operation: &str) -> bool {
    let Some((_, most)) = RATES.into_iter().find(|(name, _)| *name == operation) else { return false };
    let window = shared.now().as_secs() / WINDOW;
    let mut state = shared.state();
    let entry = state.rates.entry((endpoint.into(), operation.into())).or_insert((window, 0));
    if entry.0 != window {
        *entry = (window, 0);
    }
    entry.1 += 1;
    entry.1 > most
}
