//! Where attempts were handed over, on this machine's disk: for whoever goes on after this process.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use outboard_core::{
    Digest,
    error::{IoContext, Result},
};
use outboard_protocol::envelope::{encode, now};
use outboard_store::{FolderStore, atomic};
use serde::{Deserialize, Serialize};

use crate::job_id::JobId;

/// RunPod forgets every job after a week.
const LONGEST: Duration = Duration::from_secs(8 * 86_400);
/// Stands for an endpoint that isn't known.
const NOWHERE: &str = "-";

/// Notes of attempts that may be running.
#[derive(Debug)]
pub(crate) struct Launches {
    folder: PathBuf,
}

/// What an earlier process noted of an attempt.
#[derive(Debug)]
pub(crate) struct Launched {
    /// Without a job where RunPod may have it, or not.
    pub(crate) id: JobId,
    /// RunPod has forgotten it then.
    pub(crate) left: Duration,
}

#[derive(Serialize, Deserialize)]
struct Note {
    /// Where it was sent.
    endpoint: String,
    /// Its job, once that is known.
    job: Option<String>,
    /// When RunPod has forgotten it: milliseconds since 1970, UTC.
    until: u64,
}

impl Launches {
    pub(crate) fn new(store: &FolderStore) -> Self {
        Self { folder: store.folder().join("launches") }
    }

    fn path(&self, attempt: &str) -> PathBuf {
        self.folder.join(Digest::of(attempt.as_bytes()).to_string())
    }

    /// Notes that an attempt is about to be sent, or, once its job is known, who has it.
    pub(crate) fn note(&self, id: &JobId, ttl: Duration) -> Result<()> {
        if id.job.is_none() {
            atomic::create_folder(&self.folder)?;
            self.sweep();
        }
        let note = Note { endpoint: id.endpoint.clone(), job: id.job.clone(), until: after(ttl) };
        atomic::write(&self.path(&id.attempt), &encode(&note)?)
    }

    /// What was noted of an attempt; nothing where it was never sent.
    pub(crate) fn find(&self, attempt: &str, key: &str) -> Result<Option<Launched>> {
        let path = self.path(attempt);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.doing("read", &path)?,
        };
        // What can't be read may have been anything.
        let note = serde_json::from_slice(&bytes);
        let Note { endpoint, job, until } =
            note.unwrap_or(Note { endpoint: NOWHERE.into(), job: None, until: after(LONGEST) });
        let id = JobId { endpoint, job, attempt: attempt.into(), key: key.into() };
        Ok(Some(Launched { id, left: Duration::from_millis(until.saturating_sub(now())) }))
    }

    /// It was not taken, or has ended.
    pub(crate) fn forget(&self, attempt: &str) {
        // One that stays says too much, not too little.
        let _ = fs::remove_file(self.path(attempt));
    }

    /// Removes what RunPod has forgotten.
    fn sweep(&self) {
        let is_old = |path: &Path| {
            let written = path.metadata().and_then(|facts| facts.modified());
            written.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > LONGEST))
        };
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if is_old(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn after(time: Duration) -> u64 {
    now().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
