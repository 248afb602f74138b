//! Carries a task out with a bucket as its store, by the URLs that its envelope brings: no credentials are needed.
//!
//! # Layout
//!
//! - this module: lease, blobs in, run, result
//! - `notes`: what happens, bounded
//! - `send`: blobs out, again where that helps

mod notes;
mod send;

use std::{
    future::Future,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use outboard_core::{
    Digest, Event,
    error::{Error, ErrorKind, Result, Retry},
    task::Checkpoint,
};
use outboard_protocol::{
    Encoding, Envelope, Grant, Stored, TaskRecord, TaskResult,
    envelope::{Ending, encode, now},
};
use outboard_store::{FolderStore, Transfer, Upload};
use serde::Serialize;
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

use self::{notes::Notes, send::persist};
use crate::{Runner, supervisor::ended};

/// Progress is written no more often.
const EVERY: Duration = Duration::from_secs(1);

/// Carries out a task whose envelope brings a grant: takes its lease, fetches what `store` lacks, runs it, and leaves
/// checkpoints, progress and the result in the bucket. The result is returned too.
///
/// What came too late, or is another worker's, isn't run and leaves nothing behind. When `stop` completes, training
/// stops after the batch, with a checkpoint. Blobs stay in `store` for the next task.
pub async fn carry<R, S, O>(mut envelope: Envelope, runner: &R, store: &FolderStore, stop: S, observe: O) -> TaskResult
where
    R: Runner,
    S: Future<Output = ()> + Send,
    O: FnMut(Event) + Send,
{
    // The task process needs none of it.
    let grant = envelope.store.take();
    let failed = |error: Error| ended(&envelope, Ending::Failed((&error).into()));
    let courier = match Courier::new(&envelope, grant, store) {
        Ok(courier) => courier,
        Err(error) => return failed(error),
    };
    match courier.begin().await {
        Ok(()) => courier.run(runner, stop, observe).await,
        Err(error) => failed(error),
    }
}

/// What is written into a lease.
#[derive(Serialize)]
struct Lease<'a> {
    attempt: &'a str,
    /// Milliseconds since 1970, UTC.
    since: u64,
}

struct Courier<'a> {
    envelope: &'a Envelope,
    grant: Grant,
    store: &'a FolderStore,
    transfer: Transfer,
    notes: Mutex<Notes>,
    wake: Notify,
}

impl<'a> Courier<'a> {
    fn new(envelope: &'a Envelope, grant: Option<Grant>, store: &'a FolderStore) -> Result<Self> {
        let grant = grant.ok_or_else(|| Error::invalid("the envelope brings no grant: its store is not a bucket"))?;
        if grant.out.is_empty() {
            return Err(Error::invalid("the grant has no slot for the outcome"));
        }
        let transfer = Transfer::new(grant.lease.as_str())?;
        let notes = Mutex::new(Notes::new(&envelope.task.attempt));
        Ok(Self { envelope, grant, store, transfer, notes, wake: Notify::new() })
    }

    /// Takes the lease, unless that would be of no use.
    async fn begin(&self) -> Result<()> {
        self.envelope.check_time()?;
        if now() >= self.grant.until {
            return Err(Error::new(ErrorKind::Timeout, "the time is over for which the grant was made")
                .with_retry(Retry::Other)
                .hint("check the clocks of both machines, or make grants for longer"));
        }
        for digest in self.envelope.task.operation.needs() {
            if !self.grant.blobs.iter().any(|blob| blob.digest == digest) && !self.is_here(digest).await? {
                return Err(Error::invalid("the grant lacks a blob that the task needs").at("blob", digest));
            }
        }
        let lease = encode(&Lease { attempt: &self.envelope.task.attempt, since: now() })?;
        // Not tried again: were the reply lost, the lease would be ours and yet be refused.
        match self.transfer.create(&self.grant.lease, lease.into()).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let key = &self.envelope.task.key;
                Err(Error::new(ErrorKind::Conflict, format!("another worker has taken the task `{key}`"))
                    .hint("wait for its result, or remove the task's records once that worker is gone"))
            }
            Err(error) => Err(error.at("record", "lease")),
        }
    }

    /// From the lease to the result.
    async fn run<R, S, O>(&self, runner: &R, stop: S, mut observe: O) -> TaskResult
    where
        R: Runner,
        S: Future<Output = ()> + Send,
        O: FnMut(Event) + Send,
    {
        let work = async {
            let mut stop = pin!(stop.fuse());
            let began = Instant::now();
            let fetched = tokio::select! {
                biased;
                () = &mut stop => None,
                fetched = self.fetch() => Some(fetched),
            };
            let download = began.elapsed();
            let mut result = match fetched {
                None => ended(self.envelope, Ending::Cancelled),
                Some(Err(error)) => ended(self.envelope, Ending::Failed((&error).into())),
                Some(Ok(())) => {
                    let observe = |event: Event| {
                        observe(event.clone());
                        self.notes().push(event);
                        self.wake.notify_one();
                    };
                    runner.run(self.envelope, stop, observe).await
                }
            };
            result.timings.download = download.as_secs_f64();
            self.notes().is_closed = true;
            self.wake.notify_one();
            result
        };
        let (mut result, mut upload) = tokio::join!(work, self.report());
        let began = Instant::now();
        let stored = self.deliver(&mut result).await;
        upload += began.elapsed();
        result.timings.upload = upload.as_secs_f64();
        self.write_progress().await;
        self.finish(TaskRecord { result, stored: stored.into_iter().collect() }).await
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the blobs that the task needs into the folder.
    async fn fetch(&self) -> Result<()> {
        for digest in self.envelope.task.operation.needs() {
            if self.is_here(digest).await? {
                continue;
            }
            let blob = self.grant.blobs.iter().find(|blob| blob.digest == digest);
            let blob =
                blob.ok_or_else(|| Error::invalid("the grant lacks a blob that the task needs").at("blob", digest))?;
            let url = || Ok(blob.url.clone());
            let fetched = persist(|| self.transfer.download(url, blob.encoding, &digest, self.store)).await;
            fetched.map_err(|error| match error.kind() {
                // Removed by now: whoever hands the task over again stores the blob too.
                ErrorKind::NotFound => error.with_retry(Retry::Same { after: None }),
                ErrorKind::InvalidRequest => local(error),
                _ => error,
            })?;
        }
        Ok(())
    }

    /// Whether the folder has a blob, whole. A damaged file is removed.
    async fn is_here(&self, digest: Digest) -> Result<bool> {
        let store = self.store.clone();
        let look = spawn_blocking(move || match store.verify(&digest) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) if error.kind() == ErrorKind::CorruptPayload => store.remove(&digest).map(|()| false),
            Err(error) => Err(error),
        });
        let looked = look.await.map_err(|e| Error::new(ErrorKind::Unexpected, "a thread ended early").because(e))?;
        looked.map_err(local)
    }

    /// Stores checkpoints and writes progress until nothing more happens. Returns how long checkpoints took.
    async fn report(&self) -> Duration {
        let mut next = Instant::now();
        let mut spent = Duration::ZERO;
        loop {
            let (waiting, is_dirty) = {
                let mut notes = self.notes();
                if notes.is_closed {
                    return spent;
                }
                (notes.take_waiting(), notes.is_dirty)
            };
            if let Some(checkpoint) = waiting {
                let began = Instant::now();
                self.keep(checkpoint).await;
                spent += began.elapsed();
                continue;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep_until(next), if is_dirty => {
                    self.write_progress().await;
                    next = Instant::now() + EVERY;
                }
            }
        }
    }

    /// Stores a checkpoint on the way in the next free slot, if there is one. Where that fails the task goes on.
    async fn keep(&self, checkpoint: Checkpoint) {
        let Checkpoint { digest, .. } = checkpoint;
        let slot = {
            let mut notes = self.notes();
            if notes.find(&digest).is_some() {
                return;
            }
            // Each slot but the last, which is the outcome's.
            match notes.last().map_or(0, |stored| stored.slot + 1) {
                slot if (slot as usize) + 1 < self.grant.out.len() => slot,
                _ => {
                    let message = "the grant has no free slot: this checkpoint stays with the worker".into();
                    return notes.push(Event::Warning { message });
                }
            }
        };
        match self.send(digest, slot).await {
            Ok(stored) => self.notes().store(stored),
            Err(error) => {
                tracing::warn!(%digest, %error, "cannot store a checkpoint");
                let message = format!("a checkpoint could not be put into the store: {error}");
                self.notes().push(Event::Warning { message });
            }
        }
    }

    /// Puts the outcome's blob into its slot, unless it is stored already; where there is no outcome, the last
    /// checkpoint. An outcome that can't be delivered is a failure. Returns what is in the store.
    async fn deliver(&self, result: &mut TaskResult) -> Option<Stored> {
        let Ending::Finished(outcome) = &result.ended else {
            let waiting = self.notes().take_waiting();
            if let Some(checkpoint) = waiting {
                self.keep(checkpoint).await;
            }
            return self.notes().last();
        };
        let digest = outcome.blob()?;
        let known = self.notes().find(&digest);
        if known.is_some() {
            return known;
        }
        let last = u32::try_from(self.grant.out.len() - 1).unwrap_or(u32::MAX);
        match self.send(digest, last).await {
            Ok(stored) => {
                self.notes().store(stored);
                Some(stored)
            }
            Err(error) => {
                let message = format!("the task is done, but its outcome could not be put into the store: {error}");
                // The job isn't wrong, whatever the store refused.
                let retry = if error.retry() == Retry::Never { Retry::Other } else { error.retry() };
                let lost = Error::new(error.kind(), message).with_retry(retry).at("blob", digest);
                result.ended = Ending::Failed((&lost).into());
                self.notes().last()
            }
        }
    }

    /// Progress that can't be written is written with the next one.
    async fn write_progress(&self) {
        let encoded = {
            let mut notes = self.notes();
            if !notes.is_dirty {
                return;
            }
            notes.encode()
        };
        let written = match encoded {
            Ok(bytes) => {
                let upload = Upload::bytes(bytes.into(), Encoding::Raw);
                self.transfer.put(&self.grant.progress, upload, Default::default()).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(key = self.envelope.task.key, %error, "cannot write progress");
            self.notes().is_dirty = true;
        }
    }

    /// Writes the result, once. Where that fails, whoever started us still gets it.
    async fn finish(&self, record: TaskRecord) -> TaskResult {
        let written = match encode(&record).map(Bytes::from) {
            Ok(bytes) => persist(|| self.transfer.create(&self.grant.result, bytes.clone())).await,
            Err(error) => Err(error),
        };
        let key = &record.result.key;
        match written {
            Ok(true) => {}
            // Ours, if the reply to an earlier try was lost.
            Ok(false) => tracing::warn!(key, "the task has a result already"),
            Err(error) => tracing::error!(key, %error, "cannot write the result"),
        }
        record.result
    }
}

/// A disk of ours that is full is no fault of the job.
fn local(error: Error) -> Error {
    Error::new(ErrorKind::WorkerUnhealthy, format!("the worker's store failed: {error}"))
}
