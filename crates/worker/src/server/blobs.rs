//! Blobs over HTTP, streamed both ways.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use outboard_core::{
    BlobStore, Digest,
    error::{Error, ErrorKind, IoContext, Retry},
};
use outboard_protocol::Encoding;
use outboard_store::{FolderStore, Incoming, Sink, encoding::LEVEL};
use tokio::{task::spawn_blocking, time::timeout};

use super::refused::Refused;

/// Longest time without a byte of a blob that is sent to us.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes that are read or written at a time.
const CHUNK: usize = 256 << 10;

pub(super) async fn head(store: &FolderStore, digest: &Digest) -> Result<Response, Refused> {
    let (_, length) = open(store, digest).await?;
    Ok(([
        (header::CONTENT_LENGTH, HeaderValue::from(length)),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    ])
    .into_response())
}

pub(super) async fn get(store: &FolderStore, digest: &Digest, headers: &HeaderMap) -> Result<Response, Refused> {
    let (mut file, length) = open(store, digest).await?;
    if let Some(from) = range(headers) {
        if from >= length {
            let error = Error::invalid(format!("the blob has {length} bytes, none from {from} on"));
            return Err(Refused::new(StatusCode::RANGE_NOT_SATISFIABLE, error));
        }
        let moved = file.seek(SeekFrom::Start(from)).doing("read the blob", &store.path(digest));
        moved.map_err(Refused::store)?;
        let range = format!("bytes {from}-{}/{length}", length - 1);
        let headers = [(header::CONTENT_LENGTH, (length - from).to_string()), (header::CONTENT_RANGE, range)];
        return Ok((StatusCode::PARTIAL_CONTENT, headers, streamed(file)).into_response());
    }
    if accepts_zstd(headers) {
        let encoder = zstd::stream::read::Encoder::new(file, LEVEL).doing("read the blob", &store.path(digest));
        let body = streamed(encoder.map_err(Refused::store)?);
        return Ok(([(header::CONTENT_ENCODING, "zstd")], body).into_response());
    }
    let headers = [(header::CONTENT_LENGTH, length.to_string()), (header::ACCEPT_RANGES, "bytes".into())];
    Ok((headers, streamed(file)).into_response())
}

async fn open(store: &FolderStore, digest: &Digest) -> Result<(File, u64), Refused> {
    let (path, digest) = (store.path(digest), *digest);
    let opened = spawn_blocking(move || {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    });
    match opened.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
        Ok(opened) => Ok(opened),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::NotFound, "the worker has no such blob").at("blob", digest).into())
        }
        Err(e) => Err(Refused::store(Error::new(ErrorKind::WorkerUnhealthy, e.to_string()))),
    }
}

/// `N` of `Range: bytes=N-`. Other ranges are ignored, as HTTP allows.
fn range(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn accepts_zstd(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("zstd"))
}

/// A thread is borrowed for each chunk only: a client that doesn't read holds none.
fn streamed(reader: impl Read + Send + 'static) -> Body {
    Body::from_stream(stream::try_unfold(reader, |mut reader| async {
        let read = spawn_blocking(move || {
            let mut chunk = Vec::with_capacity(CHUNK);
            reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
            Ok((chunk, reader))
        });
        let (chunk, reader) = read.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))?;
        Ok::<_, io::Error>((!chunk.is_empty()).then(|| (Bytes::from(chunk), reader)))
    }))
}

/// Takes a blob of at most `limit` bytes, whichever way they are encoded.
pub(super) async fn put(
    store: &FolderStore,
    digest: &Digest,
    headers: &HeaderMap,
    body: Body,
    limit: u64,
) -> Result<StatusCode, Refused> {
    if store.has(digest).await.map_err(Refused::store)? {
        return Ok(StatusCode::OK);
    }
    let encoding = headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let encoding = match encoding {
        None | Some(b"identity") => Encoding::Raw,
        Some(b"zstd") => Encoding::Zstd,
        Some(_) => {
            let error = Error::new(ErrorKind::Unsupported, "the blob's encoding is neither `identity` nor `zstd`");
            return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
        }
    };
    if length.is_some_and(|length: u64| length > limit) {
        return Err(too_large(limit).into());
    }
    let incoming = store.receive(digest, limit).map_err(Refused::store)?;
    let mut sink = Sink::new(incoming, encoding)
        .map_err(|e| Error::new(ErrorKind::Unexpected, format!("cannot decompress: {e}")))?;
    let mut body = body.into_data_stream();
    let mut part = BytesMut::new();
    loop {
        let more = timeout(SILENCE, body.next()).await.map_err(|_| cut_off("nothing came for too long"))?;
        if let Some(bytes) = &more {
            part.extend_from_slice(bytes.as_ref().map_err(|_| cut_off("the connection broke"))?);
        }
        if part.len() >= CHUNK || more.is_none() {
            let bytes = part.split();
            let written = spawn_blocking(move || sink.write_all(&bytes).map(|()| sink));
            let written = written.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            sink = written.map_err(|e| explain(e, limit))?;
        }
        if more.is_none() {
            break;
        }
    }
    let finished = spawn_blocking(move || finish(sink, limit)).await;
    finished.unwrap_or_else(|panic| Err(explain(io::Error::other(panic), limit)))?;
    Ok(StatusCode::CREATED)
}

fn finish(sink: Sink<Incoming>, limit: u64) -> Result<(), Refused> {
    let incoming = sink.finish().map_err(|e| explain(e, limit))?;
    incoming.finish().map(drop).map_err(|error| match error.kind() {
        ErrorKind::CorruptPayload => Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error),
        _ => Refused::store(error),
    })
}

fn too_large(limit: u64) -> Error {
    Error::new(ErrorKind::PayloadTooLarge, format!("the worker takes no blob of more than {limit} bytes"))
}

fn cut_off(why: &str) -> Refused {
    let error = Error::new(ErrorKind::CorruptPayload, format!("the blob did not arrive whole: {why}"));
    Refused::new(StatusCode::BAD_REQUEST, error.with_retry(Retry::Same { after: None }))
}

/// What went wrong when bytes were written: too many, or not zstd, or our disk.
fn explain(error: io::Error, limit: u64) -> Refused {
    use io::ErrorKind as Io;
    match error.kind() {
        Io::FileTooLarge => too_large(limit).into(),
        Io::StorageFull | Io::QuotaExceeded | Io::PermissionDenied | Io::ReadOnlyFilesystem | Io::NotFound => {
            Refused::store(Error::new(ErrorKind::WorkerUnhealthy, error.to_string()))
        }
        _ => {
            let error = Error::new(ErrorKind::CorruptPayload, format!("the blob cannot be read: {error}"));
            Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error)
        }
    }
}
