//! Lambda's own address before an emulator. It does what no emulator does: it answers a dry run, refuses what is more at
//! the same time than may be, and says what is billed.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{net::TcpListener, task::JoinHandle};

use super::Emulator;

/// What is said of an invocation in headers.
const KIND: &str = "x-amz-invocation-type";
const LOG: &str = "x-amz-log-result";
const FUNCTION_ERROR: &str = "x-amz-function-error";
const ERROR_TYPE: &str = "x-amzn-errortype";

/// The address; gone when dropped.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    seen: Arc<Seen>,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Seen {
    emulator: String,
    client: reqwest::Client,
    limit: usize,
    running: AtomicUsize,
    most: AtomicUsize,
    invocations: AtomicUsize,
    throttled: AtomicUsize,
    billed_ms: AtomicU64,
}

impl Endpoint {
    /// Before `emulator`, for `limit` invocations at the same time.
    ///
    /// # Errors
    /// Where there is no port, or no client for the emulator.
    pub async fn start(emulator: &Emulator, limit: usize) -> io::Result<Self> {
        let client = outboard_store::transport::client(true).build().map_err(io::Error::other)?;
        let seen = Arc::new(Seen {
            emulator: emulator.url(),
            client,
            limit,
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            invocations: AtomicUsize::new(0),
            throttled: AtomicUsize::new(0),
            billed_ms: AtomicU64::new(0),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let routes = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(seen.clone());
        let serving = tokio::spawn(async move { drop(axum::serve(listener, routes).await) });
        Ok(Self { address, seen, serving })
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The most invocations that ran at the same time.
    #[must_use]
    pub fn most(&self) -> usize {
        self.seen.most.load(Ordering::SeqCst)
    }

    /// Invocations that ran.
    #[must_use]
    pub fn invocations(&self) -> usize {
        self.seen.invocations.load(Ordering::SeqCst)
    }

    /// Invocations that were refused.
    #[must_use]
    pub fn throttled(&self) -> usize {
        self.seen.throttled.load(Ordering::SeqCst)
    }

    /// The time that all of them are billed.
    #[must_use]
    pub fn billed(&self) -> Duration {
        Duration::from_millis(self.seen.billed_ms.load(Ordering::SeqCst))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(seen): State<Arc<Seen>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if headers.get(KIND).is_some_and(|kind| kind == "DryRun") {
        return StatusCode::NO_CONTENT.into_response();
    }
    let running = seen.running.fetch_add(1, Ordering::SeqCst) + 1;
    let response = if running > seen.limit {
        seen.throttled.fetch_add(1, Ordering::SeqCst);
        throttle()
    } else {
        seen.most.fetch_max(running, Ordering::SeqCst);
        seen.invocations.fetch_add(1, Ordering::SeqCst);
        let answered = seen.forward(&uri, body).await;
        answered.unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, error.to_string()).into_response())
    };
    seen.running.fetch_sub(1, Ordering::SeqCst);
    response
}

/// The shape is that of AWS's documentation of 2026-08.
fn throttle() -> Response {
    const BODY: &str = "{\"Reason\":\"ReservedFunctionConcurrentInvocationLimitExceeded\",\"Type\":\"User\",\
                        \"message\":\"Rate Exceeded.\"}";
    let kind = [(ERROR_TYPE, "TooManyRequestsException")];
    (StatusCode::TOO_MANY_REQUESTS, kind, BODY).into_response()
}

impl Seen {
    async fn forward(&self, uri: &Uri, body: Bytes) -> reqwest::Result<Response> {
        let began = Instant::now();
        let reply = self.client.post(format!("{}{}", self.emulator, uri.path())).body(body).send().await?;
        let (status, headers) = (reply.status(), reply.headers().clone());
        let mut response = (status, reply.bytes().await?).into_response();
        for name in [FUNCTION_ERROR, ERROR_TYPE] {
            if let Some(told) = headers.get(name) {
                response.headers_mut().insert(name, told.clone());
            }
        }
        let ms = began.elapsed().as_nanos().div_ceil(1_000_000);
        self.billed_ms.fetch_add(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::SeqCst);
        let report = STANDARD.encode(format!("REPORT RequestId: 1\tDuration: {ms} ms\tBilled Duration: {ms} ms\t\n"));
        if let Ok(report) = HeaderValue::from_str(&report) {
            response.headers_mut().insert(LOG, report);
        }
        Ok(response)
    }
}
