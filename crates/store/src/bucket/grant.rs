//! What a worker without credentials is given.

use std::time::Duration;

use futures_util::future::try_join_all;
use outboard_core::{
    Digest, Task,
    error::{Error, Result},
    task::Operation,
};
use outboard_protocol::{
    Envelope, Grant, GrantedBlob, SignedUrl,
    envelope::now,
    grant::{MAX_BLOBS, MAX_SLOTS},
};
use rusty_s3::S3Action;

use super::Bucket;
use crate::FolderStore;

/// S3 takes no URL that was signed for longer.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Clocks may differ, and a cancelled worker ends its batch: URLs are good for this much longer.
const SLACK: Duration = Duration::from_secs(300);
/// Slots of an envelope's grant at most: more checkpoints than that are overtaken by others.
const MOST_SLOTS: u32 = 128;

impl Bucket {
    /// Brings what a task needs from the folder into the bucket, and gives the task's envelope a grant for it. The task
    /// runs for `execution` at most, and is over within `valid`.
    ///
    /// # Errors
    /// As [`upload`](Self::upload) and [`grant`](Self::grant).
    pub async fn prepare(
        &self,
        mut envelope: Envelope,
        store: &FolderStore,
        execution: Duration,
        valid: Duration,
    ) -> Result<Envelope> {
        let needs = envelope.task.operation.needs();
        for digest in &needs {
            self.upload(digest, store).await?;
        }
        let slots = slots(&envelope.task, execution);
        envelope.store = Some(self.grant(&envelope.task.key, &needs, slots, valid + SLACK).await?);
        Ok(envelope)
    }

    /// The URLs that let a worker carry out the task of this key, `valid` from now on: it may read the blobs that the
    /// task needs, and write the task's records and `slots` blobs, the last for the outcome.
    ///
    /// URLs that were signed with temporary keys end with these, whatever `valid` says.
    ///
    /// # Errors
    /// `NotFound` where the bucket lacks a blob; `InvalidRequest` for a time or a number of slots that can't be.
    pub async fn grant(&self, key: &str, needs: &[Digest], slots: u32, valid: Duration) -> Result<Grant> {
        if !(Duration::from_secs(1)..=LONGEST).contains(&valid) {
            return Err(Error::invalid("a store's URLs are signed for between a second and seven days")
                .at("time", format!("{valid:?}"))
                .hint("make the task shorter"));
        }
        if slots == 0 || slots as usize > MAX_SLOTS {
            return Err(Error::invalid(format!("a grant has between 1 and {MAX_SLOTS} slots, not {slots}"))
                .hint("make the time between two checkpoints longer"));
        }
        if needs.len() > MAX_BLOBS {
            return Err(Error::invalid(format!("a task needs at most {MAX_BLOBS} blobs, not {}", needs.len())));
        }
        let blob = async |digest: &Digest| {
            let encoding = self.found(digest).await?;
            let url = self.bucket.get_object(Some(&self.credentials), &self.blob(digest, encoding)).sign(valid);
            Ok::<_, Error>(GrantedBlob { digest: *digest, encoding, url: SignedUrl::new(url)? })
        };
        let put = |object: &str, is_once: bool| {
            let mut action = self.bucket.put_object(Some(&self.credentials), object);
            if is_once {
                action.headers_mut().insert("if-none-match", "*");
            }
            SignedUrl::new(action.sign(valid))
        };
        let valid_ms = u64::try_from(valid.as_millis()).unwrap_or(u64::MAX);
        Ok(Grant {
            until: now().saturating_add(valid_ms),
            blobs: try_join_all(needs.iter().map(blob)).await?,
            lease: put(&self.record(key, "lease"), true)?,
            progress: put(&self.record(key, "progress"), false)?,
            result: put(&self.record(key, "result"), true)?,
            out: (0..slots).map(|slot| put(&self.slot(key, slot), false)).collect::<Result<_>>()?,
        })
    }
}

/// Slots for the checkpoints of a task, and for its outcome.
fn slots(task: &Task, execution: Duration) -> u32 {
    let Operation::Train(train) = &task.operation else { return 1 };
    let every = train.checkpoint_every.max(Duration::from_millis(1));
    let count = execution.as_millis() / every.as_millis() + 2;
    u32::try_from(count).unwrap_or(MOST_SLOTS).min(MOST_SLOTS)
}
