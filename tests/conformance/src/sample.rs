//! A small job, its data and its tasks.

use std::time::Duration;

use outboard_core::{
    Digest, Layer, Result,
    job::{Keep, Loss, Optimizer, Schedule, Train},
    layer::plan,
    task::{Architecture, EvaluateTask, Operation, PredictTask, TrainTask},
};
use outboard_protocol::{Checkpoint, Dataset, Position, Target, initial, random::Stream};
use outboard_store::FolderStore;

const SEED: u64 = 7;
const CLASSES: usize = 3;
const FEATURES: usize = 8;

/// A job whose blobs are in the local store.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) model: Architecture,
    pub(crate) train: Train,
    pub(crate) data: Digest,
    pub(crate) validation: Digest,
    /// Checkpoint 0.
    pub(crate) start: Digest,
}

impl Job {
    /// Epochs of a job that is stopped long before its end; bounded, should nothing stop it after all.
    pub(crate) const ENDLESS: u32 = 300_000;

    pub(crate) fn new(store: &FolderStore, name: String, epochs: u32) -> Result<Self> {
        let layers = vec![
            Layer::Linear { out: 16, bias: true },
            Layer::Relu,
            Layer::Dropout { p: 0.2 },
            Layer::Linear { out: CLASSES, bias: true },
        ];
        Self::with_model(store, name, epochs, Architecture { layers, input: vec![FEATURES] })
    }

    /// A job of this model, which takes eight numbers in some shape and gives one for each class.
    pub(crate) fn with_model(store: &FolderStore, name: String, epochs: u32, model: Architecture) -> Result<Self> {
        let train = Train {
            augment: Vec::new(),
            loss: Loss::CrossEntropy { label_smoothing: 0.0, class_weights: None },
            optimizer: Optimizer::Adam { lr: 1e-2, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 },
            schedule: Schedule::Constant,
            warmup_steps: 0,
            epochs,
            batch_size: 16,
            seed: SEED,
            shuffle: true,
            drop_last: false,
            clip_norm: None,
            clip_value: None,
            freeze: vec![],
            early_stopping: None,
            keep: Keep::Last,
        };
        let weights = initial::weights(&plan(&model.layers, &model.input)?, SEED);
        let tensors = weights.into_iter().map(|(name, tensor)| (format!("model.{name}"), tensor)).collect();
        let start = Checkpoint { position: Position::start(&name, SEED), tensors }.encode()?;
        Ok(Self {
            data: store.write(&clusters(200, 0, &model).encode()?)?,
            validation: store.write(&clusters(60, 1, &model).encode()?)?,
            start: store.write(&start)?,
            name,
            model,
            train,
        })
    }

    /// Training from `checkpoint` until so many epochs are complete.
    pub(crate) fn train_between(&self, checkpoint: Digest, until_epoch: u32) -> Operation {
        Operation::Train(Box::new(TrainTask {
            model: self.model.clone(),
            train: self.train.clone(),
            data: self.data,
            validation: Some(self.validation),
            checkpoint,
            until_epoch,
            checkpoint_every: Duration::from_secs(3600),
        }))
    }

    /// Training from the start.
    pub(crate) fn train_to(&self, until_epoch: u32) -> Operation {
        self.train_between(self.start, until_epoch)
    }

    /// Training from the start, with a checkpoint after every batch.
    pub(crate) fn train_with_checkpoints(&self, until_epoch: u32) -> Operation {
        let mut operation = self.train_to(until_epoch);
        if let Operation::Train(task) = &mut operation {
            task.checkpoint_every = Duration::ZERO;
        }
        operation
    }

    pub(crate) fn evaluate(&self, weights: Digest) -> Operation {
        let (model, loss) = (self.model.clone(), self.train.loss.clone());
        Operation::Evaluate(EvaluateTask { model, weights, data: self.validation, loss })
    }

    pub(crate) fn predict(&self, weights: Digest) -> Operation {
        Operation::Predict(PredictTask { model: self.model.clone(), weights, data: self.validation })
    }
}

/// Three clusters that a line each can tell apart, as far as noise lets it; whole numbers where the model takes tokens.
fn clusters(rows: usize, part: u64, model: &Architecture) -> Dataset {
    let centres = Stream::raw(SEED, 1000);
    let noise = Stream::raw(SEED, 1001 + part);
    let feature = |row: usize, column: usize| {
        let centre = centres.uniform((row % CLASSES * FEATURES + column) as u64);
        let x = 2.0 * centre + noise.uniform((row * FEATURES + column) as u64) - 1.5;
        match model.layers.first() {
            Some(Layer::Embedding { tokens, .. }) => ((x + 1.5) / 3.0 * *tokens as f64).floor() as f32,
            _ => x as f32,
        }
    };
    Dataset {
        shape: model.input.clone(),
        x: (0..rows).flat_map(|row| (0..FEATURES).map(move |column| feature(row, column))).collect(),
        y: Target::Classes((0..rows).map(|row| (row % CLASSES) as i64).collect()),
        weights: None,
    }
}
