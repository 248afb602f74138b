//! Objects over HTTP, by URLs that are signed already. Nothing here knows a credential.

use std::{
    future::Future,
    io::{self, Write},
    pin::pin,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use outboard_core::{
    Digest,
    error::{Error, ErrorKind, IoContext, Result},
};
use outboard_protocol::{Encoding, SignedUrl};
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH, RANGE},
};
use tokio::time::timeout;

use crate::{
    FolderStore, Sink, Upload,
    refused::refused,
    transport::{self, Peer, is_loopback, transport_error},
};

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest time for a reply, and for a transfer to stand still.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest time for a reply that isn't a blob.
const LONGEST_REPLY: Duration = Duration::from_secs(900);
/// What an error's body may hold.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// How often a download goes on after a cut, each time with at least one new byte.
const MAX_CUTS: u32 = 8;
/// A blob that would be larger isn't fetched.
const MAX_BLOB_BYTES: u64 = 64 << 30;

const STORE: Peer = Peer {
    name: "store",
    address: "`endpoint`",
    start: "start the store, or check `endpoint`",
    slow: "look at the network and at the store, then try again",
    log: "the store",
};

/// A client of a store.
#[derive(Clone, Debug)]
pub struct Transfer {
    client: Client,
}

impl Transfer {
    /// A client of the store at this URL. No request is made.
    ///
    /// # Errors
    /// `InvalidConfig` where this system has no certificates.
    pub fn new(url: &str) -> Result<Self> {
        let host = Url::parse(url).ok().and_then(|url| url.host_str().map(is_loopback));
        let client = transport::client(host.unwrap_or(false)).connect_timeout(CONNECT).build().map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, "the client of the store can't be made")
                .because(e.without_url())
                .hint("check this system's certificates")
        })?;
        Ok(Self { client })
    }

    /// Whether the store at this URL answers.
    #[cfg(feature = "s3")]
    pub(crate) async fn reach(&self, url: &Url) -> Vec<outboard_core::finding::Finding> {
        crate::reach(&self.client, url, &STORE).await
    }

    fn request(&self, method: Method, url: &SignedUrl) -> RequestBuilder {
        self.client.request(method, url.as_str())
    }

    /// A request without a body, and the reply's body, which may have `limit` bytes.
    ///
    /// # Errors
    /// What the store refuses, `PayloadTooLarge`, and where there is no answer.
    pub async fn call(&self, method: Method, url: &SignedUrl, limit: usize) -> Result<(HeaderMap, Bytes)> {
        self.finish(self.request(method, url), limit).await.map_err(|error| at(error, url))
    }

    /// As [`call`](Self::call), with headers.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_with(
        &self,
        method: Method,
        url: &SignedUrl,
        headers: HeaderMap,
        limit: usize,
    ) -> Result<(HeaderMap, Bytes)> {
        let request = self.request(method, url).headers(headers).header(CONTENT_LENGTH, 0);
        self.finish(request, limit).await.map_err(|error| at(error, url))
    }

    async fn finish(&self, request: RequestBuilder, limit: usize) -> Result<(HeaderMap, Bytes)> {
        let mut response = in_time(check(request)).await??;
        let headers = std::mem::take(response.headers_mut());
        Ok((headers, read(&mut response, limit).await?.into()))
    }

    /// Puts an object. It may take as long as it moves.
    ///
    /// # Errors
    /// As [`call`](Self::call); `Conflict` where a condition doesn't hold.
    pub async fn put(&self, url: &SignedUrl, upload: Upload, headers: HeaderMap) -> Result<HeaderMap> {
        let (method, limit) = (Method::PUT, MAX_ERROR_BYTES);
        self.send(method, url, upload, headers, limit).await.map(|(headers, _)| headers)
    }

    /// Sends a body, and returns the reply's.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn send(
        &self,
        method: Method,
        url: &SignedUrl,
        upload: Upload,
        headers: HeaderMap,
        limit: usize,
    ) -> Result<(HeaderMap, Bytes)> {
        let length = upload.length.ok_or_else(|| Error::new(ErrorKind::Unexpected, "a body without a length"))?;
        let request = self.request(method, url).headers(headers).header(CONTENT_LENGTH, length).body(upload.body);
        let mut reply = pin!(check(request));
        let mut response = loop {
            let before = upload.sent.load(Ordering::Relaxed);
            match timeout(SILENCE, &mut reply).await {
                Ok(reply) => break reply.map_err(|error| at(error, url))?,
                Err(_) if upload.sent.load(Ordering::Relaxed) > before => {}
                Err(_) => return Err(at(too_slow(), url)),
            }
        };
        let headers = std::mem::take(response.headers_mut());
        Ok((headers, read(&mut response, limit).await.map_err(|error| at(error, url))?.into()))
    }

    /// Puts an object only where there is none: true for exactly one of all who try.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn create(&self, url: &SignedUrl, bytes: Bytes) -> Result<bool> {
        match self.put(url, Upload::bytes(bytes, Encoding::Raw), if_absent()).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Brings a blob into the store, verified; its tag where it lay.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch); `CorruptPayload` where the bytes don't match the digest.
    pub async fn download(
        &self,
        url: impl Fn() -> Result<SignedUrl>,
        encoding: Encoding,
        digest: &Digest,
        store: &FolderStore,
    ) -> Result<Option<HeaderValue>> {
        let path = store.path(digest);
        let mut sink = Sink::new(store.receive(digest, MAX_BLOB_BYTES)?, encoding).doing("decompress", &path)?;
        let tag = self.fetch(url, &mut sink).await.map_err(|error| error.at("blob", digest))?;
        let incoming = sink.finish().map_err(|e| written(e).at("blob", digest))?;
        tokio::task::spawn_blocking(move || incoming.finish())
            .await
            .map_err(|e| Error::new(ErrorKind::Unexpected, "a thread of the store ended early").because(e))??;
        Ok(tag)
    }

    /// Writes an object's bytes to `sink`. One that was cut goes on where it stopped. `url` is asked for each request.
    ///
    /// # Errors
    /// As [`call`](Self::call); `CorruptPayload` where the sink can't make sense of them.
    pub async fn fetch(
        &self,
        url: impl Fn() -> Result<SignedUrl>,
        sink: &mut impl Write,
    ) -> Result<Option<HeaderValue>> {
        let (mut received, mut tag, mut cuts) = (0, None, 0);
        loop {
            let (before, url) = (received, url()?);
            match self.receive(&url, sink, &mut received, &mut tag).await {
                Ok(()) => return Ok(tag),
                Err(error)
                    if received > before
                        && cuts < MAX_CUTS
                        && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) =>
                {
                    cuts += 1;
                }
                Err(error) => return Err(at(error, &url)),
            }
        }
    }

    async fn receive(
        &self,
        url: &SignedUrl,
        sink: &mut impl Write,
        received: &mut u64,
        tag: &mut Option<HeaderValue>,
    ) -> Result<()> {
        let mut request = self.request(Method::GET, url);
        if *received > 0 {
            request = request.header(RANGE, format!("bytes={received}-"));
            if let Some(tag) = &tag {
                request = request.header(IF_MATCH, tag);
            }
        }
        let mut response = in_time(check(request)).await?.map_err(|error| match error.kind() {
            // Its tag is another one.
            ErrorKind::Conflict => {
                Error::new(ErrorKind::CorruptPayload, "an object changed while it was fetched").hint("fetch it again")
            }
            _ => error,
        })?;
        *tag = response.headers().get(ETAG).cloned();
        // Where the store gave everything anew, what came already is passed over.
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT { 0 } else { *received };
        while let Some(piece) = in_time(response.chunk()).await?.map_err(|e| transport_error(e, &STORE))? {
            let known = skip.min(piece.len() as u64);
            skip -= known;
            let news = &piece[usize::try_from(known).unwrap_or(piece.len())..];
            // Into the page cache: shorter than the way to another thread and back.
            sink.write_all(news).map_err(written)?;
            *received += news.len() as u64;
        }
        Ok(())
    }
}

/// The header of a put that must not replace anything.
fn if_absent() -> HeaderMap {
    HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("*"))])
}

async fn check(request: RequestBuilder) -> Result<Response> {
    let mut response = request.send().await.map_err(|e| transport_error(e, &STORE))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let body = read(&mut response, MAX_ERROR_BYTES).await.unwrap_or_default();
    Err(refused(response.status(), response.headers(), &body, SystemTime::now()))
}

/// A body of at most `limit` bytes. S3 may send blanks for minutes while it puts parts together.
async fn read(response: &mut Response, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let all = async {
        while let Some(piece) = in_time(response.chunk()).await?.map_err(|e| transport_error(e, &STORE))? {
            if bytes.len() + piece.len() > limit {
                let message = format!("the store's reply is larger than {limit} bytes");
                return Err(Error::new(ErrorKind::PayloadTooLarge, message));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(())
    };
    timeout(LONGEST_REPLY, all).await.map_err(|_| too_slow())??;
    Ok(bytes)
}

/// Says which object it was, without the signature.
fn at(error: Error, url: &SignedUrl) -> Error {
    error.at("object", format!("{url:?}"))
}

async fn in_time<T>(work: impl Future<Output = T>) -> Result<T> {
    timeout(SILENCE, work).await.map_err(|_| too_slow())
}

fn too_slow() -> Error {
    Error::new(ErrorKind::Timeout, format!("nothing moved between this machine and the store for {SILENCE:?}"))
        .hint(STORE.slow)
}

/// What went wrong when bytes were written: our disk, or bytes that aren't what they should be.
fn written(error: io::Error) -> Error {
    use io::ErrorKind as Io;
    let damaged = |why: &io::Error| Error::new(ErrorKind::CorruptPayload, format!("a blob can't be decoded: {why}"));
    match error.kind() {
        Io::FileTooLarge => Error::new(ErrorKind::PayloadTooLarge, error.to_string()),
        Io::StorageFull | Io::QuotaExceeded => Error::new(ErrorKind::InvalidRequest, "the disk is full")
            .hint("free some space, then run the command again"),
        // zstd's own errors are of no particular kind.
        Io::Other | Io::UnexpectedEof | Io::InvalidData => damaged(&error),
        _ => Error::new(ErrorKind::InvalidRequest, format!("a blob can't be written: {error}")).hint("check the disk"),
    }
}
