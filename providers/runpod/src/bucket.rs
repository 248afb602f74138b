//! Tasks with a bucket as their store.

use outboard_core::{
    Event, Task,
    error::{Error, ErrorKind, Result},
};
use outboard_protocol::{
    TaskProgress, TaskRecord,
    envelope::{Ending, encode},
};
use outboard_store::{Bucket, FolderStore};
use serde::{Deserialize, Serialize};

use crate::{follow::Follow, job_id::JobId};

/// Where a task was handed over, as it is noted in the bucket.
#[derive(Debug, Serialize, Deserialize)]
struct Launch {
    endpoint: String,
    job: Option<String>,
    attempt: String,
}

#[derive(Deserialize)]
struct Lease {
    attempt: String,
}

/// Notes where a task is. Whoever hands the same attempt over again finds it there.
pub(crate) async fn note(bucket: &Bucket, id: &JobId) -> Result<()> {
    let JobId { endpoint, job, attempt, key } = id.clone();
    bucket.note_launch(&key, encode(&Launch { endpoint, job, attempt })?.into()).await
}

/// Where the task is already: this attempt, or an earlier one that has an outcome. What an earlier one without an
/// outcome left behind is removed.
pub(crate) async fn find(bucket: &Bucket, task: &Task, endpoint: &str) -> Result<Option<JobId>> {
    let key = &task.key;
    let launch = bucket.launch(key).await?.and_then(|bytes| serde_json::from_slice::<Launch>(&bytes).ok());
    let launched = launch.map(|Launch { endpoint, job, attempt }| JobId { endpoint, job, attempt, key: key.clone() });
    if launched.as_ref().is_some_and(|id| id.attempt == task.attempt) {
        return Ok(launched);
    }
    let unnamed = |attempt: String| JobId { endpoint: endpoint.into(), job: None, attempt, key: key.clone() };
    let record = bucket.result(key).await?;
    if let Some(TaskRecord { result, .. }) = record
        && (matches!(result.ended, Ending::Finished(_)) || result.attempt == task.attempt)
    {
        return Ok(Some(launched.unwrap_or_else(|| unnamed(result.attempt))));
    }
    let holder = bucket.holder(key).await?.and_then(|bytes| serde_json::from_slice::<Lease>(&bytes).ok());
    match holder {
        // It runs, though the reply that named its job was lost.
        Some(Lease { attempt }) if attempt == task.attempt => Ok(Some(unnamed(attempt))),
        Some(_) => bucket.remove(key).await.map(|()| None),
        None => Ok(None),
    }
}

/// Whether a result is this task's: of its attempt, or an outcome, which is the same for each of them.
pub(crate) fn counts(record: &TaskRecord, follow: &Follow) -> bool {
    record.result.attempt == follow.id.attempt || matches!(record.result.ended, Ending::Finished(_))
}

/// Brings what a result names into the folder.
pub(crate) async fn collect(
    bucket: &Bucket,
    follow: &mut Follow,
    record: &TaskRecord,
    store: &FolderStore,
) -> Result<()> {
    bucket.collect(&follow.id.key, &record.stored, store).await?;
    follow.bytes_up += record.stored.iter().map(|stored| stored.bytes).sum::<u64>();
    let named = match &record.result.ended {
        Ending::Finished(outcome) => outcome.blob(),
        Ending::Failed(_) | Ending::Cancelled => None,
    };
    match named {
        Some(digest) if !record.stored.iter().any(|stored| stored.digest == digest) => {
            Err(Error::new(ErrorKind::WorkerUnhealthy, "the worker's result names a blob that it didn't store")
                .at("blob", digest)
                .hint("look at the worker's log in RunPod's console"))
        }
        _ => Ok(()),
    }
}

/// Takes what is new of a record of progress into the log. A checkpoint is told once it is here; one that a newer one
/// has overtaken isn't.
pub(crate) async fn merge(
    bucket: &Bucket,
    follow: &mut Follow,
    progress: TaskProgress,
    store: &FolderStore,
    is_over: bool,
) -> Result<()> {
    let TaskProgress { header, notes } = progress;
    if header.attempt != follow.id.attempt {
        return Ok(());
    }
    follow.runs();
    let from = usize::try_from(follow.notes.saturating_sub(header.dropped)).unwrap_or(usize::MAX);
    let is_checkpoint = |event: &Event| matches!(event, Event::Checkpoint(_));
    let newest = notes.iter().rposition(|note| is_checkpoint(&note.event));
    let stored = notes.iter().rposition(|note| is_checkpoint(&note.event) && note.stored.is_some());
    if let Some(index) = stored.filter(|index| *index >= from)
        && let Some(stored) = notes[index].stored
    {
        bucket.collect(&follow.id.key, &[stored], store).await?;
        follow.bytes_up += stored.bytes;
    }
    for (index, note) in notes.iter().enumerate().skip(from) {
        let is_last = index + 1 == notes.len();
        match &note.event {
            Event::Checkpoint(_) if Some(index) == stored => follow.log.push(note.event.clone()),
            Event::Checkpoint(_) => {
                let is_given_up = notes[index..].iter().any(|note| matches!(note.event, Event::Warning { .. }));
                if Some(index) == newest && !is_over && !is_given_up {
                    // It is on its way: what follows waits, so that all stays in order.
                    break;
                }
            }
            Event::Progress(progress) => {
                if follow.last_progress != Some(*progress) {
                    follow.last_progress = Some(*progress);
                    follow.log.push(note.event.clone());
                }
                if is_last && !is_over {
                    // The next one takes its place.
                    break;
                }
            }
            event => follow.log.push(event.clone()),
        }
        follow.notes = header.dropped + index as u64 + 1;
    }
    Ok(())
}
