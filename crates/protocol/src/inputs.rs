//! The features of a data set: 32-bit floats, or bytes that become some.

use serde::{Deserialize, Serialize};

use crate::Values;

/// How a number is scaled: `(x - offset) / scale`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Taken off.
    pub offset: f64,
    /// Divided by; never 0.
    pub scale: f64,
}

impl Scaling {
    /// Leaves a number as it is.
    pub const NONE: Self = Self { offset: 0.0, scale: 1.0 };

    /// The scaled number.
    #[must_use]
    pub fn apply(self, x: f64) -> f32 {
        ((x - self.offset) / self.scale) as f32
    }
}

/// Features, row after row.
#[derive(Clone, Debug, PartialEq)]
pub enum Inputs {
    /// Numbers as the model takes them.
    Floats(Values<f32>),
    /// Bytes, as images have them, that are scaled where they are used.
    Bytes {
        /// Row after row.
        bytes: Values<u8>,
        /// Each is for an equal part of a row, in order.
        scalings: Vec<Scaling>,
    },
}

impl Inputs {
    /// How many there are, in all rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(floats) => floats.len(),
            Self::Bytes { bytes, .. } => bytes.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes a row, from 0, of `to.len()` features.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn copy_row(&self, row: usize, to: &mut [f32]) {
        let at = row * to.len();
        match self {
            Self::Floats(floats) => to.copy_from_slice(&floats[at..at + to.len()]),
            Self::Bytes { bytes, scalings } => {
                let part = to.len() / scalings.len();
                let row = bytes[at..at + to.len()].chunks_exact(part);
                for ((to, bytes), scaling) in to.chunks_exact_mut(part).zip(row).zip(scalings) {
                    to.iter_mut().zip(bytes).for_each(|(to, byte)| *to = scaling.apply(f64::from(*byte)));
                }
            }
        }
    }
}

impl From<Vec<f32>> for Inputs {
    fn from(floats: Vec<f32>) -> Self {
        Self::Floats(floats.into())
    }
}

impl FromIterator<f32> for Inputs {
    fn from_iter<I: IntoIterator<Item = f32>>(floats: I) -> Self {
        Self::Floats(floats.into_iter().collect())
    }
}

impl<const N: usize> PartialEq<[f32; N]> for Inputs {
    fn eq(&self, other: &[f32; N]) -> bool {
        matches!(self, Self::Floats(floats) if floats[..] == other[..])
    }
}

impl PartialEq<Vec<f32>> for Inputs {
    fn eq(&self, other: &Vec<f32>) -> bool {
        matches!(self, Self::Floats(floats) if floats[..] == other[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_scaled_by_the_part_of_their_row() {
        let scalings = vec![Scaling { offset: 1.0, scale: 2.0 }, Scaling { offset: 0.0, scale: 255.0 }];
        let bytes = Inputs::Bytes { bytes: vec![1, 2, 3, 4, 5, 7, 0, 255].into(), scalings };
        let mut row = [0.0; 4];
        bytes.copy_row(1, &mut row);
        assert_eq!(row, [2.0, 3.0, 0.0, 1.0]);
    }
}
