//! Tasks with a bucket as their store.

use outboard_core::{Task, error::Result};
use outboard_protocol::envelope::encode;
use outboard_store::Bucket;
use serde::{Deserialize, Serialize};

use crate::job_id::JobId;

/// Where a task was handed over, as it is noted in the bucket.
#[derive(Debug, Serialize, Deserialize)]
struct Launch {
    endpoint: String,
    job: Option<String>,
    attempt: String,
}

/// Notes where a task is. Whoever hands the same attempt over again finds it there.
pub(crate) async fn note(bucket: &Bucket, id: &JobId) -> Result<()> {
    let JobId { endpoint, job, attempt, key } = id.clone();
    bucket.note_launch(&key, encode(&Launch { endpoint, job, attempt })?.into()).await
}

/// Where the task is already: this attempt, or an earlier one that has an outcome.
pub(crate) async fn find(bucket: &Bucket, task: &Task, endpoint: &str) -> Result<Option<JobId>> {
    let key = &task.key;
    let launch = bucket.launch(key).await?.and_then(|bytes| serde_json::from_slice::<Launch>(&bytes).ok());
    let launched = launch.map(|Launch { endpoint, job, attempt }| JobId { endpoint, job, attempt, key: key.clone() });
    if launched.as_ref().is_some_and(|id| id.attempt == task.attempt) {
        return Ok(launched);
    }
    let Some(attempt) = bucket.taken(task).await? else { return Ok(None) };
    // The reply that named its job may have been lost.
    let unnamed = JobId { attempt: attempt.clone(), ..JobId::unnamed(endpoint, task) };
    Ok(Some(launched.filter(|id| id.attempt == attempt).unwrap_or(unnamed)))
}
