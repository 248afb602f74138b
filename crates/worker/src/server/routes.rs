//! Requests in, replies out.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{
        DefaultBodyLimit, Path, Query, Request, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::BytesMut;
use futures_util::StreamExt;
use outboard_core::{
    Digest,
    error::{Error, ErrorKind, Retry},
};
use outboard_protocol::{
    Envelope, PROTOCOL_VERSION,
    envelope::{DIGEST_HEADER, MAX_MESSAGE_BYTES, StateMessage, WorkerHealth, check_digest, decode, encode},
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    Server, blobs,
    refused::{self, Refused},
};

/// Longest time in which a message, other than a blob, must have arrived.
const ARRIVAL: Duration = Duration::from_secs(60);
/// Longest time for which a request waits for news.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

type Shared = State<Arc<Server>>;
type Reply<T = Response> = Result<T, Refused>;

pub(super) fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/blobs/{digest}", get(get_blob).head(head_blob).put(put_blob))
        .route("/v1/tasks", get(list_tasks).post(submit))
        .route("/v1/tasks/{key}", get(wait).delete(cancel))
        .fallback(async || Refused::from(Error::new(ErrorKind::NotFound, "the worker has no such path")))
        .method_not_allowed_fallback(async || {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, Error::invalid("the path has no such method"))
        })
        .layer(from_fn_with_state(server.clone(), authorize))
        // Each route has its own.
        .layer(DefaultBodyLimit::disable())
        .with_state(server)
}

async fn authorize(State(server): Shared, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let token = given.and_then(|value| value.strip_prefix(b"Bearer "));
    if token.is_some_and(|token| server.config.token.matches(token)) {
        return next.run(request).await;
    }
    let why = if given.is_some() { "the token is wrong" } else { "the request has no token" };
    let error = Error::new(ErrorKind::Unauthenticated, why).hint("send the token of the worker's --token-file");
    let mut response = Refused::from(error).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

fn json(status: StatusCode, message: &impl Serialize) -> Reply {
    Ok(refused::message(status, encode(message)?))
}

/// The last segment of the path.
fn segment<T>(path: Result<Path<T>, PathRejection>) -> Reply<T> {
    path.map(|Path(value)| value).map_err(|_| Error::invalid("the path is not UTF-8").into())
}

fn digest(path: Result<Path<String>, PathRejection>) -> Reply<Digest> {
    segment(path)?.parse().map_err(|why: String| Error::invalid(why).into())
}

async fn health(State(server): Shared) -> Reply {
    let blobs = {
        let folder = server.config.store.join("blobs");
        let count = move || std::fs::read_dir(folder).map(|files| files.flatten().filter(is_blob).count() as u64);
        tokio::task::spawn_blocking(count).await.ok().and_then(Result::ok).unwrap_or_default()
    };
    let (running, queued) = server.tasks.counts();
    let health = WorkerHealth {
        protocol: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").into(),
        device: server.hello.device.clone(),
        numerics: server.hello.numerics.clone(),
        layers: server.hello.layers.clone(),
        running,
        queued,
        max_running: server.config.max_running,
        max_queued: server.config.max_queued,
        max_blob_bytes: server.config.max_blob_bytes,
        blobs,
        draining: server.tasks.is_draining(),
    };
    json(StatusCode::OK, &health)
}

/// Not one that is still on its way.
fn is_blob(file: &std::fs::DirEntry) -> bool {
    file.file_name().to_str().is_some_and(|name| name.parse::<Digest>().is_ok())
}

async fn head_blob(State(server): Shared, path: Result<Path<String>, PathRejection>) -> Reply {
    blobs::head(&server.store, &digest(path)?).await
}

async fn get_blob(State(server): Shared, path: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Reply {
    blobs::get(&server.store, &digest(path)?, &headers).await
}

async fn put_blob(
    State(server): Shared,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Reply<StatusCode> {
    blobs::put(&server.store, &digest(path)?, &headers, body, server.config.max_blob_bytes).await
}

async fn list_tasks(State(server): Shared) -> Reply {
    json(StatusCode::OK, &server.tasks.list())
}

async fn submit(State(server): Shared, headers: HeaderMap, body: Body) -> Reply {
    let bytes = timeout(ARRIVAL, read(body)).await.map_err(|_| incomplete("it took too long"))??;
    check_digest(&bytes, headers.get(DIGEST_HEADER).map(|digest| digest.as_bytes()))?;
    let envelope: Envelope = decode(&bytes)?;
    drop(bytes);
    let (status, state) = server.tasks.accept(envelope).await?;
    json(status, &state)
}

async fn read(body: Body) -> Reply<BytesMut> {
    let mut body = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(part) = body.next().await {
        let part = part.map_err(|_| incomplete("the connection broke"))?;
        if bytes.len() + part.len() > MAX_MESSAGE_BYTES {
            let message = format!("a message is larger than {MAX_MESSAGE_BYTES} bytes");
            return Err(Error::new(ErrorKind::PayloadTooLarge, message).into());
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

fn incomplete(why: &str) -> Refused {
    let error = Error::new(ErrorKind::CorruptPayload, format!("the message did not arrive whole: {why}"));
    error.with_retry(Retry::Same { after: None }).into()
}

#[derive(Deserialize)]
#[serde(default)]
struct Wait {
    seen: u64,
    wait_ms: u64,
}

impl Default for Wait {
    fn default() -> Self {
        Self { seen: 0, wait_ms: u64::MAX }
    }
}

async fn wait(
    State(server): Shared,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Wait>, QueryRejection>,
) -> Reply {
    let Query(wait) = query.map_err(|e| Error::invalid(format!("the query cannot be read: {e}")))?;
    let limit = Duration::from_millis(wait.wait_ms).min(LONGEST_WAIT);
    state(server.tasks.wait(&segment(path)?, wait.seen, limit).await)
}

async fn cancel(State(server): Shared, path: Result<Path<String>, PathRejection>) -> Reply {
    state(server.tasks.cancel(&segment(path)?, LONGEST_WAIT).await)
}

fn state(state: Reply<StateMessage>) -> Reply {
    json(StatusCode::OK, &state?)
}
