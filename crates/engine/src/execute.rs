//! Runs a task: blobs in, events and blobs out.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use outboard_core::{
    Digest, Environment, Event,
    error::{Error, ErrorKind, Result},
    job::Train,
    layer,
    task::{self, Architecture, Ended, EvaluateTask, Metrics, Operation, Outcome, PredictTask, Progress, TrainTask},
};
use outboard_protocol::{Checkpoint, Dataset, Target, Tensor, Tensors, tensors};

use crate::{
    cpu::Cpu,
    kernels::{Kernels, Model},
    network::evaluation_rows,
    trainer::{Trainer, check_data, check_inputs, outputs},
};

/// Where a task's blobs come from and go to.
pub trait Blobs {
    /// A blob's bytes. Those of a data set may be more than memory holds, so they had better lie in a mapped file.
    ///
    /// # Errors
    /// `NotFound`; `CorruptPayload` where the bytes don't match the digest.
    fn get(&self, digest: &Digest) -> Result<Bytes>;

    /// Stores `bytes` durably, whole or not at all.
    ///
    /// # Errors
    /// Where there is no room.
    fn put(&self, bytes: Vec<u8>) -> Result<Digest>;
}

/// Time between two progress events.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Runs a task on the CPU, in the current rayon pool.
///
/// # Errors
/// As [`execute_on`].
pub fn execute(
    operation: &Operation,
    blobs: &dyn Blobs,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Event),
) -> Result<Outcome> {
    execute_on(&Cpu, operation, blobs, stop, observe)
}

/// Runs a task with these kernels. Events go to `observe`. When `stop` becomes true, training ends after the batch, with
/// a checkpoint.
///
/// # Errors
/// `JobFailed` where the loss is not a finite number; `InvalidRequest` where the task's parts don't go together;
/// `Cancelled` for what was stopped and has no checkpoint; whatever `blobs` answers; those of the kernels.
pub fn execute_on(
    kernels: &impl Kernels,
    operation: &Operation,
    blobs: &dyn Blobs,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Event),
) -> Result<Outcome> {
    match operation {
        Operation::Train(task) => train(kernels, task, blobs, stop, observe),
        Operation::Evaluate(task) => evaluate(kernels, task, blobs),
        Operation::Predict(task) => predict(kernels, task, blobs, stop),
        Operation::Describe => Ok(Outcome::Describe(describe(kernels))),
    }
}

/// What the place is like where tasks run with these kernels, in the current rayon pool.
pub fn describe(kernels: &impl Kernels) -> Environment {
    let mut found = outboard_machine::environment();
    found.state("program.version", env!("CARGO_PKG_VERSION"));
    found.state("program.numerics", kernels.numerics());
    found.state("program.threads", rayon::current_num_threads());
    kernels.describe(&mut found);
    found
}

fn read_data(blobs: &dyn Blobs, digest: &Digest) -> Result<Dataset> {
    Dataset::open(blobs.get(digest)?)
}

fn train<K: Kernels>(
    kernels: &K,
    task: &TrainTask,
    blobs: &dyn Blobs,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Event),
) -> Result<Outcome> {
    let start = Checkpoint::decode(&blobs.get(&task.checkpoint)?)?;
    if start.position.step > 0 && start.position.numerics != kernels.numerics() {
        observe(Event::Warning {
            message: format!(
                "going on from a checkpoint of another numerics class ({}; here {}): same curve, but not the same bytes",
                start.position.numerics,
                kernels.numerics()
            ),
        });
    }
    let data = read_data(blobs, &task.data)?;
    let validation = task.validation.as_ref().map(|digest| read_data(blobs, digest)).transpose()?;
    let mut trainer = Trainer::on(kernels, &task.model, &task.train, data, validation, &start)?;
    drop(start);

    let mut saved = Instant::now();
    let mut progress = ProgressMeter { last: Instant::now(), steps: trainer.position().step };
    let checkpoint = |trainer: &mut Trainer<K::Model>, observe: &mut dyn FnMut(Event)| -> Result<task::Checkpoint> {
        let state = trainer.checkpoint()?;
        let checkpoint = task::Checkpoint {
            digest: blobs.put(state.encode()?)?,
            epoch: state.position.epoch,
            step_in_epoch: state.position.step_in_epoch,
        };
        observe(Event::Checkpoint(checkpoint));
        Ok(checkpoint)
    };
    let ended = loop {
        if trainer.position().stopped {
            break Ended::EarlyStopping;
        }
        if trainer.is_done() || trainer.position().epoch >= task.until_epoch {
            break Ended::Complete;
        }
        if stop.load(Ordering::Relaxed) {
            break Ended::Cancelled;
        }
        if let Some(epoch) = trainer.step()? {
            observe(Event::Epoch(epoch));
        } else if let Some(event) = progress.report(&mut trainer, &task.train)? {
            observe(Event::Progress(event));
        }
        if saved.elapsed() >= task.checkpoint_every {
            checkpoint(&mut trainer, observe)?;
            saved = Instant::now();
        }
    };
    Ok(Outcome::Train { checkpoint: checkpoint(&mut trainer, observe)?, ended })
}

struct ProgressMeter {
    last: Instant,
    steps: u64,
}

impl ProgressMeter {
    /// An event, if the last is long enough ago.
    fn report<M: Model>(&mut self, trainer: &mut Trainer<M>, train: &Train) -> Result<Option<Progress>> {
        if self.last.elapsed() < PROGRESS_EVERY {
            return Ok(None);
        }
        trainer.count()?;
        // A device has made the steps by now, not before.
        let elapsed = self.last.elapsed();
        let (position, steps) = (trainer.position(), trainer.steps_per_epoch());
        let steps_per_second = (position.step - self.steps) as f64 / elapsed.as_secs_f64();
        *self = Self { last: Instant::now(), steps: position.step };
        let left = u64::from(train.epochs) * steps - position.step;
        Ok(Some(Progress {
            epoch: position.epoch + 1,
            step: position.step_in_epoch,
            steps,
            loss: position.sums.loss / position.sums.rows.max(1) as f64,
            samples_per_second: steps_per_second * train.batch_size as f64,
            eta_seconds: left as f64 / steps_per_second,
        }))
    }
}

/// The weights of a model file or a checkpoint.
fn read_weights(blobs: &dyn Blobs, digest: &Digest) -> Result<Tensors> {
    let all = tensors::decode(&blobs.get(digest)?)?;
    if !all.keys().any(|name| name.starts_with("model.")) {
        return Ok(all);
    }
    Ok(all.into_iter().filter_map(|(name, t)| Some((name.strip_prefix("model.")?.to_string(), t))).collect())
}

/// A model that takes so many rows at a time as suit it; the rows, and the outputs of one.
fn model<K: Kernels>(
    kernels: &K,
    model: &Architecture,
    weights: &Tensors,
    data: &Dataset,
) -> Result<(K::Model, usize, usize)> {
    let plan = layer::plan(&model.layers, &model.input)?;
    let rows = evaluation_rows(&plan).min(data.rows());
    Ok((kernels.model(model, weights, rows)?, rows, outputs(&plan)))
}

fn evaluate(kernels: &impl Kernels, task: &EvaluateTask, blobs: &dyn Blobs) -> Result<Outcome> {
    let data = read_data(blobs, &task.data)?;
    let (mut model, _, outputs) = model(kernels, &task.model, &read_weights(blobs, &task.weights)?, &data)?;
    check_data(&data, &task.model, outputs, &task.loss)?;
    let rows = data.rows();
    let answers = match &data.y {
        Target::Values { values, .. } => values.len(),
        _ => rows,
    };
    let data = model.place(data)?;
    let sums = model.evaluate(&data, &task.loss)?;
    Ok(Outcome::Evaluate(Metrics {
        loss: sums.mean(),
        accuracy: task.loss.has_accuracy().then(|| sums.correct as f64 / answers as f64),
        rows: rows as u64,
    }))
}

fn predict(kernels: &impl Kernels, task: &PredictTask, blobs: &dyn Blobs, stop: &AtomicBool) -> Result<Outcome> {
    let data = read_data(blobs, &task.data)?;
    let (mut model, most, width) = model(kernels, &task.model, &read_weights(blobs, &task.weights)?, &data)?;
    check_inputs(&data, &task.model)?;
    let rows = data.rows();
    let data = model.place(data)?;
    let mut outputs = Vec::with_capacity(rows * width);
    for from in (0..rows).step_by(most) {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "the task was cancelled"));
        }
        outputs.extend(model.predict(&data, from..(from + most).min(rows))?);
    }
    let shape = vec![rows, width];
    let outputs = Tensors::from([("outputs".to_string(), Tensor { shape, data: outputs })]);
    Ok(Outcome::Predict { outputs: blobs.put(tensors::encode_plain(&outputs)?)? })
}
