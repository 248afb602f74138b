//! Rows of arrays and images, from the file to data sets: split, fitted, scaled.

use std::path::{Path, PathBuf};

use bytemuck::Pod;
use outboard_core::{
    error::{Error, Result},
    job::{Data, Validation},
};
use outboard_protocol::{Dataset, Feature, Inputs, Scaling, Schema, Target, TargetColumn, Values, random};
use outboard_store::Scratch;

use crate::{Training, at_key, fit};

/// Rows that are not scaled yet.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) path: PathBuf,
    /// Of one row.
    pub(crate) shape: Vec<usize>,
    pub(crate) x: Inputs,
    pub(crate) y: Target,
    pub(crate) scratch: Scratch,
}

impl Rows {
    /// Splits, fits and scales them as the job says; `later` reads its validation file.
    pub(crate) fn training(
        self,
        feature: Feature,
        target: TargetColumn,
        data: &Data,
        seed: u64,
        later: impl FnOnce(&Path, &Schema) -> Result<Dataset>,
    ) -> Result<Training> {
        let width: usize = self.shape.iter().product();
        let rows = self.x.len() / width;
        check_count(&self.path, rows, "row")?;
        let (train, held_out) = split(data, seed, rows);
        let parts = parts(&feature);
        let part = width / parts;
        let scalings = fit::fit(parts, data.normalize, |visit| match &self.x {
            Inputs::Floats(floats) => each(floats, &train, width, |i, x| visit(i / part, f64::from(x))),
            Inputs::Bytes { bytes, .. } => each(bytes, &train, width, |i, x| visit(i / part, f64::from(x))),
        });
        let schema = Schema { features: vec![with_scalings(feature, scalings)], target, window: None };
        let validation = match &data.validation {
            None => None,
            Some(Validation::File(path)) => Some(later(path, &schema).map_err(|e| at_key(e, "data.validation"))?),
            Some(Validation::Fraction(_)) => Some(self.dataset(&schema, &held_out)?),
        };
        Ok(Training { train: self.dataset(&schema, &train)?, schema, validation })
    }

    /// All of them, scaled as the schema says.
    pub(crate) fn whole(&self, schema: &Schema) -> Result<Dataset> {
        let width: usize = self.shape.iter().product();
        let rows = (self.x.len() / width.max(1)) as u32;
        self.dataset(schema, &(0..rows).collect::<Vec<_>>())
    }

    /// Some of them, scaled as the schema says.
    fn dataset(&self, schema: &Schema, rows: &[u32]) -> Result<Dataset> {
        let (shape, fitted): (Vec<usize>, &[Scaling]) = match schema.features.first() {
            Some(Feature::Array { shape, scalings, .. }) => (shape.clone(), scalings),
            Some(Feature::Image { size: [height, width], color, scalings, .. }) => {
                (vec![color.channels(), *height, *width], scalings)
            }
            _ => (Vec::new(), &[]),
        };
        let width: usize = self.shape.iter().product();
        if shape != self.shape || fitted.is_empty() || !width.is_multiple_of(fitted.len()) {
            return Err(Error::invalid(format!("rows are {:?}, but those of the training data {shape:?}", self.shape))
                .at("file", self.path.display())
                .hint("use rows of the same shape, or train on these"));
        }
        let x = match &self.x {
            Inputs::Bytes { bytes, .. } => {
                Inputs::Bytes { bytes: self.chosen(bytes, rows, width)?, scalings: fitted.to_vec() }
            }
            Inputs::Floats(floats) => Inputs::Floats(self.scaled(floats, rows, fitted, width)?),
        };
        let y = match &self.y {
            Target::None => Target::None,
            Target::Classes(classes) => Target::Classes(self.chosen(classes, rows, 1)?),
            Target::Values { outputs, values } => {
                Target::Values { outputs: *outputs, values: self.chosen(values, rows, *outputs)? }
            }
        };
        Ok(Dataset { shape, x, y, weights: None })
    }

    /// Rows of a list with `width` numbers for each.
    fn chosen<T: Pod>(&self, all: &Values<T>, rows: &[u32], width: usize) -> Result<Values<T>> {
        if rows.len() * width == all.len() {
            return Ok(all.clone());
        }
        let (all, mut chosen) = (&all[..], self.scratch.list());
        rows.iter().try_for_each(|row| chosen.extend(&all[*row as usize * width..][..width]))?;
        chosen.finish()
    }

    fn scaled(&self, floats: &[f32], rows: &[u32], fitted: &[Scaling], width: usize) -> Result<Values<f32>> {
        let (mut all, mut scaled) = (self.scratch.list(), vec![0.0; width]);
        let part = width / fitted.len();
        for row in rows {
            let from = floats[*row as usize * width..][..width].chunks_exact(part);
            for ((to, from), scaling) in scaled.chunks_exact_mut(part).zip(from).zip(fitted) {
                to.iter_mut().zip(from).for_each(|(to, x)| *to = scaling.apply(f64::from(*x)));
            }
            if let Some(at) = scaled.iter().position(|x| !x.is_finite()) {
                return Err(Error::invalid("a number is too far from the values of the training rows to be scaled")
                    .at("file", self.path.display())
                    .at("row", row + 1)
                    .at("number", at + 1)
                    .hint("replace it, or train with `normalize = \"none\"`"));
            }
            all.extend(&scaled)?;
        }
        all.finish()
    }
}

/// Gives each number of these rows with its place in the row.
fn each<T: Copy>(all: &[T], rows: &[u32], width: usize, mut visit: impl FnMut(usize, T)) {
    for row in rows {
        all[*row as usize * width..][..width].iter().enumerate().for_each(|(i, x)| visit(i, *x));
    }
}

/// The rows that are learned from, and those that are held out of them.
pub(crate) fn split(data: &Data, seed: u64, rows: usize) -> (Vec<u32>, Vec<u32>) {
    let all = 0..rows as u32;
    match data.validation {
        Some(Validation::Fraction(fraction)) => {
            let held_out = random::validation_rows(seed, rows, fraction);
            (all.filter(|row| held_out.binary_search(row).is_err()).collect(), held_out)
        }
        _ => (all.collect(), Vec::new()),
    }
}

/// Refuses what is too little to train on.
pub(crate) fn check_count(path: &Path, rows: usize, noun: &str) -> Result<()> {
    match rows {
        0 | 1 => Err(Error::invalid(format!("the file has 1 {noun}, but training needs at least 2"))
            .at("file", path.display())
            .hint("add rows to the file")),
        _ => Ok(()),
    }
}

/// Parts of a row that are scaled apart: each number of a row of one dimension, each channel of an image.
fn parts(feature: &Feature) -> usize {
    match feature {
        Feature::Array { shape, .. } if shape.len() == 1 => shape[0],
        Feature::Image { color, .. } => color.channels(),
        _ => 1,
    }
}

fn with_scalings(mut feature: Feature, fitted: Vec<Scaling>) -> Feature {
    if let Feature::Array { scalings, .. } | Feature::Image { scalings, .. } = &mut feature {
        *scalings = fitted;
    }
    feature
}
