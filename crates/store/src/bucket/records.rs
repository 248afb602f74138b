//! Records of tasks in a bucket, and the blobs that workers left in their slots.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use outboard_core::{
    Digest, Task,
    error::{Error, ErrorKind, Result},
};
use outboard_protocol::{
    Stored, TaskProgress, TaskRecord,
    envelope::{Ending, decode},
};
use reqwest::{
    Method,
    header::{DATE, HeaderMap, HeaderName, HeaderValue},
};
use rusty_s3::{S3Action, actions::ListObjectsV2};
use serde::Deserialize;

use super::{Bucket, MAX_REPLY, check_end, strange};
use crate::FolderStore;

/// Objects that are listed at most: what is more than that is no store of ours.
const MAX_LISTED: usize = 1_000_000;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Tasks.
    pub tasks: usize,
    /// Blobs.
    pub blobs: usize,
}

/// An object, as a listing tells it.
pub(super) struct Entry {
    pub(super) name: String,
    /// Since it was written, by the store's clock.
    age: Duration,
}

impl Bucket {
    pub(super) fn record(&self, key: &str, record: &str) -> String {
        format!("{}tasks/{}/{record}", self.prefix, Digest::of(key.as_bytes()))
    }

    pub(super) fn slot(&self, key: &str, slot: u32) -> String {
        self.record(key, &format!("out/{slot}"))
    }

    /// Takes the lease of a task: true for exactly one of all who try, where the store holds conditions. `holder` says
    /// who.
    ///
    /// # Errors
    /// What the store refuses.
    pub async fn lease(&self, key: &str, holder: Bytes) -> Result<bool> {
        self.create(&self.record(key, "lease"), holder).await
    }

    /// What the holder of the lease wrote, if anyone took it.
    ///
    /// # Errors
    /// What the store refuses.
    pub async fn holder(&self, key: &str) -> Result<Option<Bytes>> {
        self.read(&self.record(key, "lease")).await
    }

    /// The attempt that has the task already: it runs, or has come to what counts for this attempt too. What an earlier
    /// one without an outcome left behind is removed.
    ///
    /// # Errors
    /// What the store refuses; `CorruptPayload` where the records can't be read.
    pub async fn taken(&self, task: &Task) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Lease {
            attempt: String,
        }
        if let Some(TaskRecord { result, .. }) = self.result(&task.key).await?
            && (matches!(result.ended, Ending::Finished(_)) || result.attempt == task.attempt)
        {
            return Ok(Some(result.attempt));
        }
        let holder = self.holder(&task.key).await?;
        match holder.and_then(|bytes| serde_json::from_slice::<Lease>(&bytes).ok()) {
            Some(Lease { attempt }) if attempt == task.attempt => Ok(Some(attempt)),
            Some(_) => self.remove(&task.key).await.map(|()| None),
            None => Ok(None),
        }
    }

    /// Notes where a task was handed over: whoever does so again finds it there. An earlier note is replaced.
    ///
    /// # Errors
    /// What the store refuses.
    pub async fn note_launch(&self, key: &str, note: Bytes) -> Result<()> {
        let put = self.put_object(&self.record(key, "launch"), note).await;
        put.map_err(|error| self.located(error))
    }

    /// Where the task was handed over, if it was.
    ///
    /// # Errors
    /// What the store refuses.
    pub async fn launch(&self, key: &str) -> Result<Option<Bytes>> {
        self.read(&self.record(key, "launch")).await
    }

    /// What happened so far, if anything did.
    ///
    /// # Errors
    /// What the store refuses; `CorruptPayload` where it can't be read.
    pub async fn progress(&self, key: &str) -> Result<Option<TaskProgress>> {
        let bytes = self.read(&self.record(key, "progress")).await?;
        bytes.map(|bytes| TaskProgress::decode(&bytes)).transpose().map_err(|error| self.located(error))
    }

    /// The result, if there is one.
    ///
    /// # Errors
    /// What the store refuses; `CorruptPayload` where it can't be read, or is another task's.
    pub async fn result(&self, key: &str) -> Result<Option<TaskRecord>> {
        let Some(bytes) = self.read(&self.record(key, "result")).await? else { return Ok(None) };
        let record: TaskRecord = decode(&bytes).map_err(|error| self.located(error))?;
        if record.result.key != key {
            let error = Error::new(ErrorKind::CorruptPayload, "a result is that of another task");
            return Err(self.located(error).at("key", key));
        }
        Ok(Some(record))
    }

    /// Brings blobs that a progress or a result names from their slots into the folder, verified, and puts copies among
    /// the bucket's blobs, where the next worker finds them. No bytes travel for the copies.
    ///
    /// # Errors
    /// `NotFound` where a slot is empty; `CorruptPayload` where the bytes don't match the digest; what the store refuses.
    pub async fn collect(&self, key: &str, stored: &[Stored], store: &FolderStore) -> Result<()> {
        for Stored { digest, slot, encoding, .. } in stored {
            if self.find(digest).await?.is_some() {
                self.download(digest, store).await?;
                continue;
            }
            let object = self.slot(key, *slot);
            let collected = async {
                let tag = self.transfer.download(|| self.get_url(&object), *encoding, digest, store).await?;
                self.copy(&object, &self.blob(digest, *encoding), tag).await
            };
            collected.await.map_err(|error| self.located(error).at("slot", slot))?;
        }
        Ok(())
    }

    /// Copies what was read: should the object have changed since, its tag has too.
    async fn copy(&self, from: &str, to: &str, tag: Option<HeaderValue>) -> Result<()> {
        // Encoded as in a URL, which is what S3 wants here.
        let path = self.bucket.object_url(from);
        let path = path.path().strip_prefix(self.bucket.base_url().path()).unwrap_or(path.path());
        let source = format!("/{}/{path}", self.bucket.name());
        let tag = tag.as_ref().and_then(|tag| tag.to_str().ok());
        let pairs = [("x-amz-copy-source", Some(source.as_str())), ("x-amz-copy-source-if-match", tag)];
        let mut action = self.bucket.put_object(Some(&self.credentials), to);
        let mut headers = HeaderMap::new();
        for (name, value) in pairs.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            action.headers_mut().insert(name, value);
            let value = HeaderValue::from_str(value).map_err(|e| strange("names a tag that").because(e))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let copied = self.transfer.call_with(Method::PUT, &self.sign(&action)?, headers, MAX_REPLY).await;
        let (_, reply) = copied.map_err(|error| match error.kind() {
            ErrorKind::Conflict => Error::new(ErrorKind::CorruptPayload, "a slot changed while it was collected"),
            _ => error,
        })?;
        check_end(&reply)
    }

    /// Forgets a task, so that another attempt may run it: its records and slots. The lease goes last, so that nobody takes
    /// it meanwhile.
    ///
    /// The URLs of earlier grants stay good until their time is over: a worker that was given up may still write what
    /// names its own attempt.
    ///
    /// # Errors
    /// What the store refuses.
    pub async fn remove(&self, key: &str) -> Result<()> {
        let folder = self.record(key, "");
        self.remove_all(self.list(&folder).await?).await
    }

    async fn remove_all(&self, mut entries: Vec<Entry>) -> Result<()> {
        entries.sort_by_key(|entry| entry.name.ends_with("/lease"));
        for entry in entries {
            self.delete(&entry.name).await?;
        }
        Ok(())
    }

    /// Removes tasks in which nothing was written for `age`, and blobs that were written longer ago, but for those of
    /// which `keep` holds: a task by the digest of its key. A blob that is used again doesn't become young: where several
    /// clients share the bucket, `age` must be longer than any of their jobs.
    ///
    /// # Errors
    /// What the store refuses.
    pub async fn expire(&self, age: Duration, keep: impl Fn(&Digest) -> bool) -> Result<Expired> {
        let mut expired = Expired::default();
        let folder = format!("{}tasks/", self.prefix);
        let mut tasks: BTreeMap<Digest, Vec<Entry>> = BTreeMap::new();
        for entry in self.list(&folder).await? {
            let name = entry.name.strip_prefix(&folder).and_then(|path| path.split('/').next()?.parse().ok());
            if let Some(digest) = name {
                tasks.entry(digest).or_default().push(entry);
            }
        }
        for (digest, entries) in tasks {
            if !keep(&digest) && entries.iter().all(|entry| entry.age >= age) {
                self.remove_all(entries).await?;
                expired.tasks += 1;
            }
        }
        let folder = format!("{}blobs/", self.prefix);
        for entry in self.list(&folder).await? {
            let name = entry.name.strip_prefix(&folder).map(|name| name.strip_suffix(".zst").unwrap_or(name));
            let digest: Option<Digest> = name.and_then(|name| name.parse().ok());
            if digest.is_some_and(|digest| !keep(&digest)) && entry.age >= age {
                self.delete(&entry.name).await?;
                expired.blobs += 1;
            }
        }
        Ok(expired)
    }

    /// The objects whose names begin so.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
            action.with_prefix(prefix);
            if let Some(token) = token.take() {
                action.with_continuation_token(token);
            }
            let reply = self.transfer.call(Method::GET, &self.sign(&action)?, MAX_REPLY).await;
            let (headers, body) = reply.map_err(|error| self.located(error))?;
            let page = ListObjectsV2::parse_response(&String::from_utf8_lossy(&body));
            let page = page.map_err(|e| self.located(strange("to a listing").because(e)))?;
            let now = server_time(&headers);
            entries.extend(page.contents.into_iter().map(|object| {
                let written = object.last_modified.and_then(|time| time.parse::<jiff::Timestamp>().ok());
                // What has no time is young: it stays.
                let age = written.and_then(|time| now.duration_since(time.into()).ok()).unwrap_or_default();
                Entry { name: object.key, age }
            }));
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(entries);
            }
            if entries.len() > MAX_LISTED {
                let message = format!("the store has more than {MAX_LISTED} objects below its prefix");
                return Err(self.located(Error::invalid(message)).hint("remove old ones, or use another prefix"));
            }
        }
    }
}

/// The store's clock, which says when objects were written too.
fn server_time(headers: &HeaderMap) -> SystemTime {
    let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    date.unwrap_or_else(SystemTime::now)
}
