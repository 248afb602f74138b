//! Arrays of numbers: their headers, their numbers, and what can be learned from them.

mod elements;
mod idx;
mod npy;
mod npz;
mod targets;
mod tensors;

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use bytemuck::Pod;
use outboard_core::{
    error::{Error, IoContext, Result},
    job::{Data, Format, Loss, Targets},
};
use outboard_protocol::{Dataset, Feature, Inputs, Schema, Target, Values};
use outboard_store::Scratch;

use self::elements::{Flaw, Kind, Numbers, Wanted};
use crate::{
    MOST_ROWS, MOST_VALUES, Training, format,
    rows::Rows,
    wording::{cut, list, nearest, shown},
};

/// An array of numbers; the first dimension counts rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    rows: usize,
    /// Of one row.
    shape: Vec<usize>,
    numbers: Numbers,
}

/// Where an array is, and where its numbers go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    path: &'a Path,
    /// Its name, where the file has several.
    array: Option<&'a str>,
    scratch: &'a Scratch,
}

impl<'a> Place<'a> {
    fn of_file(path: &'a Path, scratch: &'a Scratch) -> Self {
        Self { path, array: None, scratch }
    }

    /// An error about it.
    fn refuse(&self, what: impl Into<String>) -> Error {
        let error = Error::invalid(what).at("file", self.path.display());
        match self.array {
            Some(array) => error.at("array", cut(array)),
            None => error,
        }
    }
}

/// What a file says of an array.
#[derive(Debug)]
struct Header {
    /// Of all rows.
    shape: Vec<usize>,
    kind: Kind,
    big_endian: bool,
    /// Whether the first dimension varies fastest.
    fortran: bool,
}

impl Header {
    /// Reads the numbers. `left` is how many bytes there are, if that is known.
    fn read(&self, reader: &mut dyn Read, left: Option<u64>, place: &Place<'_>, wanted: Wanted) -> Result<Array> {
        let Some((&rows, row)) = self.shape.split_first() else {
            return Err(place.refuse("the array is a single number").hint("save an array with a row for each sample"));
        };
        let shape = &self.shape;
        if shape.contains(&0) {
            return Err(place.refuse(format!("the array is empty: its shape is {shape:?}")).hint("save one with rows"));
        }
        let count = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size)).filter(|n| *n <= MOST_VALUES);
        let Some(count) = count.filter(|_| rows <= MOST_ROWS) else {
            return Err(place
                .refuse(format!("its shape {shape:?} has more than {MOST_VALUES} numbers"))
                .hint("use fewer rows, or smaller ones"));
        };
        let (needed, size) = ((count * self.kind.size()) as u64, self.kind.size());
        let flaw = match left {
            Some(left) if left < needed => Err(Flaw::Ends((left / size as u64) as usize)),
            _ => elements::read(reader, self.kind, self.big_endian, count, wanted, place.scratch),
        };
        let width = count / rows;
        let mut numbers = flaw.map_err(|flaw| match flaw {
            Flaw::Ends(found) => place
                .refuse(format!("its shape {shape:?} needs {count} numbers, but the file ends after {found}"))
                .hint("save or copy it again"),
            Flaw::GoesOn => place
                .refuse(format!("more bytes follow the {count} numbers of its shape {shape:?}"))
                .hint("save or copy it again"),
            Flaw::Unusable(at, value) => {
                let (row, number) = if self.fortran { (at % rows, at / rows) } else { (at / width, at % width) };
                place
                    .refuse(format!("{value} is not a number that a 32-bit float can hold"))
                    .at("row", row + 1)
                    .at("number", number + 1)
                    .hint("replace it, or leave the row out")
            }
            Flaw::NoRoom(error) => error,
            Flaw::Io(error) => place.refuse("cannot read the numbers").because(error).hint("save or copy it again"),
        })?;
        if self.fortran && shape.len() > 1 {
            numbers = match numbers {
                Numbers::Bytes(all) => Numbers::Bytes(row_major(&all, shape, place.scratch)?),
                Numbers::Integers(all) => Numbers::Integers(row_major(&all, shape, place.scratch)?),
                Numbers::Floats(all) => Numbers::Floats(row_major(&all, shape, place.scratch)?),
            };
        }
        Ok(Array { rows, shape: if row.is_empty() { vec![1] } else { row.to_vec() }, numbers })
    }
}

/// Turns numbers whose first dimension varies fastest round.
fn row_major<T: Pod>(all: &[T], shape: &[usize], scratch: &Scratch) -> Result<Values<T>> {
    let mut turned = scratch.list();
    let mut at = vec![0; shape.len()];
    for _ in 0..all.len() {
        let index = at.iter().zip(shape).rev().fold(0, |index, (at, size)| index * size + at);
        turned.push(all[index])?;
        for (at, size) in at.iter_mut().zip(shape).rev() {
            *at += 1;
            if *at < *size {
                break;
            }
            *at = 0;
        }
    }
    turned.finish()
}

fn open_file(path: &Path) -> Result<File> {
    File::open(path).doing("read", path).map_err(|e| e.at("file", path.display()))
}

/// A file and its length.
fn open(path: &Path) -> Result<(BufReader<File>, u64)> {
    let file = open_file(path)?;
    let length = file.metadata().doing("read", path)?.len();
    Ok((BufReader::new(file), length))
}

/// A file without the array that is wanted.
fn lacking(path: &Path, name: &str, key: &'static str, mut names: Vec<String>) -> Error {
    names.sort_unstable();
    Error::invalid(format!("the file has no array {}", shown(name))).at("file", path.display()).at("key", key).hint(
        match nearest(name, &names) {
            _ if names.is_empty() => format!("save one under that name: {}", shown(name)),
            Some(nearest) => format!("name {} in `{key}`", shown(nearest)),
            None => format!("name one of its arrays in `{key}`: {}", list(names.iter().map(String::as_str))),
        },
    )
}

/// Reads an array; its name counts where the file has several.
fn read(
    path: &Path,
    format: Format,
    name: &str,
    key: &'static str,
    wanted: Wanted,
    scratch: &Scratch,
) -> Result<Array> {
    let (file, named) = (Place::of_file(path, scratch), Place { path, array: Some(name), scratch });
    match format {
        Format::Npy => npy::read(&file, wanted),
        Format::Npz => npz::read(&named, name, key, wanted),
        Format::Safetensors => tensors::read(&named, name, key, wanted),
        Format::Idx => idx::read(&file, wanted),
        Format::Csv | Format::Parquet | Format::Images => Err(Error::invalid("the file holds no array")
            .at("file", path.display())
            .hint("use an NPY, NPZ, safetensors or IDX file")),
    }
}

/// Reads the targets of `path`: from `labels`, else from the file itself where it has several arrays.
fn read_targets(
    path: &Path,
    format: Format,
    labels: Option<&Path>,
    name: &str,
    key: &'static str,
    scratch: &Scratch,
) -> Result<Array> {
    match labels {
        Some(labels) => {
            read(labels, format::of_later(labels, Some(format))?, name, "data.target", Wanted::Targets, scratch)
                .map_err(|e| if key.starts_with("data.") { crate::at_key(e, key) } else { e })
        }
        None if matches!(format, Format::Npz | Format::Safetensors) => {
            read(path, format, name, "data.target", Wanted::Targets, scratch)
        }
        None => {
            let what = "the file holds a single array, so the targets must come from another file";
            let error = Error::invalid(what).at("file", path.display());
            Err(match key.strip_prefix("data.") {
                Some(name) => error.at("key", key).hint(format!("add `{name} = \"y.npy\"` under [data]")),
                None => error.hint(format!("name it with `{key} y.npy`")),
            })
        }
    }
}

/// Features of a file, not scaled yet.
fn read_inputs(path: &Path, format: Format, name: &str, scratch: &Scratch) -> Result<(usize, Vec<usize>, Inputs)> {
    let array = read(path, format, name, "data.features", Wanted::Features, scratch)?;
    let x = match array.numbers {
        Numbers::Bytes(bytes) => Inputs::Bytes { bytes, scalings: Vec::new() },
        Numbers::Floats(floats) => Inputs::Floats(floats),
        Numbers::Integers(integers) => integers.iter().map(|x| *x as f32).collect(),
    };
    Ok((array.rows, array.shape, x))
}

fn check_rows(place: &Place<'_>, rows: usize, targets: usize) -> Result<()> {
    match rows == targets {
        true => Ok(()),
        false => Err(place
            .refuse(format!("there are {rows} rows, but targets for {targets}"))
            .hint("save as many targets as rows")),
    }
}

/// Reads what a job learns from.
pub(crate) fn training(data: &Data, format: Format, loss: &Loss, seed: u64, scratch: &Scratch) -> Result<Training> {
    let name = match data.features.as_deref() {
        None => "x",
        Some([name]) => name.as_str(),
        Some(_) => {
            return Err(Error::invalid("`data.features` must be the name of one array")
                .at("file", data.train.display())
                .at("key", "data.features")
                .hint("write `features = [\"x\"]`"));
        }
    };
    let target = match &data.target {
        None => "y",
        Some(Targets::One(name)) => name.as_str(),
        Some(Targets::Several(_)) => {
            return Err(Error::invalid("`data.target` must be the name of one array")
                .at("file", data.train.display())
                .at("key", "data.target")
                .hint("write `target = \"y\"`; each of its columns is a target"));
        }
    };
    let (rows, shape, x) = read_inputs(&data.train, format, name, scratch)?;
    let labels = read_targets(&data.train, format, data.labels.as_deref(), target, "data.labels", scratch)?;
    let place = Place { path: data.labels.as_deref().unwrap_or(&data.train), array: Some(target), scratch };
    check_rows(&place, rows, labels.rows)?;
    let (target, y) = targets::of_job(labels, target, loss, &place)?;
    let feature = Feature::Array { name: name.to_string(), shape: shape.clone(), scalings: Vec::new() };
    let rows = Rows { path: data.train.clone(), shape, x, y, scratch: scratch.clone() };
    rows.training(feature, target, data, seed, |path, schema| {
        let format = format::of_later(path, Some(format))?;
        dataset(path, format, data.validation_labels.as_deref(), schema, Some("data.validation_labels"), scratch)
    })
}

/// Reads a file as a model was trained; `labelled` names what says where the targets are, if they are wanted.
pub(crate) fn dataset(
    path: &Path,
    format: Format,
    labels: Option<&Path>,
    schema: &Schema,
    labelled: Option<&'static str>,
    scratch: &Scratch,
) -> Result<Dataset> {
    let name = schema.features.first().map_or("x", Feature::name);
    let (rows, shape, x) = read_inputs(path, format, name, scratch)?;
    let y = match labelled {
        None => Target::None,
        Some(key) => {
            let name = schema.target.names().first().map_or("y", |name| name.split('[').next().unwrap_or(name));
            let array = read_targets(path, format, labels, name, key, scratch)?;
            let place = Place { path: labels.unwrap_or(path), array: Some(name), scratch };
            check_rows(&place, rows, array.rows)?;
            targets::of_schema(array, &schema.target, &place)?
        }
    };
    Rows { path: path.to_path_buf(), shape, x, y, scratch: scratch.clone() }.whole(schema)
}
