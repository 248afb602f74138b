//! Data sets on a device, or beside it where they don't fit.

use std::ops::Range;

use outboard_protocol::{Augmentation, Dataset, Inputs, Target};
use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::{device::Machine, error::Torch};

/// A data set. Targets are always on the device.
#[derive(Debug)]
pub struct Data {
    features: Features,
    targets: Option<Tensor>,
    weights: Option<Tensor>,
    shape: Vec<usize>,
    rows: usize,
    machine: Machine,
}

#[derive(Debug)]
enum Features {
    /// On the device, `[rows, ...]`.
    Floats(Tensor),
    /// Bytes on the device, `[rows, parts, ...]`, and the offset and scale of each part, as 64-bit floats.
    Bytes { bytes: Tensor, offset: Tensor, scale: Tensor },
    /// Beside the device; rows go there batch by batch.
    Beside(Inputs),
}

/// The rows of a batch, in whichever form they are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// On this side.
    pub(crate) here: &'a [u32],
    /// On the device.
    pub(crate) there: &'a Tensor,
}

/// A batch on the device.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) x: Tensor,
    pub(crate) y: Tensor,
    pub(crate) weights: Option<Tensor>,
}

impl Data {
    /// Brings a data set to the device. Features stay beside it where they take more than `room` bytes.
    pub(crate) fn new(data: Dataset, machine: Machine, room: u64) -> Torch<Self> {
        let device = machine.device;
        let rows = data.rows();
        let shape: Vec<i64> = [&[rows], &data.shape[..]].concat().iter().map(|&n| n as i64).collect();
        let features = match data.x {
            Inputs::Floats(floats) if floats.len() as u64 * 4 <= room => {
                Features::Floats(Tensor::f_from_slice(&floats)?.f_view(shape.as_slice())?.f_to_device(device)?)
            }
            Inputs::Bytes { bytes, scalings } if bytes.len() as u64 <= room => {
                let column = |of: fn(&outboard_protocol::Scaling) -> f64| {
                    let numbers: Vec<f64> = scalings.iter().map(of).collect();
                    Tensor::f_from_slice(&numbers)?.f_view([-1, 1])?.f_to_device(device)
                };
                Features::Bytes {
                    bytes: Tensor::f_from_slice(&bytes)?
                        .f_view([rows as i64, scalings.len() as i64, -1])?
                        .f_to_device(device)?,
                    offset: column(|scaling| scaling.offset)?,
                    scale: column(|scaling| scaling.scale)?,
                }
            }
            inputs => Features::Beside(inputs),
        };
        let targets = match &data.y {
            Target::None => None,
            Target::Classes(classes) => Some(Tensor::f_from_slice(classes)?),
            Target::Values { outputs, values } => Some(Tensor::f_from_slice(values)?.f_view([-1, *outputs as i64])?),
        };
        let targets = targets.map(|y| y.f_to_device(device)).transpose()?;
        let weights = data.weights.as_deref().map(|w| Tensor::f_from_slice(w)?.f_to_device(device)).transpose()?;
        Ok(Self { features, targets, weights, shape: data.shape, rows, machine })
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The batch of some rows; images change as `augmentation` says.
    pub(crate) fn batch(&self, rows: Rows<'_>, augmentation: Option<Augmentation<'_>>) -> Torch<Batch> {
        let x = match &self.features {
            Features::Floats(x) => x.f_index_select(0, rows.there)?,
            Features::Bytes { bytes, offset, scale } => {
                self.scaled(bytes.f_index_select(0, rows.there)?, offset, scale)?
            }
            Features::Beside(inputs) => self.gathered(inputs, rows.here, augmentation)?,
        };
        let targets = self.targets.as_ref().ok_or_else(|| tch::TchError::Shape("the data has no target".into()))?;
        let y = targets.f_index_select(0, rows.there)?;
        let weights = self.weights.as_ref().map(|weights| weights.f_index_select(0, rows.there)).transpose()?;
        Ok(Batch { x, y, weights })
    }

    /// The features of rows that follow each other.
    pub(crate) fn features(&self, rows: Range<usize>) -> Torch<Tensor> {
        let [start, length] = [rows.start as i64, rows.len() as i64];
        match &self.features {
            Features::Floats(x) => x.f_narrow(0, start, length),
            Features::Bytes { bytes, offset, scale } => self.scaled(bytes.f_narrow(0, start, length)?, offset, scale),
            Features::Beside(inputs) => {
                let rows: Vec<u32> = (rows.start as u32..rows.end as u32).collect();
                self.gathered(inputs, &rows, None)
            }
        }
    }

    /// The targets of rows that follow each other; none where there are none.
    pub(crate) fn targets(&self, rows: Range<usize>) -> Torch<Option<Tensor>> {
        self.targets.as_ref().map(|y| y.f_narrow(0, rows.start as i64, rows.len() as i64)).transpose()
    }

    /// As the protocol scales bytes: in 64 bits, rounded once.
    fn scaled(&self, bytes: Tensor, offset: &Tensor, scale: &Tensor) -> Torch<Tensor> {
        let shape: Vec<i64> = std::iter::once(-1).chain(self.shape.iter().map(|&n| n as i64)).collect();
        bytes.f_to_kind(Kind::Double)?.f_sub(offset)?.f_div(scale)?.f_to_kind(Kind::Float)?.f_view(shape.as_slice())
    }

    fn gathered(&self, inputs: &Inputs, rows: &[u32], augmentation: Option<Augmentation<'_>>) -> Torch<Tensor> {
        let (shape, width) = (&self.shape[..], self.shape.iter().product::<usize>());
        let mut x = vec![0.0; rows.len() * width];
        self.machine.beside.install(|| {
            x.par_chunks_exact_mut(width).zip(rows).with_min_len(16).for_each(|(to, &row)| {
                inputs.copy_row(row as usize, to);
                if let (Some(augmentation), [channels, height, width]) = (augmentation, shape) {
                    augmentation.apply(row, [*channels, *height, *width], to);
                }
            });
        });
        crate::parameters::upload(&x, &[&[rows.len()], shape].concat(), self.machine.device)
    }
}
