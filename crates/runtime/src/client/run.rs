//! One run of a job: drives its tasks, keeps its record, writes its model.

use std::{fmt, future::Future, path::PathBuf};

use futures_util::{FutureExt, future::BoxFuture};
use outboard_core::{Error, ErrorKind, Event, Result, task::Checkpoint};
use outboard_protocol::{self as protocol, ModelFile, PROTOCOL_VERSION, model::ModelFacts};
use outboard_store::atomic;
use tracing::Instrument;

use super::{Client, dispatch::Dispatcher};
use crate::{
    job_file::write_job,
    record::{Lock, Record, Report, Status},
};

/// A job that is ready to run, or to go on.
#[derive(Debug)]
pub struct Run {
    pub(super) client: Client,
    pub(super) record: Record,
    pub(super) folder: PathBuf,
    pub(super) step: Option<Step>,
    _lock: Lock,
}

/// A moment between two tasks of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Pause {
    /// Where the job stands; its blob is in the store.
    pub checkpoint: Checkpoint,
    /// Where the last task ran.
    pub provider: String,
}

/// What is done between two tasks.
pub(super) struct Step(pub(super) Box<dyn FnMut(Pause) -> BoxFuture<'static, ()> + Send + Sync>);

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Step")
    }
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
        Self { client, record, folder, step: None, _lock: lock }
    }

    /// Does `step` after each task that another one follows: looks at the checkpoint, say, or prepares what comes next.
    /// Meanwhile the worker of the last task is kept warm as long as that is cheaper than another start
    /// (`docs/cold-starts.md`), within the job's budgets; [`Report::kept`] tells. A job that is stopped doesn't wait for it.
    #[must_use]
    pub fn between<F>(self, mut step: impl FnMut(Pause) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { step: Some(Step(Box::new(move |pause| step(pause).boxed()))), ..self }
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
        S: Future<Output = ()> + Send + 'static,
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
            self.note().await;
            return Err(self.explain(error));
        }
        tracing::info!(job = %self.record.id, status = ?self.record.status, "ended");
        self.record.save(&self.folder)?;
        self.note().await;
        Ok(self.record.report())
    }

    /// Hands over this job's tasks.
    pub(super) async fn dispatcher(&self) -> Result<Dispatcher> {
        let Record { id, job, .. } = &self.record;
        let (providers, limit) = (self.client.providers.clone(), job.limits.max_cost_usd);
        let dispatcher = Dispatcher::new(&self.client, providers, id, limit, job.routing.clone()).await?;
        dispatcher.begin(job.name.as_deref().unwrap_or_default(), &self.folder, limit).await?;
        Ok(dispatcher)
    }

    /// Tells the ledger where the job stands, for lists; the record is what counts.
    async fn note(&self) {
        let noted = match self.client.ledger().await {
            Ok(ledger) => ledger.set_job_status(&self.record.id, self.record.status.name()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = noted {
            tracing::warn!(job = self.record.id, %error, "the ledger does not know how the job ended");
        }
    }

    /// Writes the model, the metrics and a copy of the job from the last checkpoint.
    pub(super) fn write_outputs(&mut self) -> Result<()> {
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
