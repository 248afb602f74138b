//! A job on disk: `HOME/jobs/ID/record.json`. Whatever is killed goes on from it.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use outboard_core::{
    Digest, Error, ErrorKind, NanoUsd, Result,
    error::IoContext,
    job::Job,
    task::{Architecture, Checkpoint, Epoch, Timings},
};
use outboard_protocol::Schema;
use outboard_store::atomic;
use serde::{Deserialize, Serialize};

use crate::client::Kept;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not ended: it runs, or its process was killed.
    Running,
    /// The model is written.
    Succeeded,
    /// The user stopped it; it can be resumed.
    Interrupted,
    /// It ended with an error.
    Failed,
}

impl Status {
    /// Its name, in records and lists.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

/// Metrics of the epoch that became the model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Loss over the training rows.
    pub loss: f64,
    /// Share of right answers over the training rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Loss over the held-out rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// Share of right answers over the held-out rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_accuracy: Option<f64>,
}

impl From<&Epoch> for Summary {
    fn from(epoch: &Epoch) -> Self {
        Self {
            loss: epoch.loss,
            accuracy: epoch.accuracy,
            validation_loss: epoch.validation_loss,
            validation_accuracy: epoch.validation_accuracy,
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The job's id.
    pub job: String,
    /// [`Status::Succeeded`] or [`Status::Interrupted`].
    pub status: Status,
    /// Where it ran.
    pub provider: String,
    /// Completed epochs.
    pub epochs: u32,
    /// Whether early stopping ended it.
    pub stopped_early: bool,
    /// The epoch whose weights became the model, where that isn't the last.
    pub best_epoch: Option<u32>,
    /// Metrics of that epoch; none before the first has ended.
    pub metrics: Option<Summary>,
    /// Every completed epoch.
    pub history: Vec<Epoch>,
    /// Wall time of training, over all runs of this job.
    pub seconds: f64,
    /// What it cost.
    pub cost: NanoUsd,
    /// Where the time of its tasks went, as far as their providers told.
    pub timings: Timings,
    /// Where it went on elsewhere, and why.
    pub moves: Vec<Move>,
    /// What was done to keep workers between its tasks.
    pub kept: Kept,
    /// The model, once there is one.
    pub model: Option<PathBuf>,
    /// Folder of the model, the metrics and a copy of the job.
    pub output: PathBuf,
}

/// A job went on elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The provider that it left.
    pub from: String,
    /// The provider that it went to.
    pub to: String,
    /// Completed epochs then.
    pub epoch: u32,
    /// Why.
    pub why: String,
}

/// All that is needed to go on with a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) protocol: u32,
    pub(crate) id: String,
    pub(crate) status: Status,
    pub(crate) job: Job,
    pub(crate) output: PathBuf,
    pub(crate) model: Architecture,
    pub(crate) schema: Schema,
    pub(crate) rows: u64,
    pub(crate) validation_rows: u64,
    pub(crate) data: Digest,
    pub(crate) validation: Option<Digest>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) provider: String,
    pub(crate) epochs: Vec<Epoch>,
    pub(crate) stopped_early: bool,
    pub(crate) best_epoch: Option<u32>,
    pub(crate) seconds: f64,
    #[serde(default)]
    pub(crate) timings: Timings,
    #[serde(default)]
    pub(crate) moves: Vec<Move>,
    #[serde(default)]
    pub(crate) kept: Kept,
    pub(crate) cost: NanoUsd,
}

impl Record {
    /// Writes the record, whole or not at all.
    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot encode the job's record").because(e))?;
        atomic::write(&folder.join("record.json"), &json)
    }

    /// Reads the record of job `id` in `jobs`.
    pub(crate) fn load(jobs: &Path, id: &str) -> Result<Self> {
        let unknown = || {
            let known = recent(jobs);
            let hint = match known.is_empty() {
                true => format!("no job was started under {}; check OUTBOARD_HOME", jobs.display()),
                false => format!("use the id of a job, such as {}", known.join(", ")),
            };
            Error::new(ErrorKind::NotFound, format!("there is no job `{id}`")).hint(hint)
        };
        // An id is one path component, never a way out of the folder.
        if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            return Err(unknown());
        }
        let path = jobs.join(id).join("record.json");
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(unknown()),
            read => read.doing("read", &path)?,
        };
        let damaged = |e: serde_json::Error| {
            Error::new(
                ErrorKind::CorruptPayload,
                "the job's record cannot be read: it was damaged, or written by another version",
            )
            .at("file", path.display())
            .because(e)
            .hint("start the job again with `outboard train`")
        };
        #[derive(Deserialize)]
        struct Version {
            protocol: u32,
        }
        let version: Version = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version.protocol != outboard_protocol::PROTOCOL_VERSION {
            let (found, ours) = (version.protocol, outboard_protocol::PROTOCOL_VERSION);
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "job `{id}` was started under protocol version {found}, but this program speaks version {ours}"
                ),
            )
            .hint("resume it with the version of outboard that started it"));
        }
        serde_json::from_slice(&bytes).map_err(damaged)
    }

    /// The epoch whose weights become the model.
    pub(crate) fn kept(&self) -> Option<&Epoch> {
        let number = self.best_epoch.unwrap_or(self.epochs.len() as u32);
        self.epochs.iter().find(|epoch| epoch.epoch == number)
    }

    /// What the job has come to so far.
    pub(crate) fn report(&self) -> Report {
        let model = (self.status == Status::Succeeded).then(|| self.output.join("model.safetensors"));
        Report {
            job: self.id.clone(),
            status: self.status,
            provider: self.provider.clone(),
            epochs: self.epochs.len() as u32,
            stopped_early: self.stopped_early,
            best_epoch: self.best_epoch,
            metrics: self.kept().map(Summary::from),
            history: self.epochs.clone(),
            seconds: self.seconds,
            cost: self.cost,
            timings: self.timings,
            moves: self.moves.clone(),
            kept: self.kept,
            model,
            output: self.output.clone(),
        }
    }

    /// One line of JSON for each epoch.
    pub(crate) fn metrics_lines(&self) -> Result<Vec<u8>> {
        let mut lines = Vec::new();
        for epoch in &self.epochs {
            metrics_line(epoch, &mut lines)?;
        }
        Ok(lines)
    }
}

/// Appends an epoch as a line of JSON.
pub(crate) fn metrics_line(epoch: &Epoch, lines: &mut Vec<u8>) -> Result<()> {
    serde_json::to_writer(&mut *lines, epoch)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot encode the metrics of an epoch").because(e))?;
    lines.push(b'\n');
    Ok(())
}

/// The newest jobs, at most five.
fn recent(jobs: &Path) -> Vec<String> {
    let entries = fs::read_dir(jobs).into_iter().flatten().flatten();
    let mut known: Vec<_> = entries
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.file_name().into_string().ok()?)))
        .collect();
    known.sort();
    known.into_iter().rev().take(5).map(|(_, id)| id).collect()
}

/// Held while a process works on a job.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the job's lock, which the system lets go when the process ends, however it ends.
    pub(crate) fn take(folder: &Path, id: &str) -> Result<Self> {
        let path = folder.join("lock");
        let file = File::options().create(true).append(true).open(&path).doing("open", &path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(ErrorKind::Conflict, format!("job `{id}` is being run by another process"))
                    .hint("wait for it to end, or stop that process first"))
            }
            Err(TryLockError::Error(e)) => Err(e).doing("lock", &path),
        }
    }
}
