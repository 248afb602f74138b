//! Where attempts were handed over, on this machine's disk: for whoever goes on after this process.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use outboard_core::{
    Digest, Task,
    error::{IoContext, Result},
};
use outboard_protocol::envelope::{encode, now};
use outboard_store::{FolderStore, atomic};
use serde::{Deserialize, Serialize};

use crate::job_id::JobId;

/// RunPod forgets every job after a week.
const LONGEST: Duration = Duration::from_secs(8 * 86_400);

/// Notes of attempts that may be running.
#[derive(Debug)]
pub(crate) struct Launches {
    folder: PathBuf,
}

/// What is known of an attempt that an earlier process was about to hand over.
#[derive(Debug)]
pub(crate) enum Launched {
    /// RunPod has it, for this much longer.
    To(JobId, Duration),
    /// It may have it, for this much longer.
    Perhaps(Duration),
}

#[derive(Serialize, Deserialize)]
struct Note {
    /// Endpoint and job, once they are known.
    place: Option<(String, String)>,
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

    /// Notes that the attempt is about to be handed over.
    pub(crate) fn begin(&self, task: &Task, ttl: Duration) -> Result<()> {
        atomic::create_folder(&self.folder)?;
        self.sweep();
        self.write(&task.attempt, &Note { place: None, until: after(ttl) })
    }

    /// Notes who has it.
    pub(crate) fn accepted(&self, id: &JobId, ttl: Duration) -> Result<()> {
        let place = id.job.clone().map(|job| (id.endpoint.clone(), job));
        self.write(&id.attempt, &Note { place, until: after(ttl) })
    }

    fn write(&self, attempt: &str, note: &Note) -> Result<()> {
        atomic::write(&self.path(attempt), &encode(note)?)
    }

    /// What was noted.
    pub(crate) fn find(&self, task: &Task) -> Result<Option<Launched>> {
        let path = self.path(&task.attempt);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.doing("read", &path)?,
        };
        // What can't be read may have been anything.
        let note = serde_json::from_slice(&bytes).unwrap_or(Note { place: None, until: after(LONGEST) });
        let left = Duration::from_millis(note.until.saturating_sub(now()));
        Ok(match note.place {
            Some((endpoint, job)) => {
                let id = JobId { endpoint, job: Some(job), attempt: task.attempt.clone(), key: task.key.clone() };
                Some(Launched::To(id, left))
            }
            None => Some(Launched::Perhaps(left)),
        })
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
