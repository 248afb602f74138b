//! The library's entry: train, resume, evaluate, predict.

mod apply;
mod attempts;
mod gc;
mod keeper;
mod run;

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

pub use apply::{Evaluation, Prediction, Predictions};
pub use gc::Removed;
use outboard_core::{
    ComputeProvider, Digest, Error, ErrorKind, NanoUsd, Result,
    error::IoContext,
    job::{ClassWeights, Job, Loss},
    layer::{self, Planned},
    task::{self, Architecture},
};
use outboard_data::{Training, read_training};
use outboard_protocol::{
    Checkpoint, PROTOCOL_VERSION, Position, Schema, Target, TargetColumn, Tensors, initial, tensors,
};
use outboard_store::{FolderStore, atomic};
pub use run::{Run, RunEvent, Started};

use crate::{
    config::{Config, Sources},
    nearest::listed,
    record::{Lock, Record, Report, Status},
    registry,
};

/// Trains, resumes, evaluates and predicts, on whatever the configuration allows.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<Config>,
    store: FolderStore,
    /// In order of preference.
    providers: Vec<Arc<dyn ComputeProvider>>,
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

    /// A client with providers of its own choice, in order of preference.
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
        Ok(Self { config: Arc::new(config), store, providers })
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
            let mut record = Record::load(&client.jobs(), &id)?;
            if let Some(flight) = &mut record.in_flight {
                flight.resumed = true;
            }
            Ok(Run::new(client, record, folder, lock))
        })
        .await
    }

    fn jobs(&self) -> PathBuf {
        self.config.home.join("jobs")
    }

    fn prepare(self, mut job: Job) -> Result<Run> {
        job.check()?;
        let Training { schema, train, validation } = read_training(&job.data, &job.train.loss, job.train.seed)?;
        let (train, validation) = match &job.model.input {
            Some(input) => (train.shaped(input)?, validation.map(|data| data.shaped(input)).transpose()?),
            None => (train, validation),
        };
        let model = Architecture { layers: job.model.layers.clone(), input: train.shape.clone() };
        let plan = layer::plan(&model.layers, &model.input)?;
        check_outputs(&plan, &schema)?;
        if let (Loss::CrossEntropy { class_weights: Some(weights), .. }, Target::Classes(classes)) =
            (&mut job.train.loss, &train.y)
            && weights.each().is_none()
        {
            *weights = ClassWeights::balanced(classes, schema.target.outputs());
        }
        check_class_weights(&job.train.loss, &schema)?;
        job.train.check_freeze(&plan)?;
        check_batches(&job, train.rows())?;
        job.train.check_batch_norms(&plan, train.rows())?;
        job.train.check_augment(&model.input)?;
        for data in std::iter::once(&train).chain(&validation) {
            data.check_tokens(&job.model.layers)?;
        }
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
        let data = self.store.write(&train.encode()?)?;
        let validation = validation.map(|data| self.store.write(&data.encode()?)).transpose()?;
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
            attempts: 0,
            in_flight: None,
            seconds: 0.0,
            cost: NanoUsd::ZERO,
        };
        let folder = self.jobs().join(&id);
        atomic::create_folder(&folder)?;
        let lock = Lock::take(&folder, &id)?;
        record.save(&folder)?;
        Ok(Run::new(self, record, folder, lock))
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

/// The last layer must give what the target and the loss need.
fn check_outputs(plan: &[Planned], schema: &Schema) -> Result<()> {
    let Some(last) = plan.last() else { return Ok(()) };
    let (found, needed) = (&last.output, schema.target.outputs());
    if *found == [needed] {
        return Ok(());
    }
    let (index, kind) = (last.index, last.layer.kind());
    let why = match (&schema.target, schema.target.names()) {
        (TargetColumn::Classes { name, .. }, _) => format!("`{name}` has {needed} classes"),
        (_, [column]) => format!("`{column}` needs 1 output"),
        (_, columns) => format!("there are {} targets", columns.len()),
    };
    // The layer to be changed is the last one that has outputs of its own.
    let linear = plan.iter().rev().find(|layer| layer.layer.kind() == "linear").map(|layer| layer.index);
    let hint = match linear {
        Some(linear) => format!("set `out = {needed}` in layer {linear} (linear)"),
        None => format!("end the model with {{ type = \"linear\", out = {needed} }}"),
    };
    let shape = if let [n] = found[..] {
        format!("{n} {}", if n == 1 { "output" } else { "outputs" })
    } else {
        format!("{found:?}")
    };
    Err(Error::invalid(format!("layer {index} ({kind}), the last, gives {shape}, but {why}"))
        .at("key", format!("model.layers[{index}]"))
        .hint(hint))
}

/// Each class has a weight, where any has.
fn check_class_weights(loss: &Loss, schema: &Schema) -> Result<()> {
    let (Loss::CrossEntropy { class_weights: Some(weights), .. }, TargetColumn::Classes { name, classes }) =
        (loss, &schema.target)
    else {
        return Ok(());
    };
    let (found, needed) = (weights.each().map_or(0, <[f32]>::len), classes.len());
    if found == needed {
        return Ok(());
    }
    let noun = if found == 1 { "weight" } else { "weights" };
    let mut order = listed(classes.iter().take(10).map(String::as_str));
    if needed > 10 {
        order += &format!(" and {} more", needed - 10);
    }
    Err(Error::invalid(format!("`train.loss.class_weights` has {found} {noun}, but `{name}` has {needed} classes"))
        .at("key", "train.loss.class_weights")
        .hint(format!("give one weight for each class, in this order: {order}")))
}

fn check_batches(job: &Job, rows: usize) -> Result<()> {
    if job.train.steps_per_epoch(rows) > 0 {
        return Ok(());
    }
    let batch = job.train.batch_size;
    Err(Error::invalid(format!("with `drop_last`, {rows} training rows make no batch of {batch}"))
        .at("key", "train.batch_size")
        .hint(format!("set batch_size to at most {rows}, or drop_last to false")))
}

/// Weights to start from; each must have the name and shape that the model gives it.
fn read_weights(path: &Path, plan: &[Planned]) -> Result<Tensors> {
    let at = |e: Error| e.at("file", path.display()).at("key", "model.weights");
    let bytes = fs::read(path).doing("read", path).map_err(at)?;
    let mut found = tensors::decode(&bytes).map_err(|e| {
        at(e).hint("save a state dict with safetensors.torch.save_file; pickles (.pt, .pth) are not read")
    })?;
    let parameters: Vec<_> = plan.iter().flat_map(|layer| &layer.parameters).collect();
    let mut weights = Tensors::new();
    let names = found.keys().cloned().collect::<Vec<_>>().join(", ");
    for parameter in &parameters {
        let Some(tensor) = found.remove(&parameter.name) else {
            return Err(at(Error::invalid(format!(
                "the file has no tensor `{}` of shape {:?}",
                parameter.name, parameter.shape
            )))
            .hint(format!("it has {names}; rename them to match the model's layers")));
        };
        if tensor.shape != parameter.shape {
            let (name, found, right) = (&parameter.name, &tensor.shape, &parameter.shape);
            return Err(at(Error::invalid(format!(
                "tensor `{name}` has shape {found:?}, but the model needs {right:?}"
            )))
            .hint("change the model's layers, or start from other weights"));
        }
        if let Some(i) = tensor.data.iter().position(|x| !x.is_finite()) {
            return Err(at(Error::invalid(format!(
                "tensor `{}` has {} at element {i}",
                parameter.name, tensor.data[i]
            )))
            .hint("start from weights that are finite numbers"));
        }
        weights.insert(parameter.name.clone(), tensor);
    }
    if let Some(extra) = found.keys().next() {
        return Err(at(Error::invalid(format!("the file has a tensor `{extra}` that the model doesn't"))).hint(
            format!("the model has {}", parameters.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ")),
        ));
    }
    Ok(weights)
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
