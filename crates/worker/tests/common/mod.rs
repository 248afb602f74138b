//! Jobs, and the program that runs them: the example `worker`, which `cargo test` builds.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, atomic::AtomicBool},
    time::Duration,
};

use outboard_core::{
    Digest, Event, Layer, Task, layer,
    task::{Architecture, Operation, Outcome, TrainTask},
};
use outboard_engine::{Blobs, execute};
use outboard_protocol::{
    Checkpoint, Dataset, Envelope, Position, Target, initial,
    random::{Domain, Stream},
};
use outboard_store::FolderStore;
use outboard_worker::TaskProgram;

pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/worker");
    assert!(program.exists(), "{} is missing: `cargo build -p outboard-worker --examples`", program.display());
    program
}

pub fn task_program(store: &Path) -> TaskProgram {
    let args = ["--stdio".into(), "--threads".into(), "1".into(), "--store".into(), store.into()];
    TaskProgram { program: program(), args: args.to_vec() }
}

/// A job of `epochs` epochs of 10 batches.
pub struct Job {
    pub epochs: u32,
    pub rows: usize,
}

impl Job {
    pub fn short() -> Self {
        Self { epochs: 3, rows: 640 }
    }

    /// One that ends only when it is stopped.
    pub fn endless() -> Self {
        Self { epochs: u32::MAX, rows: 640 }
    }

    fn model(&self) -> Architecture {
        let layers = vec![Layer::Linear { out: 64, bias: true }, Layer::Relu, Layer::Linear { out: 4, bias: true }];
        Architecture { layers, input: vec![32] }
    }

    pub fn data(&self) -> Vec<u8> {
        let stream = Stream::new(3, Domain::Weights, 7);
        let x: outboard_protocol::Inputs = (0..self.rows as u64 * 32).map(|i| stream.uniform(i) as f32).collect();
        let y = Target::Classes((0..self.rows as i64).map(|i| i % 4).collect());
        Dataset { shape: vec![32], x, y, weights: None }.encode().unwrap()
    }

    pub fn start(&self) -> Vec<u8> {
        let plan = layer::plan(&self.model().layers, &[32]).unwrap();
        let tensors = initial::weights(&plan, 7).into_iter().map(|(name, t)| (format!("model.{name}"), t)).collect();
        Checkpoint { position: Position::start("job", 7), tensors }.encode().unwrap()
    }

    pub fn operation(&self) -> Operation {
        let train = serde_json::from_value(serde_json::json!({
            "loss": "cross_entropy", "optimizer": {"type": "adam", "lr": 1e-3}, "epochs": self.epochs,
            "batch_size": 64, "seed": 7,
        }));
        Operation::Train(Box::new(TrainTask {
            model: self.model(),
            train: train.unwrap(),
            data: Digest::of(&self.data()),
            validation: None,
            checkpoint: Digest::of(&self.start()),
            until_epoch: self.epochs,
            checkpoint_every: Duration::from_secs(3600),
        }))
    }

    pub fn envelope(&self, key: &str) -> Envelope {
        let (job, attempt) = ("job".into(), format!("{key}#1"));
        let task = Task { key: key.into(), job, attempt, operation: self.operation(), limit: None };
        Envelope::new(task, DEADLINE, DEADLINE)
    }

    pub fn prepare(&self, store: &FolderStore) {
        store.write(&self.data()).unwrap();
        store.write(&self.start()).unwrap();
    }

    /// The outcome and its checkpoint as the engine gives them when called directly.
    pub fn directly(&self) -> (Outcome, Vec<u8>) {
        self.directly_as(&self.operation())
    }

    pub fn directly_as(&self, operation: &Operation) -> (Outcome, Vec<u8>) {
        #[derive(Default)]
        struct Memory(Mutex<Vec<Vec<u8>>>);
        impl Blobs for Memory {
            fn get(&self, digest: &Digest) -> outboard_core::Result<bytes::Bytes> {
                Ok(self.0.lock().unwrap().iter().find(|blob| Digest::of(blob) == *digest).unwrap().clone().into())
            }
            fn put(&self, bytes: Vec<u8>) -> outboard_core::Result<Digest> {
                let digest = Digest::of(&bytes);
                self.0.lock().unwrap().push(bytes);
                Ok(digest)
            }
        }
        let memory = Memory(Mutex::new(vec![self.data(), self.start()]));
        let stop = AtomicBool::new(false);
        let outcome = execute(operation, &memory, &stop, &mut |_: Event| {}).unwrap();
        let Outcome::Train { checkpoint, .. } = &outcome else { panic!("{outcome:?}") };
        let bytes = memory.get(&checkpoint.digest).unwrap().into();
        (outcome, bytes)
    }
}

pub fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(status.success());
}
