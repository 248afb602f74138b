//! One run of a job: drives its tasks, keeps its record, writes its model.

use std::{
    fs::{File, OpenOptions},
    future::Future,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use outboard_core::{
    ComputeProviderExt, Error, ErrorKind, Event, Result, Task,
    error::IoContext,
    task::{Checkpoint, Ended, Operation, Outcome, TrainTask},
};
use outboard_protocol::{self as protocol, ModelFile, PROTOCOL_VERSION, model::ModelFacts};
use outboard_store::atomic;
use tokio::sync::Notify;
use tracing::Instrument;

use super::{Client, stop_or_deadline};
use crate::{
    job_file::write_job,
    record::{Lock, Record, Report, Status, metrics_line},
};

/// A job that is ready to run, or to go on.
#[derive(Debug)]
pub struct Run {
    client: Client,
    record: Record,
    folder: PathBuf,
    _lock: Lock,
}

/// What happens during a run.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// It begins, or goes on.
    Started(Started),
    /// An epoch, a checkpoint, progress.
    Task(Event),
}

/// The beginning of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Where it runs.
    pub provider: String,
    /// On what, in words.
    pub device: String,
    /// Training rows.
    pub rows: u64,
    /// Held-out rows.
    pub validation_rows: u64,
    /// Trained and frozen parameters together.
    pub parameters: u64,
    /// Epochs of the whole job.
    pub epochs: u32,
    /// Completed epochs and batches of the next one, where it goes on from there.
    pub resumed_at: Option<(u32, u64)>,
}

impl Run {
    pub(super) fn new(client: Client, record: Record, folder: PathBuf, lock: Lock) -> Self {
        Self { client, record, folder, _lock: lock }
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// The file that the model is trained on.
    #[must_use]
    pub fn data(&self) -> &std::path::Path {
        &self.record.job.data.train
    }

    /// Whether the job had succeeded before this run.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.record.status == Status::Succeeded
    }

    /// Trains until the end, or until `stop` completes: then the batch is finished, a checkpoint saved, and the report
    /// says [`Status::Interrupted`]. Events go to `observe`.
    ///
    /// # Errors
    /// `JobFailed` where the loss is not a finite number; `Timeout` at the job's deadline; `InvalidRequest` where
    /// something can't be written. The last checkpoint stays whole, and the message says how to go on.
    pub async fn drive<S, O>(mut self, stop: S, mut observe: O) -> Result<Report>
    where
        S: Future<Output = ()> + Send,
        O: FnMut(RunEvent) + Send,
    {
        if self.is_finished() {
            self.write_outputs()?;
            return Ok(self.record.report());
        }
        let span = tracing::info_span!("job", job = %self.record.id);
        let result = self.train(stop, &mut observe).instrument(span).await;
        if let Err(error) = result {
            tracing::info!(job = %self.record.id, %error, "failed");
            self.record.status = Status::Failed;
            let saved = self.record.save(&self.folder);
            if let Err(unsaved) = saved {
                tracing::warn!(job = %self.record.id, error = %unsaved, "cannot note the failure");
            }
            return Err(self.explain(error));
        }
        tracing::info!(job = %self.record.id, status = ?self.record.status, "ended");
        self.record.save(&self.folder)?;
        Ok(self.record.report())
    }

    async fn train<S, O>(&mut self, stop: S, observe: &mut O) -> Result<()>
    where
        S: Future<Output = ()> + Send,
        O: FnMut(RunEvent) + Send,
    {
        let record = &mut self.record;
        record.attempts += 1;
        record.status = Status::Running;
        record.save(&self.folder)?;
        let info = self.client.provider.info();
        let at = record.checkpoint;
        let plan = outboard_core::layer::plan(&record.model.layers, &record.model.input)?;
        observe(RunEvent::Started(Started {
            provider: info.id.clone(),
            device: info.device.clone(),
            rows: record.rows,
            validation_rows: record.validation_rows,
            parameters: plan.iter().flat_map(|layer| &layer.parameters).map(|p| p.len() as u64).sum(),
            epochs: record.job.train.epochs,
            resumed_at: (at.epoch > 0 || at.step_in_epoch > 0).then_some((at.epoch, at.step_in_epoch)),
        }));
        let key = format!("{}/train/{}.{}", record.id, at.epoch, at.step_in_epoch);
        let task = Task {
            attempt: format!("{key}#{}", record.attempts),
            key,
            job: record.id.clone(),
            operation: Operation::Train(Box::new(TrainTask {
                model: record.model.clone(),
                train: record.job.train.clone(),
                data: record.data,
                validation: record.validation,
                checkpoint: at.digest,
                until_epoch: record.job.train.epochs,
                checkpoint_every: self.client.config.checkpoint.every,
            })),
        };

        tracing::info!(attempt = %task.attempt, provider = %info.id, epoch = at.epoch, "handing over");
        let deadline =
            record.job.limits.deadline.map(|limit| limit.saturating_sub(Duration::from_secs_f64(record.seconds)));
        let mut keeper = Keeper::new(self)?;
        // The keeper's own failure stops the task as the user would.
        let failed = Notify::new();
        let mut late = false;
        let provider = keeper.run.client.provider.clone();
        let outcome = {
            let stop = async {
                tokio::select! {
                    by_deadline = stop_or_deadline(stop, deadline) => late = by_deadline,
                    () = failed.notified() => {}
                }
            };
            let events = |event: Event| {
                tracing::debug!(attempt = %task.attempt, ?event, "event");
                if keeper.keep(&event).is_err() {
                    failed.notify_one();
                }
                observe(RunEvent::Task(event));
            };
            provider.run(&task, stop, events).await
        };
        keeper.finish()?;
        match outcome? {
            Outcome::Train { ended: Ended::Cancelled, .. } if late => {
                let limit = self.record.job.limits.deadline.unwrap_or_default();
                Err(Error::new(ErrorKind::Timeout, format!("the job's deadline of {} has passed", humantime(limit)))
                    .at("key", "limits.deadline"))
            }
            Outcome::Train { ended: Ended::Cancelled, .. } => {
                self.record.status = Status::Interrupted;
                Ok(())
            }
            Outcome::Train { ended, .. } => {
                self.record.stopped_early = ended == Ended::EarlyStopping;
                self.write_outputs()?;
                self.record.status = Status::Succeeded;
                Ok(())
            }
            other => {
                Err(Error::new(ErrorKind::Unexpected, format!("the provider answered a training task with {other:?}")))
            }
        }
    }

    /// Writes the model, the metrics and a copy of the job from the last checkpoint.
    fn write_outputs(&mut self) -> Result<()> {
        let record = &mut self.record;
        let checkpoint = protocol::Checkpoint::decode(&self.client.store.read(&record.checkpoint.digest)?)?;
        let keeps_best = checkpoint.section("best").next().is_some();
        record.best_epoch = checkpoint.position.best.filter(|_| keeps_best).map(|best| best.epoch);
        let section = if keeps_best { "best" } else { "model" };
        let model = ModelFile {
            facts: ModelFacts {
                protocol: PROTOCOL_VERSION,
                kind: "model".into(),
                layers: record.model.layers.clone(),
                input: record.model.input.clone(),
                loss: record.job.train.loss.clone(),
                schema: record.schema.clone(),
            },
            tensors: checkpoint.section(section).map(|(name, tensor)| (name.to_string(), tensor.clone())).collect(),
        };
        atomic::create_folder(&record.output)?;
        atomic::write(&record.output.join("model.safetensors"), &model.encode()?)?;
        atomic::write(&record.output.join("metrics.jsonl"), &record.metrics_lines()?)?;
        atomic::write(&record.output.join("job.toml"), write_job(&record.job)?.as_bytes())
    }

    /// Adds to a failure where the job stands and how to go on.
    fn explain(&self, error: Error) -> Error {
        // A blob is damaged or gone, so there is nothing to go on from.
        if matches!(error.kind(), ErrorKind::CorruptPayload | ErrorKind::NotFound) {
            return error;
        }
        let Checkpoint { epoch, step_in_epoch, .. } = self.record.checkpoint;
        let resume = format!("outboard train --resume {}", self.record.id);
        let error = match (epoch, step_in_epoch) {
            (0, 0) => error.at("last good checkpoint", "the initial weights"),
            (epoch, 0) => error.at("last good checkpoint", format!("after epoch {epoch}")),
            (epoch, step) => error.at("last good checkpoint", format!("after batch {step} of epoch {}", epoch + 1)),
        };
        match (error.kind(), error.advice().map(str::to_string)) {
            // The same weights and batches give the same loss again.
            (ErrorKind::JobFailed, _) => error,
            (ErrorKind::Timeout, _) => error.hint(format!("raise the deadline in the job and start it again; it stands at the checkpoint above ({resume} stops at once)")),
            (_, Some(advice)) => error.hint(format!("{advice}; to go on from that checkpoint: {resume}")),
            (_, None) => error.hint(resume),
        }
    }
}

fn humantime(limit: Duration) -> String {
    format!("{limit:?}")
}

/// Keeps the job's record and its metrics while a task runs.
struct Keeper<'a> {
    run: &'a mut Run,
    began: Instant,
    seconds_before: f64,
    metrics: File,
    /// Epochs that are complete, but not yet in a checkpoint.
    pending: Vec<outboard_core::task::Epoch>,
    failure: Option<Error>,
}

impl<'a> Keeper<'a> {
    fn new(run: &'a mut Run) -> Result<Self> {
        let path = run.record.output.join("metrics.jsonl");
        atomic::create_folder(&run.record.output)?;
        // Epochs after the checkpoint are trained again, so their lines go.
        atomic::write(&path, &run.record.metrics_lines()?)?;
        let metrics = OpenOptions::new().append(true).open(&path).doing("open", &path)?;
        let seconds_before = run.record.seconds;
        Ok(Self { run, began: Instant::now(), seconds_before, metrics, pending: Vec::new(), failure: None })
    }

    fn keep(&mut self, event: &Event) -> Result<(), ()> {
        if self.failure.is_some() {
            return Err(());
        }
        let kept = match event {
            Event::Epoch(epoch) => self.epoch(epoch),
            Event::Checkpoint(checkpoint) => self.checkpoint(checkpoint),
            _ => Ok(()),
        };
        kept.map_err(|error| self.failure = Some(error))
    }

    fn epoch(&mut self, epoch: &outboard_core::task::Epoch) -> Result<()> {
        self.pending.push(*epoch);
        let mut line = Vec::new();
        metrics_line(epoch, &mut line)?;
        self.metrics.write_all(&line).doing("write", &self.run.record.output.join("metrics.jsonl"))
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let Run { client, record, folder, .. } = &mut *self.run;
        let before = std::mem::replace(&mut record.checkpoint, *checkpoint);
        record.epochs.append(&mut self.pending);
        record.seconds = self.seconds_before + self.began.elapsed().as_secs_f64();
        record.save(folder)?;
        // Nothing names the one before any more.
        if before.digest != checkpoint.digest {
            client.store.remove(&before.digest)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.failure.map_or(Ok(()), Err)
    }
}
