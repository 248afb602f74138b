//! Rows and targets, ready for a worker.

use outboard_core::error::Result;
use safetensors::Dtype;

use crate::tensors::{self, corrupt};

/// Rows of features and their targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Shape of one row.
    pub shape: Vec<usize>,
    /// Features, row after row.
    pub x: Vec<f32>,
    /// Targets, one for each row.
    pub y: Target,
}

/// What is to be predicted.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Nothing: the rows are only to be predicted.
    None,
    /// A class index for each row.
    Classes(Vec<i64>),
    /// Some numbers for each row.
    Values {
        /// How many.
        outputs: usize,
        /// Row after row.
        values: Vec<f32>,
    },
}

impl Dataset {
    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.x.len() / self.width().max(1)
    }

    /// Features of one row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// The data set as a safetensors file. The same data give the same bytes.
    ///
    /// # Errors
    /// `Unexpected` where targets and rows don't go together.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let rows = self.rows();
        let x = ("x".to_string(), Dtype::F32, [&[rows], &self.shape[..]].concat(), bytemuck::cast_slice(&self.x));
        let y = match &self.y {
            Target::None => None,
            Target::Classes(classes) => Some((Dtype::I64, vec![rows], bytemuck::cast_slice(classes))),
            Target::Values { outputs, values } => {
                Some((Dtype::F32, vec![rows, *outputs], bytemuck::cast_slice(values)))
            }
        };
        let y = y.map(|(dtype, shape, bytes)| ("y".to_string(), dtype, shape, bytes));
        tensors::encode([x].into_iter().chain(y), None::<&()>)
    }

    /// Reads a data set back.
    ///
    /// # Errors
    /// `CorruptPayload` where the bytes are no data set.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let file = tensors::open(bytes)?;
        let x = file.tensor("x").map_err(|_| corrupt("a data set has no tensor `x`"))?;
        let x = tensors::f32s("x", &x)?;
        let Some((&rows, shape)) = x.shape.split_first() else {
            return Err(corrupt("tensor `x` of a data set has no rows"));
        };
        if rows == 0 || shape.contains(&0) {
            return Err(corrupt(format!("tensor `x` of a data set is empty: {:?}", x.shape)));
        }
        let y = match file.tensor("y") {
            Err(_) => Target::None,
            Ok(y) => match (y.dtype(), y.shape()) {
                (Dtype::I64, [n]) if *n == rows => Target::Classes(bytemuck::pod_collect_to_vec(y.data())),
                (Dtype::F32, [n, outputs]) if *n == rows && *outputs > 0 => {
                    Target::Values { outputs: *outputs, values: bytemuck::pod_collect_to_vec(y.data()) }
                }
                (dtype, shape) => {
                    return Err(corrupt(format!("tensor `y` of a data set is {dtype} {shape:?} for {rows} rows")));
                }
            },
        };
        Ok(Self { shape: shape.to_vec(), x: x.data, y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_back_what_it_wrote() {
        let classes =
            Dataset { shape: vec![2, 3], x: (0..12).map(|i| i as f32).collect(), y: Target::Classes(vec![0, 4]) };
        let values = Dataset {
            shape: vec![1],
            x: vec![0.5, 1.5],
            y: Target::Values { outputs: 2, values: vec![1., 2., 3., 4.] },
        };
        let none = Dataset { shape: vec![1], x: vec![0.5, 1.5], y: Target::None };
        for data in [classes, values, none] {
            assert_eq!(Dataset::decode(&data.encode().unwrap()).unwrap(), data);
        }
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_never_a_panic(at in 0usize..200, byte: u8, cut in 0usize..200) {
            let data = Dataset { shape: vec![3], x: vec![1.0; 9], y: Target::Classes(vec![0, 1, 2]) };
            let mut bytes = data.encode().unwrap();
            let n = bytes.len();
            bytes[at % n] = byte;
            let _ = Dataset::decode(&bytes);
            prop_assert!(Dataset::decode(&bytes[..cut % n]).is_err());
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Dataset::decode(&bytes);
        }
    }
}
