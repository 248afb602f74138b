#![doc = include_str!("../README.md")]

mod arrays;
mod columns;
mod fit;
mod format;
#[cfg(any(feature = "parquet", feature = "tokenizers", test))]
mod guard;
mod images;
mod labels;
#[cfg(feature = "parquet")]
mod parquet;
mod rows;
mod source;
mod table;
mod text;
mod tokenizer;
mod wording;

use std::path::Path;

use outboard_core::{
    code,
    error::{Error, Result},
    job::{Data, Format, Loss, Validation},
};
use outboard_protocol::{Dataset, Feature, Schema, random};
use outboard_store::Scratch;

use crate::{format::Form, source::Source, table::Table};

/// Numbers in a data set: 32 GiB of them, or 8 GiB where they are bytes.
const MOST_VALUES: usize = 1 << 33;
/// Rows of a data set, which are counted in 32 bits.
const MOST_ROWS: usize = u32::MAX as usize;

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
/// decides what the target is: a class (`cross_entropy`), one of two or several labels (`bce_with_logits`), or numbers
/// (the others).
/// The same file, job and seed give the same split and the same numbers. What is large lies in files of `scratch`, not in
/// memory.
///
/// # Errors
/// `NotFound` where a file is missing, `InvalidRequest` where one can't be read as the job says, with the job's key,
/// file, row and column.
pub fn read_training(data: &Data, loss: &Loss, seed: u64, scratch: &Scratch) -> Result<Training> {
    read_job(data, loss, seed, scratch).map_err(|error| at_key(error, "data.train").or_code(code::DATA))
}

fn read_job(data: &Data, loss: &Loss, seed: u64, scratch: &Scratch) -> Result<Training> {
    let format = format::of(&data.train, data.format)?;
    let form = Form::of(format);
    format::check_keys(data, form)?;
    match form {
        Form::Table => read_table(data, format, loss, seed, scratch),
        Form::Arrays => arrays::training(data, format, loss, seed, scratch),
        Form::Images => images::training(data, loss, seed, scratch),
    }
}

fn read_table(data: &Data, format: Format, loss: &Loss, seed: u64, scratch: &Scratch) -> Result<Training> {
    let source = Source::open(&data.train, format, scratch)?;
    let (mut features, mut targets) = columns::of_job(data, loss, &source)?;
    let max_length = data.max_length.unwrap_or(text::MAX_LENGTH);
    let tokenizer = data.tokenizer.as_deref().map(tokenizer::open).transpose()?;
    let text = data.text.clone().map(|name| Feature::Text { name, max_length, tokenizer });
    let weights = columns::weights_of_job(data, &source)?;
    let mut table = Table::read(&source, &mut features, &mut targets, weights, text.as_ref(), scratch)?;
    // The numbers are all that is needed from here on.
    drop(source);

    let samples = table.samples(data.window, true)?;
    let noun = if data.window.is_some() { "window" } else { "row" };
    rows::check_count(&data.train, samples, noun)?;
    let sorted = table.sort_labels(features, targets)?;
    let (train, held_out) = match (&data.validation, data.window) {
        // What is held out of a series comes after what is learned from.
        (Some(Validation::Fraction(fraction)), Some(_)) => {
            let end = (samples - random::validation_rows(seed, samples, *fraction).len()) as u32;
            ((0..end).collect(), (end..samples as u32).collect())
        }
        _ => rows::split(data, seed, samples),
    };
    let fitted = match (data.window, train.last()) {
        (Some(window), Some(last)) => (0..last * window.stride as u32 + window.length as u32).collect(),
        _ => train.clone(),
    };
    let scalings = fit::fit(table.width(), data.normalize, |visit| {
        for row in &fitted {
            table.row(*row).iter().enumerate().for_each(|(column, x)| visit(column, *x));
        }
    });
    let schema = sorted.into_schema(&scalings, text, data.window);
    let validation = match &data.validation {
        None => None,
        // What is held out counts as it will later: each row the same.
        Some(Validation::Fraction(_)) => Some(Dataset { weights: None, ..table.dataset(&schema, &held_out)? }),
        Some(Validation::File(path)) => {
            let set = format::of_later(path, Some(format))
                .and_then(|format| read_as(path, format, None, &schema, Some(""), scratch));
            Some(set.map_err(|e| at_key(e, "data.validation"))?)
        }
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

/// Reads a file or folder as the model was trained, with its targets: those of `labels`, a file of their own, or those
/// that it holds itself. Other columns are ignored.
///
/// # Errors
/// `NotFound` where a file is missing, `InvalidRequest` where it doesn't go with the schema, with row and column.
pub fn read_labelled(path: &Path, labels: Option<&Path>, schema: &Schema, scratch: &Scratch) -> Result<Dataset> {
    read(path, labels, schema, Some("--labels"), scratch)
}

/// Reads a file or folder as the model was trained; its target may be missing and is ignored, like all other columns.
///
/// # Errors
/// `NotFound` where the file is missing, `InvalidRequest` where it doesn't go with the schema, with row and column.
pub fn read_features(path: &Path, schema: &Schema, scratch: &Scratch) -> Result<Dataset> {
    read(path, None, schema, None, scratch)
}

/// `labelled` names what says where the targets of an array are, if they are wanted.
fn read(
    path: &Path,
    labels: Option<&Path>,
    schema: &Schema,
    labelled: Option<&'static str>,
    scratch: &Scratch,
) -> Result<Dataset> {
    let read = |format| read_as(path, format, labels, schema, labelled, scratch);
    format::of(path, None).and_then(read).map_err(|error| error.or_code(code::DATA))
}

fn read_as(
    path: &Path,
    format: Format,
    labels: Option<&Path>,
    schema: &Schema,
    labelled: Option<&'static str>,
    scratch: &Scratch,
) -> Result<Dataset> {
    let form = match schema.features.first() {
        Some(Feature::Array { .. }) => Form::Arrays,
        Some(Feature::Image { .. }) => Form::Images,
        _ => Form::Table,
    };
    let found = Form::of(format);
    if form != found {
        return Err(Error::invalid(format!("the training data was {}, but this is {}", form.noun(), found.noun()))
            .at("file", path.display())
            .hint(format!("use {} with rows like those of the training data", form.noun())));
    }
    if labels.is_some() && form != Form::Arrays {
        return Err(Error::invalid(format!("targets in a file of their own mean nothing for {}", form.noun()))
            .at("file", path.display())
            .hint("leave `--labels` out"));
    }
    match form {
        Form::Arrays => arrays::dataset(path, format, labels, schema, labelled, scratch),
        Form::Images => images::dataset(path, schema, labelled.is_some(), scratch),
        Form::Table => {
            let source = Source::open(path, format, scratch)?;
            let (mut features, mut targets) = columns::of_schema(schema, labelled.is_some(), &source)?;
            let table = Table::read(&source, &mut features, &mut targets, None, schema.features.first(), scratch)?;
            drop(source);
            let all: Vec<u32> = (0..table.samples(schema.window, labelled.is_some())? as u32).collect();
            table.dataset(schema, &all)
        }
    }
}

#[cfg(test)]
mod tests;
