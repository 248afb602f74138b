//! One task's way through Lambda: its turn, its request, its reply. Goes on though nobody waits for it.

use std::sync::Arc;

use outboard_core::{
    Task,
    error::{Error, ErrorKind, Result, Retry},
};
use outboard_protocol::{Envelope, InlineRequest, envelope::encode};
use outboard_store::{Bucket, FolderStore, inline::pack};
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::{
    Config,
    connection::{Answer, Connection},
    follow::Followed,
};

/// What a request may have; AWS's documentation of 2026-08.
pub(crate) const MAX_REQUEST: usize = 6 * 1024 * 1024;
/// What base64 leaves of that and of a reply for blobs, with room for what is around them.
pub(crate) const MAX_INLINE: usize = 4_400_000;

/// What an invocation needs of its provider.
#[derive(Clone, Debug)]
pub(crate) struct Invoker {
    pub(crate) config: Arc<Config>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) store: FolderStore,
    pub(crate) bucket: Option<Bucket>,
    pub(crate) turns: Arc<Semaphore>,
}

impl Invoker {
    /// Invokes the function once it is the task's turn, and keeps what came of it.
    pub(crate) async fn run(self, task: Task, followed: Arc<Followed>) {
        let began = Instant::now();
        let turn = tokio::select! {
            turn = timeout(self.config.start_within, self.turns.clone().acquire_owned()) => turn,
            () = followed.dropped.notified() => return,
        };
        let answer = match turn {
            Ok(Ok(_turn)) => {
                {
                    let mut follow = followed.state.lock().await;
                    // Cancelled just now.
                    if !follow.task.is_queued() {
                        return;
                    }
                    follow.task.runs();
                    follow.queued = began.elapsed();
                    follow.task.lasts(self.config.longest_invocation());
                }
                followed.news.notify_waiters();
                self.invoke(task, &followed).await.unwrap_or_else(Answer::Refused)
            }
            _ => Answer::Refused(self.no_turn()),
        };
        followed.state.lock().await.answer = Some(answer);
        followed.news.notify_waiters();
    }

    fn no_turn(&self) -> Error {
        let Config { concurrency, start_within, .. } = &*self.config;
        let message = format!("the task has waited {start_within:?} for one of {concurrency} others to end");
        Error::new(ErrorKind::QuotaExceeded, message)
            .with_retry(Retry::Other)
            .hint("raise `concurrency` of `[providers.aws-lambda]`, or `start_within`")
    }

    async fn invoke(&self, task: Task, followed: &Followed) -> Result<Answer> {
        let (body, bytes_down) = self.request(task).await?;
        if body.len() > MAX_REQUEST {
            let message = format!("the task has {} bytes, but without a store Lambda takes {MAX_REQUEST}", body.len());
            return Err(Error::new(ErrorKind::PayloadTooLarge, message).hint("configure a store: `[store] url`"));
        }
        followed.state.lock().await.bytes_down = bytes_down;
        let again = self.bucket.is_some().then(|| body.clone());
        match (self.connection.invoke(body).await, again) {
            (Answer::Lost(error), Some(body)) => {
                tracing::debug!(%error, "invoking it again: only one of both gets the lease");
                match self.connection.invoke(body).await {
                    // Of the first nothing is known.
                    Answer::Refused(error) => Ok(Answer::Lost(error)),
                    answer => Ok(answer),
                }
            }
            (answer, _) => Ok(answer),
        }
    }

    /// The task's request, and how many bytes of blobs go to the worker.
    async fn request(&self, task: Task) -> Result<(Vec<u8>, u64)> {
        let needs = task.operation.needs();
        let config = &self.config;
        let envelope = Envelope::new(task, config.start_within, config.patience);
        if let Some(bucket) = &self.bucket {
            let sizes =
                needs.iter().map(|digest| std::fs::metadata(self.store.path(digest)).map_or(0, |f| f.len())).sum();
            let envelope = bucket.prepare(envelope, &self.store, config.timeout, config.longest_invocation()).await?;
            return Ok((encode(&InlineRequest { envelope, blobs: Vec::new() })?, sizes));
        }
        let store = self.store.clone();
        let packed = spawn_blocking(move || {
            let packed = needs.iter().map(|digest| pack(&store, digest, MAX_INLINE)).collect::<Result<Vec<_>>>();
            packed.and_then(|blobs| {
                let sizes = blobs.iter().map(|blob| blob.data.len() as u64).sum();
                Ok((encode(&InlineRequest { envelope, blobs })?, sizes))
            })
        });
        packed.await.map_err(|e| Error::new(ErrorKind::Unexpected, "a thread ended early").because(e))?
    }
}
