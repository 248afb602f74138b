//! What the store's folder knows of tasks, so that a restart forgets none.

use std::{collections::HashSet, fs::File, io::Write, time::Duration};

use outboard_core::{
    Digest, Event,
    error::{Error, ErrorKind, Result},
    task::Timings,
};
use outboard_protocol::{
    PROTOCOL_VERSION, TaskResult,
    envelope::{Ending, WirePhase, decode, encode},
};
use outboard_store::Records;
use serde::{Deserialize, Serialize};

use super::log::Log;

/// What is written into a lease.
#[derive(Default, Serialize, Deserialize)]
struct Lease {
    attempt: String,
}

#[derive(Clone, Debug)]
pub(super) struct History {
    records: Records,
}

/// Where the events of a task are noted, but for mere progress.
pub(super) struct Notes(Option<File>);

impl Notes {
    pub(super) fn add(&mut self, event: &Event) {
        let (Some(file), false) = (&mut self.0, matches!(event, Event::Progress(_))) else { return };
        let written = encode(event).map(|mut line| {
            line.push(b'\n');
            file.write_all(&line)
        });
        if !matches!(written, Ok(Ok(()))) {
            tracing::warn!("cannot note what happens to a task: after a restart its events would be missing");
            self.0 = None;
        }
    }
}

impl History {
    pub(super) fn new(records: Records) -> Self {
        Self { records }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Records) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let records = self.records.clone();
        tokio::task::spawn_blocking(move || work(&records))
            .await
            .map_err(|e| Error::new(ErrorKind::Unexpected, "the store's thread ended early").because(e))?
    }

    /// Takes the lease for an attempt, in place of an earlier one, which has ended.
    pub(super) async fn begin(&self, key: &str, attempt: &str) -> Result<()> {
        let (key, lease) = (key.to_string(), encode(&Lease { attempt: attempt.into() })?);
        self.blocking(move |records| {
            records.remove(&key)?;
            match records.lease(&key, &lease)? {
                true => Ok(()),
                false => Err(Error::new(ErrorKind::Conflict, format!("another worker has taken the task `{key}`"))),
            }
        })
        .await
    }

    pub(super) async fn notes(&self, key: &str) -> Notes {
        let key = key.to_string();
        let file = self.blocking(move |records| records.progress_file(&key)).await;
        Notes(file.inspect_err(|error| tracing::warn!(%error, "cannot note what happens to a task")).ok())
    }

    /// Notes the result. Where that fails the client still gets it, unless the worker is restarted before.
    pub(super) async fn finish(&self, result: &TaskResult) {
        let key = result.key.clone();
        let noted = match encode(result) {
            Ok(bytes) => self.blocking(move |records| records.finish(&key, &bytes)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = noted {
            tracing::warn!(key = result.key, %error, "cannot note a result");
        }
    }

    /// The attempt and the log of a task that an earlier run of this program took.
    pub(super) async fn recall(&self, key: &str) -> Result<Option<(String, Log)>> {
        let key = key.to_string();
        self.blocking(move |records| {
            let Some(lease) = records.holder(&key)? else { return Ok(None) };
            // Torn by a power failure, it is a lease all the same.
            let Lease { attempt } = serde_json::from_slice(&lease).unwrap_or_default();
            let result: Option<TaskResult> = records.result(&key)?.and_then(|bytes| decode(&bytes).ok());
            let result = result.unwrap_or_else(|| interrupted(&key, &attempt));
            let progress = records.progress(&key)?;
            let events = progress.split(|byte| *byte == b'\n').map_while(|line| serde_json::from_slice(line).ok());
            let mut log = Log::new(WirePhase::Running, events.collect());
            log.end(result);
            Ok(Some((attempt, log)))
        })
        .await
    }

    /// Forgets what is older than `age`, but for `live` tasks.
    pub(super) async fn forget(&self, age: Duration, live: HashSet<Digest>) {
        match self.blocking(move |records| records.expire(age, |digest| live.contains(digest))).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "expired results were removed"),
            Err(error) => tracing::warn!(%error, "cannot remove expired results"),
        }
    }
}

fn interrupted(key: &str, attempt: &str) -> TaskResult {
    let error = Error::new(ErrorKind::Preempted, "the worker was restarted while it ran the task");
    TaskResult {
        protocol: PROTOCOL_VERSION,
        key: key.into(),
        attempt: attempt.into(),
        ended: Ending::Failed((&error).into()),
        timings: Timings::default(),
    }
}
