//! Epochs, batches and checkpoints of one training run.

use std::{collections::BTreeMap, time::Instant};

use outboard_core::{
    error::{Error, ErrorKind, Result},
    job::{Keep, Loss, Train},
    layer::{self, Planned},
    task::{Architecture, Epoch},
};
use outboard_protocol::{
    Best, Checkpoint, Dataset, Position, Sums, Target, Tensors,
    random::{Domain, Stream},
};

use crate::{
    cpu::{Cpu, CpuModel},
    kernels::{Kernels, Model, Step, StepSums},
    network::{StepPlan, evaluation_rows},
    optimizer::Update,
};

/// A training run in memory, between two batches.
#[derive(Debug)]
pub struct Trainer<M: Model = CpuModel> {
    train: Train,
    model: M,
    /// The class of its bytes.
    numerics: String,
    outputs: usize,
    data: M::Data,
    rows: usize,
    /// What is held out, and its rows.
    validation: Option<(M::Data, usize)>,
    /// Its sums are those of the steps that were counted.
    position: Position,
    best: Tensors,
    /// When this trainer began the running epoch, and the rows done of it then.
    began: (Instant, u64),
}

impl Trainer {
    /// Goes on from `checkpoint`, on the CPU.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn new(
        model: &Architecture,
        train: &Train,
        data: Dataset,
        validation: Option<Dataset>,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        Self::on(&Cpu, model, train, data, validation, checkpoint)
    }
}

impl<M: Model> Trainer<M> {
    /// Goes on from `checkpoint`, with these kernels.
    ///
    /// # Errors
    /// `InvalidRequest` where model, data and loss don't go together, `CorruptPayload` where the checkpoint doesn't
    /// belong to them; those of the kernels.
    pub fn on(
        kernels: &impl Kernels<Model = M>,
        model: &Architecture,
        train: &Train,
        data: Dataset,
        validation: Option<Dataset>,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        train.check()?;
        let plan = layer::plan(&model.layers, &model.input)?;
        train.check_freeze(&plan)?;
        train.check_batch_norms(&plan, data.rows())?;
        train.check_augment(&model.input)?;
        let (rows, outputs) = (data.rows(), outputs(&plan));
        let steps = train.steps_per_epoch(rows);
        if steps == 0 {
            let batch = train.batch_size;
            return Err(Error::invalid(format!(
                "no batch is complete: {rows} training rows, batch_size {batch}, drop_last"
            ))
            .at("key", "train.batch_size")
            .hint(format!("set batch_size to at most {rows}, or drop_last to false")));
        }
        let section =
            |name| checkpoint.section(name).map(|(name, t)| (name.to_string(), t.clone())).collect::<Tensors>();
        let largest = train.batch_size.min(rows).max(evaluation_rows(&plan).min(rows));
        let mut network = kernels.model(model, &section("model"), largest)?;
        for data in std::iter::once(&data).chain(&validation) {
            check_data(data, model, outputs, &train.loss)?;
        }
        let position = checkpoint.position.clone();
        let state = (position.step > 0).then(|| section("optimizer"));
        network.prepare_training(train, state.as_ref())?;
        if position.seed != train.seed || position.step_in_epoch >= steps {
            return Err(Error::new(ErrorKind::CorruptPayload, "the checkpoint belongs to another job"));
        }
        let validation = match validation {
            Some(held_out) => {
                let rows = held_out.rows();
                Some((network.place(held_out)?, rows))
            }
            None => None,
        };
        let began = (Instant::now(), position.sums.rows);
        let mut trainer = Self {
            train: train.clone(),
            numerics: kernels.numerics().to_string(),
            outputs,
            data: network.place(data)?,
            rows,
            model: network,
            validation,
            position,
            best: section("best"),
            began,
        };
        trainer.begin_epoch()?;
        Ok(trainer)
    }

    /// Where the run stands. Its sums may lag behind, until [`count`](Self::count).
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Batches in an epoch.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.train.steps_per_epoch(self.rows)
    }

    /// Whether early stopping or the last epoch has ended the job.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.position.stopped || self.position.epoch >= self.train.epochs
    }

    fn begin_epoch(&mut self) -> Result<()> {
        self.model.begin_epoch(match self.train.shuffle {
            true => Stream::new(self.train.seed, Domain::Order, self.position.epoch).order(self.rows),
            false => (0..self.rows as u32).collect(),
        })
    }

    /// Places in the order of the epoch that a step of it takes.
    fn places(&self, step_in_epoch: u64) -> std::ops::Range<usize> {
        let from = step_in_epoch as usize * self.train.batch_size;
        from..(from + self.train.batch_size).min(self.rows)
    }

    /// Trains on the next batch; the epoch's metrics where that completed it.
    ///
    /// # Errors
    /// `JobFailed` where the loss is not a finite number, with epoch and step; those of the kernels.
    pub fn step(&mut self) -> Result<Option<Epoch>> {
        let steps = self.steps_per_epoch();
        let (train, position) = (&self.train, &self.position);
        let lr = train.lr_at(position.step, steps);
        let plan = StepPlan {
            step: position.step,
            seed: train.seed,
            update: Some(Update::new(&train.optimizer, position.step, lr)),
            clip_norm: train.clip_norm,
            clip_value: train.clip_value,
        };
        let step = Step { places: self.places(position.step_in_epoch), epoch: position.epoch, train, plan };
        let stepped = self.model.step(&self.data, &step);
        stepped.map_err(|error| match error.kind() {
            ErrorKind::JobFailed => self.not_finite(error, self.position.step_in_epoch),
            _ => error,
        })?;
        self.position.step += 1;
        self.position.step_in_epoch += 1;
        if self.position.step_in_epoch < steps {
            return Ok(None);
        }
        self.finish_epoch(lr).map(Some)
    }

    /// Waits for the device, and counts the steps that it has made in the metrics of the running epoch.
    ///
    /// # Errors
    /// `JobFailed` where the loss of one is not a finite number, with epoch and step; those of the kernels.
    pub fn count(&mut self) -> Result<()> {
        let StepSums { losses, correct } = self.model.sums()?;
        let first = self.position.step_in_epoch - losses.len() as u64;
        for (step, loss) in (first..).zip(losses) {
            if !loss.is_finite() {
                return Err(self.not_finite(Error::new(ErrorKind::JobFailed, format!("the loss became {loss}")), step));
            }
            let rows = self.places(step).len();
            self.position.sums.loss += loss * rows as f64;
            self.position.sums.rows += rows as u64;
        }
        self.position.sums.correct += correct;
        Ok(())
    }

    fn not_finite(&self, error: Error, step_in_epoch: u64) -> Error {
        error
            .at("epoch", self.position.epoch + 1)
            .at("step", step_in_epoch + 1)
            .hint("lower the learning rate, set `clip_norm = 1.0` under [train], or check the data for outliers")
    }

    fn finish_epoch(&mut self, learning_rate: f64) -> Result<Epoch> {
        self.count()?;
        let has_accuracy = self.train.loss.has_accuracy();
        let Sums { loss, correct, rows } = self.position.sums;
        let validation = match &self.validation {
            Some((data, rows)) => Some((self.model.evaluate(data, &self.train.loss)?, *rows)),
            None => None,
        };
        if let Some((sums, _)) = &validation
            && !sums.mean().is_finite()
        {
            let error = Error::new(ErrorKind::JobFailed, format!("the validation loss became {}", sums.mean()));
            return Err(self.not_finite(error, self.position.step_in_epoch));
        }
        // A class counts once for each row, a binary target once for each output.
        let answers = if self.train.loss.is_classification() { 1 } else { self.outputs as u64 };
        let accuracy = |correct: u64, rows: u64| has_accuracy.then(|| correct as f64 / (rows * answers) as f64);
        let seconds = self.began.0.elapsed().as_secs_f64();
        let epoch = Epoch {
            epoch: self.position.epoch + 1,
            loss: loss / rows as f64,
            accuracy: accuracy(correct, rows),
            validation_loss: validation.map(|(sums, _)| sums.mean()),
            validation_accuracy: validation.and_then(|(sums, rows)| accuracy(sums.correct, rows as u64)),
            learning_rate,
            seconds,
            samples_per_second: (rows - self.began.1) as f64 / seconds,
        };
        self.position.epoch += 1;
        self.position.step_in_epoch = 0;
        self.position.sums = Sums::default();
        self.judge(epoch.validation_loss.unwrap_or(epoch.loss))?;
        self.began = (Instant::now(), 0);
        self.begin_epoch()?;
        Ok(epoch)
    }

    /// Remembers the best epoch, and ends the job where nothing has improved for long.
    fn judge(&mut self, value: f64) -> Result<()> {
        let early = self.train.early_stopping.as_ref();
        if early.is_none() && self.train.keep == Keep::Last {
            return Ok(());
        }
        let min_delta = early.map_or(0.0, |early| early.min_delta);
        let best = match self.position.best {
            Some(best) if value >= best.value - min_delta => Best { stale: best.stale + 1, ..best },
            _ => {
                if self.train.keep == Keep::Best {
                    self.best = self.model.weights()?;
                }
                Best { epoch: self.position.epoch, value, stale: 0 }
            }
        };
        self.position.best = Some(best);
        self.position.stopped = early.is_some_and(|early| best.stale >= early.patience);
        Ok(())
    }

    /// Everything needed to go on elsewhere.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.count()?;
        let mut tensors = BTreeMap::new();
        tensors.extend(self.model.weights()?.into_iter().map(|(name, t)| (format!("model.{name}"), t)));
        if self.position.step > 0 {
            let state = self.model.optimizer_state(&self.train)?;
            tensors.extend(state.into_iter().map(|(name, t)| (format!("optimizer.{name}"), t)));
        }
        tensors.extend(self.best.iter().map(|(name, t)| (format!("best.{name}"), t.clone())));
        Ok(Checkpoint { position: Position { numerics: self.numerics.clone(), ..self.position.clone() }, tensors })
    }
}

/// Outputs of a model for one row.
pub(crate) fn outputs(plan: &[Planned]) -> usize {
    plan.last().map_or(0, Planned::width)
}

/// Checks that rows fit the model.
pub(crate) fn check_inputs(data: &Dataset, model: &Architecture) -> Result<()> {
    if data.shape != model.input {
        return Err(Error::invalid(format!(
            "the data's rows are {:?}, but the model takes {:?}",
            data.shape, model.input
        )));
    }
    data.check_tokens(&model.layers)
}

/// Checks that data fit the model and the loss.
pub(crate) fn check_data(data: &Dataset, model: &Architecture, outputs: usize, loss: &Loss) -> Result<()> {
    check_inputs(data, model)?;
    match &data.y {
        Target::Classes(classes) if loss.is_classification() => {
            if let Some(wrong) = classes.iter().find(|class| !(0..outputs as i64).contains(class)) {
                return Err(Error::invalid(format!("class {wrong} in the data, but the model has {outputs} outputs")));
            }
            if let Loss::CrossEntropy { class_weights: Some(weights), .. } = loss
                && weights.each().map(<[f32]>::len) != Some(outputs)
            {
                return Err(Error::invalid(format!(
                    "`train.loss.class_weights` has {} weights, but there are {outputs} classes",
                    weights.each().map_or(0, <[f32]>::len)
                ))
                .at("key", "train.loss.class_weights")
                .hint("give one weight for each class, in the order of the classes"));
            }
            Ok(())
        }
        Target::Values { outputs: found, .. } if !loss.is_classification() => match *found == outputs {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "the data has {found} targets for each row, but the model {outputs} outputs"
            ))),
        },
        _ => Err(Error::invalid("the data's target does not suit the loss")),
    }
}
