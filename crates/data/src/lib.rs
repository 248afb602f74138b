#![doc = include_str!("../README.md")]

mod columns;
mod fit;
mod labels;
mod source;
mod table;
mod wording;

use std::path::Path;

use outboard_core::{
    error::{Error, Result},
    job::{Data, Loss, Validation},
};
use outboard_protocol::{Dataset, Schema, random};

use crate::{source::Source, table::Table};

/// What a training job learns from.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// How the files were read, and how later ones are to be.
    pub schema: Schema,
    /// The rows to learn from.
    pub train: Dataset,
    /// The rows held out, if any are.
    pub validation: Option<Dataset>,
}

/// Reads a job's training data: splits the rows, fits the schema, normalises.
///
/// Offsets and scales come from the training rows alone, categories and classes from the whole training file. `loss`
/// decides what the target is: a class (`cross_entropy`), one of two (`bce_with_logits`) or a number (the others).
/// The same file, job and seed give the same split and the same numbers.
///
/// # Errors
/// `NotFound` where a file is missing, `InvalidRequest` where one can't be read as the job says, with the job's key,
/// file, row and column.
pub fn read_training(data: &Data, loss: &Loss, seed: u64) -> Result<Training> {
    read_job(data, loss, seed).map_err(|error| at_key(error, "data.train"))
}

fn read_job(data: &Data, loss: &Loss, seed: u64) -> Result<Training> {
    let source = Source::open(&data.train)?;
    let (mut features, mut target) = columns::of_job(data, loss, &source)?;
    let mut table = Table::read(&source, &mut features, Some(&mut target))?;
    // The numbers are all that is needed from here on.
    drop(source);

    if table.rows() < 2 {
        return Err(Error::invalid("the file has 1 row, but training needs at least 2")
            .at("file", data.train.display())
            .hint("add rows to the file"));
    }
    let sorted = table.sort_labels(features, target)?;
    let all = 0..table.rows() as u32;
    let (train, held_out) = match data.validation {
        Some(Validation::Fraction(fraction)) => {
            let held_out = random::validation_rows(seed, table.rows(), fraction);
            (all.filter(|row| held_out.binary_search(row).is_err()).collect(), held_out)
        }
        _ => (all.collect::<Vec<_>>(), Vec::new()),
    };
    let scalings = fit::fit(&table, &train, data.normalize);
    let schema = sorted.into_schema(&scalings);
    let validation = match &data.validation {
        None => None,
        Some(Validation::Fraction(_)) => Some(table.dataset(&schema, &held_out)?),
        Some(Validation::File(path)) => Some(read_labelled(path, &schema).map_err(|e| at_key(e, "data.validation"))?),
    };
    Ok(Training { train: table.dataset(&schema, &train)?, schema, validation })
}

/// Names the key of the job that is to be changed, unless the error does.
fn at_key(error: Error, key: &str) -> Error {
    match error.context().iter().any(|(what, _)| *what == "key") {
        true => error,
        false => error.at("key", key),
    }
}

/// Reads a file as the model was trained, with its target column. Other columns are ignored.
///
/// # Errors
/// `NotFound` where the file is missing, `InvalidRequest` where it doesn't go with the schema, with row and column.
pub fn read_labelled(path: &Path, schema: &Schema) -> Result<Dataset> {
    read(path, schema, true)
}

/// Reads a file as the model was trained; its target column may be missing and is ignored, like all others.
///
/// # Errors
/// `NotFound` where the file is missing, `InvalidRequest` where it doesn't go with the schema, with row and column.
pub fn read_features(path: &Path, schema: &Schema) -> Result<Dataset> {
    read(path, schema, false)
}

fn read(path: &Path, schema: &Schema, labelled: bool) -> Result<Dataset> {
    let source = Source::open(path)?;
    let (mut features, mut target) = columns::of_schema(schema, labelled, &source)?;
    let table = Table::read(&source, &mut features, target.as_mut())?;
    drop(source);
    let all: Vec<u32> = (0..table.rows() as u32).collect();
    table.dataset(schema, &all)
}

#[cfg(test)]
mod tests;
