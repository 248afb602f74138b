//! The events of a task that a worker runs elsewhere.

use outboard_core::{
    BlobStore, Event,
    error::{Error, ErrorKind, Result},
    task::Progress,
};
use outboard_protocol::{InlineReply, TaskProgress, TaskRecord, TaskResult, envelope::Ending};
use tokio::task::spawn_blocking;

use crate::{Bucket, FolderStore, inline::unpack};

/// The events of one attempt so far, from its records in a bucket or from the reply that brings them all. What they name
/// is in the folder by then.
#[derive(Debug)]
pub struct TaskLog {
    key: String,
    attempt: String,
    events: Vec<Event>,
    /// Notes of the record of progress that are among the events, or needn't be.
    notes: u64,
    last_progress: Option<Progress>,
    bytes_up: u64,
}

impl TaskLog {
    /// Of a task of which nothing is known yet.
    #[must_use]
    pub fn new(key: impl Into<String>, attempt: impl Into<String>) -> Self {
        let (key, attempt) = (key.into(), attempt.into());
        Self { key, attempt, events: Vec::new(), notes: 0, last_progress: None, bytes_up: 0 }
    }

    /// What happened so far; only ever grows.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Bytes of blobs that came from the worker.
    #[must_use]
    pub fn bytes_up(&self) -> u64 {
        self.bytes_up
    }

    /// Whether a result is this task's: of its attempt, or an outcome, which is the same for each of them.
    #[must_use]
    pub fn counts(&self, record: &TaskRecord) -> bool {
        record.result.attempt == self.attempt || matches!(record.result.ended, Ending::Finished(_))
    }

    /// Brings what a result names from the bucket into the folder.
    ///
    /// # Errors
    /// `WorkerUnhealthy` where the result names what wasn't stored; as [`Bucket::collect`].
    pub async fn collect(&mut self, bucket: &Bucket, record: &TaskRecord, store: &FolderStore) -> Result<()> {
        bucket.collect(&self.key, &record.stored, store).await?;
        self.bytes_up += record.stored.iter().map(|stored| stored.bytes).sum::<u64>();
        let named = match &record.result.ended {
            Ending::Finished(outcome) => outcome.blob(),
            Ending::Failed(_) | Ending::Cancelled => None,
        };
        match named {
            Some(digest) if !record.stored.iter().any(|stored| stored.digest == digest) => {
                Err(Error::new(ErrorKind::WorkerUnhealthy, "the worker's result names a blob that it didn't store")
                    .at("blob", digest)
                    .hint("look at the worker's log"))
            }
            _ => Ok(()),
        }
    }

    /// Takes what is new of a record of progress; whether it is this attempt's. A checkpoint is told once it is here; one
    /// that a newer one has overtaken isn't.
    ///
    /// # Errors
    /// As [`Bucket::collect`].
    pub async fn merge(
        &mut self,
        bucket: &Bucket,
        progress: TaskProgress,
        store: &FolderStore,
        is_over: bool,
    ) -> Result<bool> {
        let TaskProgress { header, notes } = progress;
        if header.attempt != self.attempt {
            return Ok(false);
        }
        let from = usize::try_from(self.notes.saturating_sub(header.dropped)).unwrap_or(usize::MAX);
        let is_checkpoint = |event: &Event| matches!(event, Event::Checkpoint(_));
        let newest = notes.iter().rposition(|note| is_checkpoint(&note.event));
        let stored = notes.iter().rposition(|note| is_checkpoint(&note.event) && note.stored.is_some());
        if let Some(index) = stored.filter(|index| *index >= from)
            && let Some(stored) = notes[index].stored
        {
            bucket.collect(&self.key, &[stored], store).await?;
            self.bytes_up += stored.bytes;
        }
        for (index, note) in notes.iter().enumerate().skip(from) {
            let is_last = index + 1 == notes.len();
            match &note.event {
                Event::Checkpoint(_) if Some(index) == stored => self.events.push(note.event.clone()),
                Event::Checkpoint(_) => {
                    let is_given_up = notes[index..].iter().any(|note| matches!(note.event, Event::Warning { .. }));
                    if Some(index) == newest && !is_over && !is_given_up {
                        // It is on its way: what follows waits, so that all stays in order.
                        break;
                    }
                }
                Event::Progress(progress) => {
                    if self.last_progress != Some(*progress) {
                        self.last_progress = Some(*progress);
                        self.events.push(note.event.clone());
                    }
                    if is_last && !is_over {
                        // The next one takes its place.
                        break;
                    }
                }
                event => self.events.push(event.clone()),
            }
            self.notes = header.dropped + index as u64 + 1;
        }
        Ok(true)
    }

    /// Takes a reply that brings everything: its blobs go into the folder, verified. Checkpoints that didn't come along
    /// aren't told.
    ///
    /// # Errors
    /// As [`unpack`]; what the folder refuses.
    pub async fn take(&mut self, reply: InlineReply, store: &FolderStore) -> Result<TaskResult> {
        let InlineReply { result, events, blobs } = reply;
        let bytes = blobs.iter().map(|blob| blob.data.len() as u64).sum::<u64>();
        let owner = store.clone();
        let unpacked = spawn_blocking(move || blobs.iter().try_for_each(|blob| unpack(&owner, blob)));
        unpacked.await.map_err(|e| Error::new(ErrorKind::Unexpected, "a thread ended early").because(e))??;
        if self.events.is_empty() {
            for event in events {
                if let Event::Checkpoint(checkpoint) = &event
                    && !store.has(&checkpoint.digest).await?
                {
                    continue;
                }
                self.events.push(event);
            }
            self.bytes_up += bytes;
        }
        Ok(result)
    }
}
