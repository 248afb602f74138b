//! Everything needed to go on elsewhere (`docs/protocol.md`, section 10).

use outboard_core::error::Result;
use serde::{Deserialize, Serialize};

use crate::tensors::{self, Tensor, Tensors, corrupt};

/// A checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Where the run stands.
    pub position: Position,
    /// Weights (`model.NAME`), optimizer state (`optimizer.NAME.KEY`), weights of the best epoch (`best.NAME`).
    pub tensors: Tensors,
}

impl Checkpoint {
    /// The checkpoint as a safetensors file. The same checkpoint gives the same bytes.
    ///
    /// # Errors
    /// `Unexpected` where a tensor's shape and elements don't go together.
    pub fn encode(&self) -> Result<Vec<u8>> {
        tensors::encode_f32(&self.tensors, &self.position)
    }

    /// Reads a checkpoint back.
    ///
    /// # Errors
    /// `CorruptPayload` where the bytes are no checkpoint, `Unsupported` for another version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let position = Position::read(bytes)?;
        Ok(Self { position, tensors: tensors::decode(bytes)? })
    }

    /// The tensors whose names begin with `prefix` and a dot, under the rest of their names.
    pub fn section(&self, prefix: &str) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors
            .iter()
            .filter_map(move |(name, tensor)| Some((name.strip_prefix(prefix)?.strip_prefix('.')?, tensor)))
    }
}

/// Where a training run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Version of the semantics it was made under.
    pub protocol: u32,
    /// `"checkpoint"`.
    pub kind: String,
    /// The job's id: equal jobs have checkpoints of their own, which each may remove.
    #[serde(default)]
    pub job: String,
    /// The job's seed.
    pub seed: u64,
    /// Completed epochs.
    pub epoch: u32,
    /// Batches done of the running epoch.
    pub step_in_epoch: u64,
    /// Optimizer steps done.
    pub step: u64,
    /// Metrics of the running epoch so far.
    pub sums: Sums,
    /// The best epoch so far, where one is monitored.
    pub best: Option<Best>,
    /// Whether early stopping has ended the job.
    pub stopped: bool,
    /// The class within which bytes are promised equal.
    pub numerics: String,
}

impl Position {
    /// The position alone of a checkpoint's bytes.
    ///
    /// # Errors
    /// As [`Checkpoint::decode`].
    pub fn read(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            protocol: u32,
        }
        let missing = || corrupt("the file is no checkpoint: it has no `outboard` metadata");
        let version: Version = tensors::facts(bytes)?.ok_or_else(missing)?;
        tensors::check_version(version.protocol)?;
        let position: Position = tensors::facts(bytes)?.ok_or_else(missing)?;
        if position.kind != "checkpoint" {
            return Err(corrupt(format!("the file is a {}, not a checkpoint", position.kind)));
        }
        Ok(position)
    }

    /// The start of the job of this id.
    #[must_use]
    pub fn start(job: &str, seed: u64) -> Self {
        Self {
            protocol: crate::PROTOCOL_VERSION,
            kind: "checkpoint".into(),
            job: job.into(),
            seed,
            epoch: 0,
            step_in_epoch: 0,
            step: 0,
            sums: Sums::default(),
            best: None,
            stopped: false,
            numerics: String::new(),
        }
    }
}

/// Sums of metrics over the batches of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Of batch loss × rows.
    pub loss: f64,
    /// Of right answers.
    pub correct: u64,
    /// Of rows.
    pub rows: u64,
}

/// The best epoch so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its number, from 1.
    pub epoch: u32,
    /// Its monitored loss.
    pub value: f64,
    /// Epochs since.
    pub stale: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_core::ErrorKind;

    fn checkpoint() -> Checkpoint {
        let mut position = Position::start("digits-1", 7);
        position.sums.loss = 0.1 + 0.2;
        let tensor = |data: &[f32]| Tensor { shape: vec![data.len()], data: data.to_vec() };
        let tensors = [("model.0.bias", tensor(&[1.5])), ("model.0.weight", tensor(&[0.1, 0.2]))];
        Checkpoint { position, tensors: tensors.map(|(name, t)| (name.to_string(), t)).into() }
    }

    #[test]
    fn is_exact_and_its_bytes_are_stable() {
        let bytes = checkpoint().encode().unwrap();
        assert_eq!(Checkpoint::decode(&bytes).unwrap(), checkpoint());
        assert_eq!(bytes, checkpoint().encode().unwrap());
        let names: Vec<_> = checkpoint().section("model").map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["0.bias", "0.weight"]);
    }

    #[test]
    fn counts_of_batches_are_integers_as_in_pytorch() {
        let name = "model.1.num_batches_tracked";
        let mut counted = checkpoint();
        counted.tensors.insert(name.into(), Tensor { shape: vec![], data: vec![12_345.0] });
        let bytes = counted.encode().unwrap();
        assert_eq!(Checkpoint::decode(&bytes).unwrap(), counted);
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor(name).unwrap().dtype(), safetensors::Dtype::I64);
        assert_eq!(file.tensor(name).unwrap().data(), 12_345i64.to_le_bytes());
    }

    #[test]
    fn another_version_is_refused_naming_both() {
        let mut newer = checkpoint();
        newer.position.protocol = 9;
        let error = Checkpoint::decode(&newer.encode().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.to_string(), "the file is of protocol version 9, but this program speaks version 1");
    }
}
