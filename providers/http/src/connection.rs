//! One worker's HTTP client: a method per request.

use std::{
    fmt,
    future::Future,
    pin::pin,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use outboard_core::{
    Digest, TaskId,
    error::{Error, ErrorKind, Result},
    finding::Finding,
};
use outboard_protocol::{
    Encoding, Envelope,
    envelope::{DIGEST_HEADER, MAX_MESSAGE_BYTES, StateMessage, WorkerHealth, check_digest, decode, encode},
};
use outboard_store::{Upload, reach, transport};
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, RANGE},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{
    Config,
    endpoint::Endpoint,
    parse_error::parse_error,
    transport_error::{WORKER, transport_error},
};

/// Time after which a worker answers a long request as things are then.
pub(crate) const LONGEST_POLL: Duration = Duration::from_secs(30);

/// What an error's body may hold.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// The client of one worker.
pub(crate) struct Connection {
    client: Client,
    /// Ends with `/v1/`.
    base: Url,
    request_timeout: Duration,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// What came of handing a task over.
#[derive(Debug)]
pub(crate) enum Posted {
    /// The worker has it.
    Accepted,
    /// The worker doesn't have it, and says why.
    Refused(Error),
    /// The request didn't come as far as the worker's tasks.
    Unheard(Error),
    /// The worker may have it.
    Lost(Error),
}

/// A live task, as the worker tells it.
#[derive(Debug, Deserialize)]
pub(crate) struct LiveTask {
    pub(crate) key: String,
    pub(crate) running: bool,
}

impl Connection {
    pub(crate) fn new(endpoint: Endpoint, config: &Config) -> Result<Self> {
        let builder = transport::client(endpoint.is_loopback)
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, endpoint.authorization)]))
            .connect_timeout(config.connect_timeout)
            .tls_certs_merge(endpoint.certificates);
        let client = builder.build().map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, "the client of a worker can't be made")
                .at("worker", &endpoint.url)
                .because(e.without_url())
                .hint("check this system's certificates")
        })?;
        Ok(Self { client, base: endpoint.url, request_timeout: config.request_timeout })
    }

    /// Where the worker listens, as it was configured.
    pub(crate) fn url(&self) -> &str {
        self.base.as_str().trim_end_matches("/v1/")
    }

    /// A task's id is where it is found.
    pub(crate) fn id(&self, key: &str) -> TaskId {
        TaskId(self.task(key).into())
    }

    fn task(&self, key: &str) -> Url {
        self.below(&["tasks", key])
    }

    /// The address behind the id of a task of this worker.
    pub(crate) fn find(&self, id: &TaskId) -> Option<Url> {
        let key = id.0.strip_prefix(self.base.as_str())?.strip_prefix("tasks/")?;
        let url = Url::parse(&id.0).ok()?;
        // An id is text from outside: it must not lead elsewhere.
        let is_one_segment = !key.is_empty() && !key.contains(['/', '\\', '?', '#']);
        (is_one_segment && url.as_str() == id.0).then_some(url)
    }

    fn below(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// Adds the worker to an error.
    pub(crate) fn locate(&self, error: Error) -> Error {
        error.with_provider("http").at("worker", self.url())
    }

    fn no_reply(&self, error: reqwest::Error) -> Error {
        self.locate(transport_error(error))
    }

    fn too_slow(&self) -> Error {
        self.locate(Error::new(ErrorKind::Timeout, "the transfer stood still").hint("check the network"))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        self.check(request.send().await.map_err(|e| self.no_reply(e))?).await
    }

    /// A reply that is a success.
    async fn check(&self, mut response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        // Where the body doesn't come, the status still tells.
        let body = timeout(self.request_timeout, read(&mut response, MAX_ERROR_BYTES));
        let body = body.await.ok().and_then(Result::ok).unwrap_or_default();
        let body = if check_digest(&body, digest(&response)).is_ok() { body } else { Vec::new() };
        Err(self.locate(parse_error(status, response.headers(), &body, SystemTime::now())))
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>> {
        let bytes = read(&mut response, MAX_MESSAGE_BYTES).await.map_err(|e| self.locate(e))?;
        check_digest(&bytes, digest(&response)).map_err(|e| self.locate(e))?;
        Ok(bytes)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let bytes = self.body(self.send(request).await?).await?;
        serde_json::from_slice(&bytes).map_err(|e| {
            let error = Error::new(ErrorKind::CorruptPayload, format!("the worker's reply can't be read: {e}"));
            self.locate(error.hint("check that the URL is that of an Outboard worker"))
        })
    }

    /// Whether the worker answers, and what stands in the way.
    pub(crate) async fn reach(&self) -> Vec<Finding> {
        reach(&self.client, &self.base, &WORKER).await
    }

    /// `GET /v1/health`.
    pub(crate) async fn health(&self) -> Result<WorkerHealth> {
        let request = self.request(Method::GET, self.below(&["health"])).timeout(self.request_timeout);
        decode(&self.body(self.send(request).await?).await?).map_err(|e| self.locate(e))
    }

    /// `HEAD /v1/blobs/{digest}`.
    pub(crate) async fn has(&self, digest: &Digest) -> Result<bool> {
        let request = self.request(Method::HEAD, self.blob(digest)).timeout(self.request_timeout);
        match self.send(request).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `PUT /v1/blobs/{digest}`. It may take as long as it moves.
    pub(crate) async fn put(&self, digest: &Digest, upload: Upload) -> Result<()> {
        let mut request = self.request(Method::PUT, self.blob(digest)).body(upload.body);
        if upload.encoding == Encoding::Zstd {
            request = request.header(CONTENT_ENCODING, "zstd");
        }
        if let Some(length) = upload.length {
            request = request.header(CONTENT_LENGTH, length);
        }
        let mut reply = pin!(self.send(request));
        loop {
            let before = upload.sent.load(Ordering::Relaxed);
            match timeout(self.request_timeout, &mut reply).await {
                Ok(reply) => return reply.map(drop),
                Err(_) if upload.sent.load(Ordering::Relaxed) > before => {}
                Err(_) => return Err(self.too_slow()),
            }
        }
    }

    /// `GET /v1/blobs/{digest}`, from byte `from` on. [`StatusCode::PARTIAL_CONTENT`] says that it begins there.
    pub(crate) async fn get(&self, digest: &Digest, from: u64) -> Result<Response> {
        let mut request = self.request(Method::GET, self.blob(digest));
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        self.in_time(self.send(request)).await?
    }

    /// The next bytes of a blob.
    pub(crate) async fn next(&self, response: &mut Response) -> Result<Option<bytes::Bytes>> {
        self.in_time(response.chunk()).await?.map_err(|e| self.no_reply(e))
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        timeout(self.request_timeout, work).await.map_err(|_| self.too_slow())
    }

    fn blob(&self, digest: &Digest) -> Url {
        self.below(&["blobs", &digest.to_string()])
    }

    /// `POST /v1/tasks`.
    pub(crate) async fn post(&self, envelope: &Envelope) -> Posted {
        let body = match encode(envelope) {
            Ok(body) if body.len() > MAX_MESSAGE_BYTES => {
                let message = format!("the task has {} bytes, but may have {MAX_MESSAGE_BYTES}", body.len());
                return Posted::Refused(self.locate(Error::new(ErrorKind::PayloadTooLarge, message)));
            }
            Ok(body) => body,
            Err(error) => return Posted::Refused(self.locate(error)),
        };
        let request = self.request(Method::POST, self.below(&["tasks"])).timeout(self.request_timeout);
        let request =
            request.header(CONTENT_TYPE, "application/json").header(DIGEST_HEADER, Digest::of(&body).to_string());
        let response = match request.body(body).send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Posted::Unheard(self.no_reply(error)),
            Err(error) => return Posted::Lost(self.no_reply(error)),
        };
        let status = response.status();
        match (self.check(response).await, status.as_u16()) {
            // The state is told by the first wait.
            (Ok(_), _) => Posted::Accepted,
            (Err(error), 401 | 403) => Posted::Unheard(error),
            // Said by something between us and the worker, perhaps.
            (Err(error), 408 | 500..=599) => Posted::Lost(error),
            (Err(error), _) => Posted::Refused(error),
        }
    }

    /// `GET /v1/tasks/{key}`, by the key.
    pub(crate) async fn known(&self, key: &str) -> Result<Option<StateMessage>> {
        match self.state(self.task(key), 0, Duration::ZERO).await {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `GET /v1/tasks/{key}`: as soon as it is newer than `seen`, at the latest after `limit`.
    pub(crate) async fn state(&self, mut task: Url, seen: u64, limit: Duration) -> Result<StateMessage> {
        let limit = limit.min(LONGEST_POLL);
        task.query_pairs_mut()
            .append_pair("seen", &seen.to_string())
            .append_pair("wait_ms", &limit.as_millis().to_string());
        self.json(self.request(Method::GET, task).timeout(self.request_timeout.saturating_add(limit))).await
    }

    /// `DELETE /v1/tasks/{key}`: once it has ended, or after [`LONGEST_POLL`] as it is then.
    pub(crate) async fn cancel(&self, task: Url) -> Result<StateMessage> {
        self.json(self.request(Method::DELETE, task).timeout(self.request_timeout.saturating_add(LONGEST_POLL))).await
    }

    /// `GET /v1/tasks`.
    pub(crate) async fn list(&self) -> Result<Vec<LiveTask>> {
        self.json(self.request(Method::GET, self.below(&["tasks"])).timeout(self.request_timeout)).await
    }
}

/// The digest that came along with a message.
fn digest(response: &Response) -> Option<&[u8]> {
    response.headers().get(DIGEST_HEADER).map(|digest| digest.as_bytes())
}

/// A body of at most `limit` bytes.
async fn read(response: &mut Response, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(transport_error)? {
        if bytes.len() + piece.len() > limit {
            let message = format!("the worker's reply is larger than {limit} bytes");
            return Err(Error::new(ErrorKind::PayloadTooLarge, message));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Whether a blob's bytes go on where they were asked from.
pub(crate) fn goes_on(response: &Response) -> bool {
    response.status() == StatusCode::PARTIAL_CONTENT
}
