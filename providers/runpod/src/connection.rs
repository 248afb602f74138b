//! The HTTP client of RunPod: a method per request.

use std::{fmt, time::Duration};

use futures_util::future::join_all;
use outboard_core::{
    error::{Error, ErrorKind, Result},
    finding::Finding,
};
use outboard_store::{
    reach,
    transport::{self, is_loopback},
};
use reqwest::{
    Client, Method, RequestBuilder, Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    Config,
    api::{HealthBody, Job, WorkerList},
    parse_error::parse_error,
    recording::Recording,
    transport_error::{RUNPOD, transport_error},
};

/// What a reply may have: the largest result, and what is around it.
const MAX_REPLY: usize = 24_000_000;
/// What an error's body may have.
const MAX_ERROR: usize = 64 << 10;

pub(crate) struct Connection {
    client: Client,
    base: Url,
    rest: Url,
    manage: Url,
    request_timeout: Duration,
    recording: Option<Recording>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("base_url", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// What came of handing a job over.
#[derive(Debug)]
pub(crate) enum Posted {
    /// RunPod has it.
    Accepted(Box<Job>),
    /// RunPod doesn't have it.
    Refused(Error),
    /// RunPod may have it.
    Lost(Error),
}

impl Connection {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let base = address(&config.base_url, "base_url")?;
        let rest = address(&config.rest_url, "rest_url")?;
        let manage = address(&config.manage_url, "manage_url")?;
        let key = authorization(config.api_key.as_deref().unwrap_or_default())?;
        let client = transport::client(base.host_str().is_some_and(is_loopback))
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, key)]))
            .connect_timeout(config.connect_timeout)
            .build()
            .map_err(|e| wrong("the client of RunPod can't be made").because(e.without_url()))?;
        Ok(Self { client, base, rest, manage, request_timeout: config.request_timeout, recording: None })
    }

    /// Whether RunPod answers at each of its addresses, and what stands in the way.
    pub(crate) async fn reach(&self) -> Vec<Finding> {
        let mut hosts = vec![&self.base];
        for url in [&self.rest, &self.manage] {
            if hosts.iter().all(|host| host.origin() != url.origin()) {
                hosts.push(url);
            }
        }
        join_all(hosts.into_iter().map(|url| reach(&self.client, url, &RUNPOD))).await.concat()
    }

    /// Keeps what is said from here on.
    pub(crate) fn record(&mut self, config: &Config) -> Recording {
        let recording = Recording::new(config.api_key.iter().map(|key| key.trim().to_string()).collect());
        self.recording.insert(recording).clone()
    }

    fn request(&self, method: Method, base: &Url, segments: &[&str]) -> RequestBuilder {
        self.client.request(method, below(base, segments)).timeout(self.request_timeout)
    }

    async fn job(&self, method: Method, segments: &[&str]) -> Result<Job> {
        self.json(self.request(method, &self.base, segments)).await
    }

    /// `POST /run`, or `POST /runsync` that answers after `wait` at the latest.
    pub(crate) async fn post(&self, endpoint: &str, body: Vec<u8>, wait: Option<Duration>) -> Posted {
        let mut url = below(&self.base, &[endpoint, if wait.is_some() { "runsync" } else { "run" }]);
        if let Some(wait) = wait {
            url.query_pairs_mut().append_pair("wait", &wait.as_millis().to_string());
        }
        let request = self.client.post(url).timeout(self.request_timeout + wait.unwrap_or_default());
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        let (status, reply) = match self.send(request).await {
            Ok(sent) => sent,
            Err(error) if error.is_connect() => return Posted::Refused(transport_error(error)),
            Err(error) => return Posted::Lost(transport_error(error)),
        };
        match reply.and_then(|body| parse::<Job>(&body)) {
            Ok(job) if !job.id.is_empty() => Posted::Accepted(Box::new(job)),
            Ok(_) => Posted::Lost(Error::new(ErrorKind::CorruptPayload, "RunPod's reply names no job")),
            // Said by something before RunPod's queue, perhaps; or accepted, and not told.
            Err(error) if matches!(status, 200..=299 | 408 | 500..=599) => Posted::Lost(error),
            Err(error) => Posted::Refused(error),
        }
    }

    /// `GET /status/{id}`.
    pub(crate) async fn status(&self, endpoint: &str, job: &str) -> Result<Job> {
        self.job(Method::GET, &[endpoint, "status", job]).await
    }

    /// `POST /cancel/{id}`.
    pub(crate) async fn cancel(&self, endpoint: &str, job: &str) -> Result<Job> {
        self.job(Method::POST, &[endpoint, "cancel", job]).await
    }

    /// `GET /health`.
    pub(crate) async fn health(&self, endpoint: &str) -> Result<HealthBody> {
        self.json(self.request(Method::GET, &self.base, &[endpoint, "health"])).await
    }

    /// The REST API's workers of an endpoint.
    pub(crate) async fn workers(&self, endpoint: &str) -> Result<WorkerList> {
        self.json(self.request(Method::GET, &self.rest, &["serverless", endpoint, "workers"])).await
    }

    /// Reads from the REST API, version 2.
    pub(crate) async fn rest<T: DeserializeOwned>(&self, segments: &[&str], query: &[(&str, String)]) -> Result<T> {
        self.read(&self.rest, segments, query).await
    }

    /// Reads from its version 1.
    pub(crate) async fn manage<T: DeserializeOwned>(&self, segments: &[&str], query: &[(&str, String)]) -> Result<T> {
        self.read(&self.manage, segments, query).await
    }

    /// Changes something by version 1 of the REST API. What it answers.
    pub(crate) async fn change(&self, method: Method, segments: &[&str], body: Option<Value>) -> Result<Vec<u8>> {
        let request = self.request(method, &self.manage, segments);
        let request = match body {
            Some(body) => request.header(CONTENT_TYPE, "application/json").body(body.to_string()),
            None => request,
        };
        self.send(request).await.map_err(transport_error)?.1
    }

    async fn read<T: DeserializeOwned>(&self, base: &Url, segments: &[&str], query: &[(&str, String)]) -> Result<T> {
        let mut url = below(base, segments);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.json(self.client.get(url).timeout(self.request_timeout)).await
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        parse(&self.send(request).await.map_err(transport_error)?.1?)
    }

    /// The status of the reply, and its body if it is a success.
    async fn send(&self, request: RequestBuilder) -> reqwest::Result<(u16, Result<Vec<u8>>)> {
        let request = request.build()?;
        let said = self.recording.as_ref().map(|recording| {
            let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default().to_vec();
            (recording, request.method().to_string(), request.url().clone(), body)
        });
        let note = |status: Option<u16>, reply: &[u8]| {
            if let Some((recording, method, url, body)) = &said {
                recording.note(method, url, body, status, reply);
            }
        };
        let mut response = match self.client.execute(request).await {
            Ok(response) => response,
            Err(error) => {
                note(None, b"no reply");
                return Err(error);
            }
        };
        let status = response.status();
        if status.is_success() {
            let body = body_of(response, self.request_timeout).await;
            note(Some(status.as_u16()), body.as_deref().unwrap_or_default());
            return Ok((status.as_u16(), body));
        }
        // Where the body doesn't come, the status still tells.
        let body = timeout(self.request_timeout, read(&mut response, MAX_ERROR)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        note(Some(status.as_u16()), &body);
        Ok((status.as_u16(), Err(parse_error(status, response.headers(), &body))))
    }
}

fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

async fn body_of(mut response: Response, limit: Duration) -> Result<Vec<u8>> {
    timeout(limit, read(&mut response, MAX_REPLY))
        .await
        .map_err(|_| Error::new(ErrorKind::Timeout, "RunPod's reply stood still").hint("check the network"))?
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| {
        Error::new(ErrorKind::CorruptPayload, format!("RunPod's reply can't be read: {e}"))
            .hint("check `providers.runpod.base_url`, then try again")
    })
}

/// A body of at most `limit` bytes.
async fn read(response: &mut Response, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(transport_error)? {
        if bytes.len() + piece.len() > limit {
            let message = format!("RunPod's reply is larger than {limit} bytes");
            return Err(Error::new(ErrorKind::PayloadTooLarge, message));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// An address from the configuration. What may hold a secret isn't repeated.
fn address(text: &str, key: &str) -> Result<Url> {
    let at = |error: Error| error.at("key", format!("providers.runpod.{key}"));
    let hint = "remove the key: its default is RunPod's address";
    let url = Url::parse(text).map_err(|e| at(wrong("it is not a URL").because(e).hint(hint)))?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    match url.scheme() {
        _ if !is_plain => Err(at(wrong("it holds more than an address").hint("put the key in `api_key`"))),
        "https" => Ok(url),
        "http" if url.host_str().is_some_and(is_loopback) => Ok(url),
        "http" => Err(at(wrong("plain HTTP would show the key to the network on the way").hint("use https"))),
        _ => Err(at(wrong("it starts with neither `https://` nor `http://`").hint(hint))),
    }
}

fn authorization(key: &str) -> Result<HeaderValue> {
    let at = |error: Error| error.at("key", "providers.runpod.api_key");
    if key.trim().is_empty() {
        let hint = "set OUTBOARD_PROVIDERS__RUNPOD__API_KEY; keys are made in RunPod's console under Settings";
        return Err(at(wrong("the runpod provider has no key").hint(hint)));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
        .map_err(|_| at(wrong("the key has characters that no header can carry").hint("copy it again")))?;
    value.set_sensitive(true);
    Ok(value)
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, message).with_provider("runpod")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_without_secrets() {
        let with = |base_url: &str, key: &str| {
            let config = Config { base_url: base_url.into(), api_key: Some(key.into()), ..Config::default() };
            Connection::new(&config)
        };
        assert!(with("http://127.0.0.1:1/v2", "s3cret").is_ok() && with("https://a/v2", "s3cret").is_ok());
        for (base_url, key, message) in [
            ("http://far.away", "s3cret", "plain HTTP would show the key to the network on the way"),
            ("https://me:s3cret@a", "s3cret", "it holds more than an address"),
            ("https://a?k=s3cret", "s3cret", "it holds more than an address"),
            ("ftp://a", "s3cret", "it starts with neither `https://` nor `http://`"),
            ("a", "s3cret", "it is not a URL"),
            ("https://a", " ", "the runpod provider has no key"),
            ("https://a", "s3cret\n\u{0}", "the key has characters that no header can carry"),
        ] {
            let error = with(base_url, key).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidConfig, message));
            assert!(error.advice().is_some() && !error.report().contains("s3cret"), "{}", error.report());
        }
        assert!(!format!("{:?}", with("https://a", "s3cret").unwrap()).contains("s3cret"));
    }
}
