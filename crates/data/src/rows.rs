//! Rows of arrays and images, from the file to data sets: split, fitted, scaled in their place.

use std::path::{Path, PathBuf};

use outboard_core::{
    error::{Error, Result},
    job::{Data, Validation},
};
use outboard_protocol::{Dataset, Feature, Inputs, Scaling, Schema, Target, TargetColumn, random};

use crate::{Training, at_key, fit};

/// Rows that are not scaled yet.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) path: PathBuf,
    /// Of one row.
    pub(crate) shape: Vec<usize>,
    pub(crate) x: Inputs,
    pub(crate) y: Target,
}

impl Rows {
    /// Splits, fits and scales them as the job says; `later` reads its validation file.
    pub(crate) fn training(
        mut self,
        feature: Feature,
        target: TargetColumn,
        data: &Data,
        seed: u64,
        later: impl FnOnce(&Path, &Schema) -> Result<Dataset>,
    ) -> Result<Training> {
        let width: usize = self.shape.iter().product();
        let rows = self.x.len() / width;
        check_count(&self.path, rows, "row")?;
        let held_out = match data.validation {
            Some(Validation::Fraction(fraction)) => {
                let held_out = random::validation_rows(seed, rows, fraction);
                Some(Self {
                    path: self.path.clone(),
                    shape: self.shape.clone(),
                    x: self.x.take_rows(&held_out, width),
                    y: self.y.take_rows(&held_out),
                })
            }
            _ => None,
        };
        let parts = parts(&feature);
        let part = width / parts;
        let scalings = fit::fit(parts, data.normalize, |visit| match &self.x {
            Inputs::Floats(floats) => {
                for row in floats.chunks_exact(width) {
                    row.iter().enumerate().for_each(|(i, x)| visit(i / part, f64::from(*x)));
                }
            }
            Inputs::Bytes { bytes, .. } => {
                for row in bytes.chunks_exact(width) {
                    row.iter().enumerate().for_each(|(i, x)| visit(i / part, f64::from(*x)));
                }
            }
        });
        let schema = Schema { features: vec![with_scalings(feature, scalings)], target, window: None };
        let validation = match &data.validation {
            Some(Validation::File(path)) => Some(later(path, &schema).map_err(|e| at_key(e, "data.validation"))?),
            _ => held_out.map(|rows| rows.dataset(&schema)).transpose()?,
        };
        Ok(Training { train: self.dataset(&schema)?, schema, validation })
    }

    /// Scales them as the schema says.
    pub(crate) fn dataset(self, schema: &Schema) -> Result<Dataset> {
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
        let x = match self.x {
            Inputs::Bytes { bytes, .. } => Inputs::Bytes { bytes, scalings: fitted.to_vec() },
            Inputs::Floats(mut floats) => {
                let part = width / fitted.len();
                for (i, part) in floats.chunks_exact_mut(part).enumerate() {
                    let scaling = fitted[i % fitted.len()];
                    part.iter_mut().for_each(|x| *x = scaling.apply(f64::from(*x)));
                }
                if let Some(at) = floats.iter().position(|x| !x.is_finite()) {
                    return Err(Error::invalid(
                        "a number is too far from the values of the training rows to be scaled",
                    )
                    .at("file", self.path.display())
                    .at("row", at / width + 1)
                    .at("number", at % width + 1)
                    .hint("replace it, or train with `normalize = \"none\"`"));
                }
                Inputs::Floats(floats)
            }
        };
        Ok(Dataset { shape, x, y: self.y, weights: None })
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
