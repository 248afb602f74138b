//! The library's entry: train, resume, evaluate, predict.

mod apply;
mod attempts;
mod caps;
mod check;
mod desk;
mod dispatch;
mod gc;
mod jobs;
mod keeper;
mod observed;
mod plan;
mod reconcile;
mod run;
pub(crate) mod trial;
mod warm;

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

pub use apply::{Evaluation, Prediction, Predictions};
use check::{Checked, check, read_weights};
pub use gc::Removed;
pub(crate) use jobs::left_behind;
pub use jobs::{JobDetails, Reaped};
use observed::Observed;
use outboard_core::{
    ComputeProvider, Digest, Error, ErrorKind, NanoUsd, Result,
    error::IoContext,
    job::Job,
    task::{self},
};
use outboard_ledger::Ledger;
use outboard_protocol::{Checkpoint, Dataset, PROTOCOL_VERSION, Position, initial};
use outboard_store::{FolderStore, atomic};
pub use plan::{Budgets, JobPlan, Providers};
pub use reconcile::Reconciled;
pub use run::{Run, RunEvent, Started};
use tokio::sync::OnceCell;

use crate::{
    config::{Config, Sources},
    record::{Lock, Record, Report, Status},
    registry,
};

/// Trains, resumes, evaluates and predicts, on whatever the configuration allows.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<Config>,
    store: FolderStore,
    providers: Vec<Arc<dyn ComputeProvider>>,
    ledger: Arc<OnceCell<Ledger>>,
    observed: Observed,
}

impl Client {
    /// A client with the given configuration.
    ///
    /// # Errors
    /// `InvalidConfig` where no provider is enabled, `InvalidRequest` where the home folder can't be used.
    pub fn new(config: Config) -> Result<Self> {
        let store = FolderStore::open(&config.home)
            .map_err(|e| e.at("key", "home").hint("set OUTBOARD_HOME to a folder of yours"))?;
        let providers = registry::providers(&config, &store)?;
        Self::with_providers(config, store, providers)
    }

    /// A client with providers of its own choice.
    ///
    /// # Errors
    /// `InvalidConfig` where there is none.
    pub fn with_providers(
        config: Config,
        store: FolderStore,
        providers: Vec<Arc<dyn ComputeProvider>>,
    ) -> Result<Self> {
        if providers.is_empty() {
            return Err(Error::new(ErrorKind::InvalidConfig, "no provider is enabled")
                .at("key", "providers.cpu.enabled")
                .hint("set it to true, or enable another under [providers]"));
        }
        Ok(Self { config: Arc::new(config), store, providers, ledger: Arc::default(), observed: Observed::default() })
    }

    /// The ledger, opened when it is first needed.
    async fn ledger(&self) -> Result<&Ledger> {
        self.ledger.get_or_try_init(|| Ledger::open(&self.config.ledger.0)).await
    }

    /// A client configured by `outboard.toml` and the environment.
    ///
    /// # Errors
    /// As [`Client::new`], and `InvalidConfig` for what is wrong in a file or a variable.
    pub fn from_env() -> Result<Self> {
        Self::new(Config::load(&Sources::from_process(Vec::new())?)?)
    }

    /// Trains a model and waits for it.
    ///
    /// # Errors
    /// As [`Client::start`] and [`Run::drive`].
    pub async fn train(&self, job: Job) -> Result<Report> {
        self.start(job).await?.drive(std::future::pending(), |_| {}).await
    }

    /// Reads the job's data, checks everything that can be known beforehand, and writes down what is about to be done.
    /// Nothing is written where something is wrong.
    ///
    /// # Errors
    /// `InvalidRequest`, `NotFound` for what is wrong with the job or its data.
    pub async fn start(&self, job: Job) -> Result<Run> {
        let client = self.clone();
        blocking(move || client.prepare(job)).await
    }

    /// Goes on with a job that was interrupted, killed or failed; one that has succeeded gives its result again.
    ///
    /// # Errors
    /// `NotFound` for an unknown job, `Conflict` where another process runs it.
    pub async fn resume(&self, id: &str) -> Result<Run> {
        let (client, id) = (self.clone(), id.to_string());
        blocking(move || {
            Record::load(&client.jobs(), &id)?;
            let folder = client.jobs().join(&id);
            let lock = Lock::take(&folder, &id)?;
            // Read under the lock: the process that held it may have gone on meanwhile.
            let record = Record::load(&client.jobs(), &id)?;
            Ok(Run::new(client, record, folder, lock))
        })
        .await
    }

    fn jobs(&self) -> PathBuf {
        self.config.home.join("jobs")
    }

    fn prepare(self, mut job: Job) -> Result<Run> {
        let Checked { schema, train, validation, model, plan, loss } = check(&job, &self.store.scratch())?;
        job.train.loss = loss;
        let weights = match &job.model.weights {
            Some(path) => read_weights(path, &plan)?,
            None => initial::weights(&plan, job.train.seed),
        };

        let id = new_id(job.name.as_deref().unwrap_or("job"));
        let output = match &job.output {
            Some(output) => output.clone(),
            None => std::env::current_dir().doing("find", Path::new("the working directory"))?.join("runs").join(&id),
        };
        atomic::create_folder(&output).map_err(|e| output_hint(e, &output))?;
        let probe = output.join(".outboard-probe");
        fs::write(&probe, b"").doing("write into the output folder", &output).map_err(|e| output_hint(e, &output))?;
        fs::remove_file(&probe).doing("remove", &probe)?;

        let (rows, validation_rows) = (train.rows() as u64, validation.as_ref().map_or(0, |v| v.rows() as u64));
        let (data, _) = self.keep(&train)?;
        let validation = validation.map(|data| self.keep(&data)).transpose()?.map(|(digest, _)| digest);
        let start = Checkpoint {
            position: Position::start(&id, job.train.seed),
            tensors: weights.into_iter().map(|(name, tensor)| (format!("model.{name}"), tensor)).collect(),
        };
        let digest = self.store.write(&start.encode()?)?;
        let record = Record {
            protocol: PROTOCOL_VERSION,
            id: id.clone(),
            status: Status::Running,
            job,
            output,
            model,
            schema,
            rows,
            validation_rows,
            data,
            validation,
            checkpoint: task::Checkpoint { digest, epoch: 0, step_in_epoch: 0 },
            provider: String::new(),
            epochs: Vec::new(),
            stopped_early: false,
            best_epoch: None,
            seconds: 0.0,
            timings: task::Timings::default(),
            moves: Vec::new(),
            cost: NanoUsd::ZERO,
        };
        let folder = self.jobs().join(&id);
        atomic::create_folder(&folder)?;
        let lock = Lock::take(&folder, &id)?;
        record.save(&folder)?;
        Ok(Run::new(self, record, folder, lock))
    }

    /// Stores a data set, which may be more than memory holds; its digest and its size.
    fn keep(&self, data: &Dataset) -> Result<(Digest, u64)> {
        let (mut blob, mut size) = (self.store.create()?, 0);
        data.write(&mut |piece| {
            size += piece.len() as u64;
            blob.add(piece)
        })?;
        Ok((blob.finish()?, size))
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Unexpected, "a thread of the client ended early").because(e))?
}

fn output_hint(error: Error, output: &Path) -> Error {
    error.at("output", output.display()).hint("name another folder with `--output DIR`, or change its permissions")
}

/// A new job's id: its name, and enough of a hash to be unique.
fn new_id(name: &str) -> String {
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).take(40).collect();
    let name = if name.is_empty() { "job".to_string() } else { name };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let unique = Digest::of(format!("{name} {now} {}", std::process::id()).as_bytes()).to_string();
    format!("{name}-{}", &unique[..8])
}

/// Waits for `stop`, at the latest until `limit`; whether it was the limit.
async fn stop_or_deadline<S: Future<Output = ()>>(stop: S, limit: Option<std::time::Duration>) -> bool {
    match limit {
        Some(limit) => tokio::time::timeout(limit, stop).await.is_err(),
        None => {
            stop.await;
            false
        }
    }
}
