//! A store in a bucket of an S3-compatible service: the side that holds the credentials.
//!
//! Requests are signed as URLs, those of the client as those that a worker is given, so both go the same way. None is
//! tried again here.
//!
//! # Layout
//!
//! - [`config`]: address and credentials, checked
//! - this module: blobs, streamed both ways
//! - `records`: records of tasks, and what workers left in slots
//! - `grant`: what a worker without credentials is given
//! - `probe`: what the store can do

pub mod config;
mod grant;
mod probe;
mod records;

use std::{fmt, io, io::Write, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join;
use outboard_core::{
    BlobStore, Digest, code,
    error::{Error, ErrorKind, IoContext, Result},
};
use outboard_protocol::{Encoding, SignedUrl};
use reqwest::{
    Method,
    header::{ETAG, HeaderMap},
};
use rusty_s3::{Credentials, S3Action, actions::CreateMultipartUpload};
use tokio::{sync::OnceCell, task::spawn_blocking};

pub use self::{config::BucketConfig, probe::Probe, records::Expired};
use crate::{FolderStore, Sink, Source, Transfer, Upload, refused::element};

/// How long a request of the client's own is good; clocks may differ by that much.
const VALID: Duration = Duration::from_secs(900);
/// Bytes of a part; all that is held in memory of a blob.
const PART: usize = 8 << 20;
/// Parts that S3 takes.
const MAX_PARTS: usize = 10_000;
/// What a reply may hold that isn't a blob.
const MAX_REPLY: usize = 16 << 20;
/// Largest blob that is taken into memory.
const MAX_IN_MEMORY: usize = 4 << 30;

/// Blobs and records in a bucket. Several clients may share one.
#[derive(Clone)]
pub struct Bucket {
    bucket: rusty_s3::Bucket,
    credentials: Credentials,
    prefix: String,
    transfer: Transfer,
    probed: Arc<OnceCell<Probe>>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("endpoint", &self.bucket.base_url().as_str())
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// The bucket of this configuration. No request is made; [`probe`](Self::probe) makes some.
    ///
    /// # Errors
    /// `InvalidConfig`, and `Unauthenticated` where there are no credentials.
    pub fn open(config: &BucketConfig) -> Result<Self> {
        let config::Place { bucket, credentials, prefix } = config.place(|name| std::env::var(name).ok())?;
        let transfer = Transfer::new(bucket.base_url().as_str())?;
        Ok(Self { bucket, credentials, prefix, transfer, probed: Arc::default() })
    }

    fn sign<'a>(&self, action: &impl S3Action<'a>) -> Result<SignedUrl> {
        SignedUrl::new(action.sign(VALID))
    }

    fn blob(&self, digest: &Digest, encoding: Encoding) -> String {
        format!("{}blobs/{digest}{}", self.prefix, encoding.suffix())
    }

    fn get_url(&self, object: &str) -> Result<SignedUrl> {
        self.sign(&self.bucket.get_object(Some(&self.credentials), object))
    }

    /// Says where it happened.
    fn located(&self, error: Error) -> Error {
        error.or_code(code::STORE).at("store", format!("{}{}", self.bucket.base_url(), self.prefix))
    }

    /// Whether an object is there.
    async fn exists(&self, object: &str) -> Result<bool> {
        let url = self.sign(&self.bucket.head_object(Some(&self.credentials), object))?;
        match self.transfer.call(Method::HEAD, &url, 0).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.located(error)),
        }
    }

    /// A small object, if it is there.
    async fn read(&self, object: &str) -> Result<Option<Bytes>> {
        match self.transfer.call(Method::GET, &self.get_url(object)?, MAX_REPLY).await {
            Ok((_, bytes)) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.located(error)),
        }
    }

    /// Removes an object, if it is there.
    async fn delete(&self, object: &str) -> Result<()> {
        let url = self.sign(&self.bucket.delete_object(Some(&self.credentials), object))?;
        match self.transfer.call(Method::DELETE, &url, MAX_REPLY).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.located(error)),
        }
    }

    /// Puts an object only where there is none: true for exactly one of all who try.
    async fn create(&self, object: &str, bytes: Bytes) -> Result<bool> {
        let mut action = self.bucket.put_object(Some(&self.credentials), object);
        action.headers_mut().insert("if-none-match", "*");
        self.transfer.create(&self.sign(&action)?, bytes).await.map_err(|error| self.located(error))
    }

    /// How a blob lies there, if it does.
    async fn find(&self, digest: &Digest) -> Result<Option<Encoding>> {
        let [raw, zstd] = [Encoding::Raw, Encoding::Zstd].map(|encoding| self.blob(digest, encoding));
        let (raw, zstd) = try_join(self.exists(&raw), self.exists(&zstd)).await?;
        Ok(if zstd { Some(Encoding::Zstd) } else { raw.then_some(Encoding::Raw) })
    }

    async fn found(&self, digest: &Digest) -> Result<Encoding> {
        self.find(digest).await?.ok_or_else(|| {
            self.located(Error::new(ErrorKind::NotFound, "the store has no such blob"))
                .at("blob", digest)
                .hint("start the job again")
        })
    }

    /// Brings a blob from the folder into the bucket, if it isn't there. However large it is, a part of it at a time is
    /// in memory.
    ///
    /// # Errors
    /// `NotFound` and `CorruptPayload` where the folder lacks the blob or its file was damaged; what the store refuses.
    pub async fn upload(&self, digest: &Digest, store: &FolderStore) -> Result<()> {
        if self.find(digest).await?.is_some() {
            return Ok(());
        }
        let (owner, name) = (store.clone(), *digest);
        let source = blocking(move || {
            owner.verify(&name)?;
            Source::open(&owner.path(&name))
        });
        self.send(digest, source.await?).await.map_err(|error| self.located(error).at("blob", digest))
    }

    async fn send(&self, digest: &Digest, source: Source) -> Result<()> {
        let (first, source) = part(source).await?;
        let object = self.blob(digest, source.encoding);
        if first.len() < PART {
            return self.put_object(&object, first).await;
        }
        let action = self.bucket.create_multipart_upload(Some(&self.credentials), &object);
        let (_, reply) =
            self.transfer.call_with(Method::POST, &self.sign(&action)?, HeaderMap::new(), MAX_REPLY).await?;
        let reply = CreateMultipartUpload::parse_response(&String::from_utf8_lossy(&reply));
        let id = reply.map_err(|e| strange("of an upload's beginning").because(e))?.upload_id().to_string();
        let sent = self.send_parts(&object, &id, first, source).await;
        if sent.is_err() {
            // Its parts would lie there, and be paid for. Where this fails too, the bucket's own rule removes them.
            let action = self.bucket.abort_multipart_upload(Some(&self.credentials), &object, &id);
            let _ = self.transfer.call(Method::DELETE, &self.sign(&action)?, MAX_REPLY).await;
        }
        sent
    }

    async fn send_parts(&self, object: &str, id: &str, first: Bytes, mut source: Source) -> Result<()> {
        let mut tags: Vec<String> = Vec::new();
        let mut next = first;
        while !next.is_empty() {
            let number = u16::try_from(tags.len() + 1).ok().filter(|number| usize::from(*number) <= MAX_PARTS);
            let number = number.ok_or_else(|| {
                let message =
                    format!("a blob of more than {MAX_PARTS} parts of {PART} bytes is too large for a bucket");
                Error::new(ErrorKind::PayloadTooLarge, message)
            })?;
            let action = self.bucket.upload_part(Some(&self.credentials), object, number, id);
            let upload = Upload::bytes(next, source.encoding);
            let headers = self.transfer.put(&self.sign(&action)?, upload, HeaderMap::new()).await?;
            let tag = headers.get(ETAG).and_then(|tag| tag.to_str().ok());
            tags.push(tag.ok_or_else(|| strange("to a part of an upload"))?.to_string());
            (next, source) = part(source).await?;
        }
        let action =
            self.bucket.complete_multipart_upload(Some(&self.credentials), object, id, tags.iter().map(String::as_str));
        let url = self.sign(&action)?;
        let body = Upload::bytes(action.body().into(), Encoding::Raw);
        let (_, reply) = self.transfer.send(Method::POST, &url, body, HeaderMap::new(), MAX_REPLY).await?;
        check_end(&reply)
    }

    async fn put_object(&self, object: &str, bytes: Bytes) -> Result<()> {
        let url = self.sign(&self.bucket.put_object(Some(&self.credentials), object))?;
        self.transfer.put(&url, Upload::bytes(bytes, Encoding::Raw), HeaderMap::new()).await.map(drop)
    }

    /// Brings a blob from the bucket into the folder, verified, if it isn't there. A download that was cut goes on
    /// where it stopped.
    ///
    /// # Errors
    /// `NotFound`; `CorruptPayload` where the bytes don't match the digest; what the store refuses.
    pub async fn download(&self, digest: &Digest, store: &FolderStore) -> Result<()> {
        if store.has(digest).await? {
            return Ok(());
        }
        let encoding = self.found(digest).await?;
        let object = self.blob(digest, encoding);
        let done = self.transfer.download(|| self.get_url(&object), encoding, digest, store).await;
        done.map(drop).map_err(|error| self.located(error))
    }
}

#[async_trait]
impl BlobStore for Bucket {
    async fn has(&self, digest: &Digest) -> Result<bool> {
        Ok(self.find(digest).await?.is_some())
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes> {
        let encoding = self.found(digest).await?;
        let object = self.blob(digest, encoding);
        let mut sink = Sink::new(Memory::default(), encoding).doing("decompress", object.as_ref())?;
        let fetched = self.transfer.fetch(|| self.get_url(&object), &mut sink).await;
        fetched.map_err(|error| self.located(error).at("blob", digest))?;
        match sink.finish() {
            Ok(Memory(bytes)) if Digest::of(&bytes) == *digest => Ok(bytes.into()),
            _ => {
                let error = Error::new(ErrorKind::CorruptPayload, "the bytes do not match their digest");
                Err(self.located(error).at("blob", digest).hint("remove the object, then start the job again"))
            }
        }
    }

    async fn put(&self, bytes: Bytes) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        if self.find(&digest).await?.is_none() {
            let source = blocking(move || Source::memory(bytes)).await?;
            self.send(&digest, source).await.map_err(|error| self.located(error).at("blob", digest))?;
        }
        Ok(digest)
    }
}

/// A blob that is taken into memory, which has an end.
#[derive(Default)]
struct Memory(Vec<u8>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_IN_MEMORY - self.0.len() {
            let message = format!("the blob is larger than {MAX_IN_MEMORY} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The next part of a source.
async fn part(mut source: Source) -> Result<(Bytes, Source)> {
    blocking(move || {
        let part = source.part(PART);
        let part = part.map_err(|e| Error::invalid(format!("a blob can't be read: {e}")).hint("check the disk"))?;
        Ok((part.into(), source))
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Unexpected, "a thread of the store ended early").because(e))?
}

fn strange(what: &str) -> Error {
    Error::new(ErrorKind::Unexpected, format!("the store's reply {what} has no meaning here"))
        .hint("check that `endpoint` is that of an S3-compatible store")
}

/// S3 begins to answer with a status of 200 before it has put an object together, and may fail then.
fn check_end(reply: &[u8]) -> Result<()> {
    let reply = String::from_utf8_lossy(reply);
    if !reply.contains("<Error") {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Unavailable, "the store failed while it put an object together");
    Err(element(&reply, "Code").into_iter().fold(error, |error, code| error.at("code", code)).hint("try again later"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_noticed_though_the_status_was_good() {
        check_end(b"<?xml version=\"1.0\"?><CopyObjectResult><ETag>a</ETag></CopyObjectResult>").unwrap();
        let error = check_end(b"\n \n<Error><Code>InternalError</Code></Error>").unwrap_err();
        assert_eq!((error.kind(), error.context()[0].1.as_str()), (ErrorKind::Unavailable, "InternalError"));
    }
}
