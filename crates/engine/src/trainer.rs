//! Epochs, batches and checkpoints of one training run.

use std::{collections::BTreeMap, time::Instant};

use outboard_core::{
    error::{Error, ErrorKind, Result},
    job::{Keep, Loss, Train},
    layer,
    task::{Architecture, Epoch},
};
use outboard_protocol::{
    Augmentation, Best, Checkpoint, Dataset, Position, Sums, Target, Tensor, Tensors,
    random::{Domain, Stream},
};

use crate::{
    loss::Targets,
    network::{Network, StepPlan, evaluation_rows},
    numerics,
    optimizer::Update,
};

/// A training run in memory, between two batches.
#[derive(Debug)]
pub struct Trainer {
    train: Train,
    network: Network,
    data: Dataset,
    validation: Option<Dataset>,
    position: Position,
    best: Tensors,
    /// Rows of the running epoch, in its order.
    order: Vec<u32>,
    /// When this trainer began the running epoch, and the rows done of it then.
    began: (Instant, u64),
    classes: Vec<i64>,
    values: Vec<f32>,
    weights: Vec<f32>,
}

impl Trainer {
    /// Goes on from `checkpoint`.
    ///
    /// # Errors
    /// `InvalidRequest` where model, data and loss don't go together, `CorruptPayload` where the checkpoint doesn't
    /// belong to them.
    pub fn new(
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
        let steps = train.steps_per_epoch(data.rows());
        if steps == 0 {
            let (rows, batch) = (data.rows(), train.batch_size);
            return Err(Error::invalid(format!(
                "no batch is complete: {rows} training rows, batch_size {batch}, drop_last"
            ))
            .at("key", "train.batch_size")
            .hint(format!("set batch_size to at most {rows}, or drop_last to false")));
        }
        let weights: Tensors = checkpoint.section("model").map(|(name, t)| (name.to_string(), t.clone())).collect();
        let batch = train.batch_size.min(data.rows());
        let mut network = Network::new(model, &weights, batch.max(evaluation_rows(&plan).min(data.rows())))?;
        for data in std::iter::once(&data).chain(&validation) {
            check_data(data, model, &network, &train.loss)?;
        }
        network.prepare_training(train);
        let position = checkpoint.position.clone();
        if position.step > 0 {
            network.set_optimizer_state(train, checkpoint.section("optimizer"))?;
        }
        if position.seed != train.seed || position.step_in_epoch >= steps {
            return Err(Error::new(ErrorKind::CorruptPayload, "the checkpoint belongs to another job"));
        }
        let best = checkpoint.section("best").map(|(name, t)| (name.to_string(), t.clone())).collect();
        let began = (Instant::now(), position.sums.rows);
        let mut trainer = Self {
            train: train.clone(),
            network,
            data,
            validation,
            position,
            best,
            order: Vec::new(),
            began,
            classes: Vec::new(),
            values: Vec::new(),
            weights: Vec::new(),
        };
        trainer.order = trainer.order_of_epoch();
        Ok(trainer)
    }

    /// Where the run stands.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Batches in an epoch.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.train.steps_per_epoch(self.data.rows())
    }

    /// Whether early stopping or the last epoch has ended the job.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.position.stopped || self.position.epoch >= self.train.epochs
    }

    fn order_of_epoch(&self) -> Vec<u32> {
        match self.train.shuffle {
            true => Stream::new(self.train.seed, Domain::Order, self.position.epoch).order(self.data.rows()),
            false => (0..self.data.rows() as u32).collect(),
        }
    }

    /// Trains on the next batch; the epoch's metrics where that completed it.
    ///
    /// # Errors
    /// `JobFailed` where the loss is not a finite number, with epoch and step.
    pub fn step(&mut self) -> Result<Option<Epoch>> {
        let steps = self.steps_per_epoch();
        let from = self.position.step_in_epoch as usize * self.train.batch_size;
        let rows = &self.order[from..(from + self.train.batch_size).min(self.data.rows())];
        self.network.load(&self.data, rows);
        if let ([channels, height, width], false) = (&self.data.shape[..], self.train.augment.is_empty()) {
            let augmentation = Augmentation::new(&self.train.augment, self.train.seed, self.position.epoch);
            self.network.augment(augmentation, rows, [*channels, *height, *width]);
        }
        let targets = match &self.data.y {
            Target::Classes(all) => {
                self.classes.clear();
                self.classes.extend(rows.iter().map(|&row| all[row as usize]));
                Targets::Classes(&self.classes)
            }
            Target::Values { outputs, values } => {
                self.values.clear();
                rows.iter()
                    .for_each(|&row| self.values.extend_from_slice(&values[row as usize * outputs..][..*outputs]));
                Targets::Values(&self.values)
            }
            Target::None => return Err(Error::invalid("the training data has no target")),
        };
        let weights = self.data.weights.as_ref().map(|all| {
            self.weights.clear();
            self.weights.extend(rows.iter().map(|&row| all[row as usize]));
            &self.weights[..]
        });
        let lr = self.train.lr_at(self.position.step, steps);
        let plan = StepPlan {
            step: self.position.step,
            seed: self.train.seed,
            update: Some(Update::new(&self.train.optimizer, self.position.step, lr)),
            clip_norm: self.train.clip_norm,
            clip_value: self.train.clip_value,
        };
        let sums = self
            .network
            .step(rows.len(), &self.train.loss, targets, weights, &plan)
            .map_err(|error| self.not_finite(error))?;
        let position = &mut self.position;
        position.sums.loss += sums.mean() * rows.len() as f64;
        position.sums.correct += sums.correct;
        position.sums.rows += rows.len() as u64;
        position.step += 1;
        position.step_in_epoch += 1;
        if position.step_in_epoch < steps {
            return Ok(None);
        }
        self.finish_epoch(lr).map(Some)
    }

    fn not_finite(&self, error: Error) -> Error {
        let position = &self.position;
        error
            .at("epoch", position.epoch + 1)
            .at("step", position.step_in_epoch + 1)
            .hint("lower the learning rate, set `clip_norm = 1.0` under [train], or check the data for outliers")
    }

    fn finish_epoch(&mut self, learning_rate: f64) -> Result<Epoch> {
        let has_accuracy = self.train.loss.has_accuracy();
        let Sums { loss, correct, rows } = self.position.sums;
        let validation =
            self.validation.as_ref().map(|data| (self.network.evaluate(data, &self.train.loss), data.rows()));
        if let Some((sums, _)) = &validation
            && !sums.mean().is_finite()
        {
            let error = Error::new(ErrorKind::JobFailed, format!("the validation loss became {}", sums.mean()));
            return Err(self.not_finite(error));
        }
        // A class counts once for each row, a binary target once for each output.
        let answers = if self.train.loss.is_classification() { 1 } else { self.network.outputs() as u64 };
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
        self.judge(epoch.validation_loss.unwrap_or(epoch.loss));
        self.began = (Instant::now(), 0);
        self.order = self.order_of_epoch();
        Ok(epoch)
    }

    /// Remembers the best epoch, and ends the job where nothing has improved for long.
    fn judge(&mut self, value: f64) {
        let early = self.train.early_stopping.as_ref();
        if early.is_none() && self.train.keep == Keep::Last {
            return;
        }
        let min_delta = early.map_or(0.0, |early| early.min_delta);
        let best = match self.position.best {
            Some(best) if value >= best.value - min_delta => Best { stale: best.stale + 1, ..best },
            _ => {
                if self.train.keep == Keep::Best {
                    self.best = self.network.weights().map(|(name, t)| (name.to_string(), t)).collect();
                }
                Best { epoch: self.position.epoch, value, stale: 0 }
            }
        };
        self.position.best = Some(best);
        self.position.stopped = early.is_some_and(|early| best.stale >= early.patience);
    }

    /// Everything needed to go on elsewhere.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let mut tensors = BTreeMap::new();
        tensors.extend(self.network.weights().map(|(name, t)| (format!("model.{name}"), t)));
        if self.position.step > 0 {
            let state = self.network.optimizer_state(&self.train);
            tensors.extend(state.map(|(name, t)| (format!("optimizer.{name}"), t)));
        }
        tensors.extend(self.best.iter().map(|(name, t): (&String, &Tensor)| (format!("best.{name}"), t.clone())));
        Checkpoint { position: Position { numerics: numerics::class().into(), ..self.position.clone() }, tensors }
    }
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
pub(crate) fn check_data(data: &Dataset, model: &Architecture, network: &Network, loss: &Loss) -> Result<()> {
    check_inputs(data, model)?;
    let outputs = network.outputs();
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
