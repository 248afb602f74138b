//! A model's layers, shapes and sizes.

use std::path::Path;

use outboard_core::{
    Error, Result, code,
    error::IoContext,
    layer::{self, Layer},
};
use outboard_data::read_training;
use outboard_protocol::ModelFile;
use outboard_store::Scratch;

use crate::read_job;

/// A model's layers, shapes and sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Shape of one sample.
    pub input: Vec<usize>,
    /// First to last.
    pub layers: Vec<LayerRow>,
}

/// One layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRow {
    /// Position in `model.layers`.
    pub index: usize,
    /// Its `type`.
    pub kind: &'static str,
    /// Shape of one sample after it.
    pub output: Vec<usize>,
    /// Elements of its parameters.
    pub parameters: u64,
    /// Floating-point operations of the forward pass for one sample; a multiply-add counts as two.
    pub flops: u64,
}

/// Describes the model of a job file, whose data is read for the input's shape, or of a model file.
///
/// # Errors
/// `InvalidRequest`, `NotFound` where the file can't be read or its layers don't fit together.
pub fn describe(path: &Path) -> Result<Description> {
    let (layers, input) = if path.extension().is_some_and(|extension| extension == "safetensors") {
        let bytes = std::fs::read(path).doing("read the model", path)?;
        let model = ModelFile::decode(&bytes).map_err(|e: Error| e.or_code(code::MODEL).at("file", path.display()))?;
        (model.facts.layers, model.facts.input)
    } else {
        let job = read_job(path)?;
        let scratch = Scratch::new(&std::env::temp_dir());
        let training = read_training(&job.data, &job.train.loss, job.train.seed, &scratch)
            .map_err(|e| e.at("job file", path.display()))?;
        let data = match &job.model.input {
            Some(input) => {
                training.train.shaped(input).map_err(|e| e.or_code(code::JOB).at("job file", path.display()))?
            }
            None => training.train,
        };
        (job.model.layers, data.shape)
    };
    let rows = rows(&layers, &input).map_err(|e| e.or_code(code::JOB))?;
    Ok(Description { input, layers: rows })
}

fn rows(layers: &[Layer], input: &[usize]) -> Result<Vec<LayerRow>> {
    let plan = layer::plan(layers, input)?;
    Ok(plan
        .iter()
        .map(|planned| LayerRow {
            index: planned.index,
            kind: planned.layer.kind(),
            output: planned.output.clone(),
            parameters: planned.parameters.iter().filter(|p| p.is_trainable()).map(|p| p.len() as u64).sum(),
            flops: planned.flops(),
        })
        .collect())
}
