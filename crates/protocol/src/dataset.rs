//! Rows and targets, ready for a worker.

use bytes::Bytes;
use outboard_core::{
    Layer,
    error::{Error, Result},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    Values,
    inputs::{Inputs, Scaling},
    tensors::{self, corrupt},
};

/// Rows of features and their targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Shape of one row.
    pub shape: Vec<usize>,
    /// Features, row after row.
    pub x: Inputs,
    /// Targets, one for each row.
    pub y: Target,
    /// How much each row counts in training; all the same if unset.
    pub weights: Option<Values<f32>>,
}

/// What is to be predicted.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Nothing: the rows are only to be predicted.
    None,
    /// A class index for each row.
    Classes(Values<i64>),
    /// Some numbers for each row.
    Values {
        /// How many.
        outputs: usize,
        /// Row after row.
        values: Values<f32>,
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

    /// The same numbers with rows of another shape.
    ///
    /// # Errors
    /// `InvalidRequest` where a row doesn't have as many numbers.
    pub fn shaped(mut self, shape: &[usize]) -> Result<Self> {
        let wanted = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let found = self.width();
        if wanted != Some(found) {
            let wanted = wanted.map_or("too many".into(), |n| n.to_string());
            return Err(Error::invalid(format!(
                "`model.input` is {shape:?}, which takes {wanted} numbers, but a row of the data has {found}"
            ))
            .at("key", "model.input")
            .hint(format!("choose sizes whose product is {found}, or other columns with `data.features`")));
        }
        self.shape = shape.to_vec();
        Ok(self)
    }

    /// Checks that rows hold tokens where the model begins with an embedding.
    ///
    /// # Errors
    /// `InvalidRequest`, naming the first number that isn't one.
    pub fn check_tokens(&self, layers: &[Layer]) -> Result<()> {
        let Some(Layer::Embedding { tokens, .. }) = layers.first() else { return Ok(()) };
        let is_token = |x: f32| x >= 0.0 && x < *tokens as f32 && x.fract() == 0.0;
        let mut numbers = vec![0.0; self.width()];
        let mut stray = (0..self.rows()).filter_map(|row| {
            self.x.copy_row(row, &mut numbers);
            let place = numbers.iter().position(|&x| !is_token(x))?;
            Some((row + 1, place + 1, numbers[place]))
        });
        let Some((row, place, number)) = stray.next() else { return Ok(()) };
        Err(Error::invalid(format!(
            "number {place} of row {row} is {number}, but layer 0 (embedding) takes whole numbers from 0 to {}",
            tokens - 1
        ))
        .at("key", "model.layers[0].tokens")
        .hint("set `tokens` above the largest number in the data, and `normalize = \"none\"` under [data]"))
    }

    /// The data set as a safetensors file. The same data give the same bytes.
    ///
    /// # Errors
    /// `Unexpected` where targets and rows don't go together.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut file = Vec::new();
        self.write(&mut |piece| {
            file.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(file)
    }

    /// Gives the bytes of [`encode`](Self::encode) to `to`, piece by piece.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and those of `to`.
    pub fn write(&self, to: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let rows = self.rows();
        let shape = [&[rows], &self.shape[..]].concat();
        let (mut offsets, mut scales) = (Vec::new(), Vec::new());
        let x = match &self.x {
            Inputs::Floats(floats) => (Dtype::F32, shape, bytemuck::cast_slice(floats)),
            Inputs::Bytes { bytes, scalings } => {
                offsets.extend(scalings.iter().map(|scaling| scaling.offset));
                scales.extend(scalings.iter().map(|scaling| scaling.scale));
                (Dtype::U8, shape, &bytes[..])
            }
        };
        let scaling = [("offset", &offsets), ("scale", &scales)]
            .map(|(name, numbers)| (name, (Dtype::F64, vec![numbers.len()], bytemuck::cast_slice(numbers))));
        let scaling = scaling.into_iter().filter(|_| !scales.is_empty());
        let y = match &self.y {
            Target::None => None,
            Target::Classes(classes) => Some((Dtype::I64, vec![rows], bytemuck::cast_slice(classes))),
            Target::Values { outputs, values } => {
                Some((Dtype::F32, vec![rows, *outputs], bytemuck::cast_slice(values)))
            }
        };
        let weights = self.weights.as_ref().map(|w| ("weights", (Dtype::F32, vec![rows], bytemuck::cast_slice(w))));
        let all = [("x", x)].into_iter().chain(y.map(|y| ("y", y))).chain(scaling).chain(weights);
        tensors::write(
            all.map(|(name, (dtype, shape, bytes))| (name.to_string(), dtype, shape, bytes)),
            None::<&()>,
            to,
        )
    }

    /// Reads a data set back.
    ///
    /// # Errors
    /// `CorruptPayload` where the bytes are no data set.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::open(Bytes::copy_from_slice(bytes))
    }

    /// Reads a data set whose numbers stay where they lie in `bytes`.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn open(bytes: Bytes) -> Result<Self> {
        let file = tensors::open(&bytes)?;
        let x = file.tensor("x").map_err(|_| corrupt("a data set has no tensor `x`"))?;
        let Some((&rows, shape)) = x.shape().split_first() else {
            return Err(corrupt("tensor `x` of a data set has no rows"));
        };
        if rows == 0 || shape.contains(&0) {
            return Err(corrupt(format!("tensor `x` of a data set is empty: {:?}", x.shape())));
        }
        let inputs = match x.dtype() {
            Dtype::U8 => {
                let scalings = scalings(&file, shape.iter().product())?;
                Inputs::Bytes { bytes: Values::of_bytes(bytes.slice_ref(x.data())), scalings }
            }
            _ => Inputs::Floats(floats("x", &x, &bytes)?),
        };
        let y = match file.tensor("y") {
            Err(_) => Target::None,
            Ok(y) => match (y.dtype(), y.shape()) {
                (Dtype::I64, [n]) if *n == rows => Target::Classes(Values::of_bytes(bytes.slice_ref(y.data()))),
                (Dtype::F32, [n, outputs]) if *n == rows && *outputs > 0 => {
                    Target::Values { outputs: *outputs, values: floats("y", &y, &bytes)? }
                }
                (dtype, shape) => {
                    return Err(corrupt(format!("tensor `y` of a data set is {dtype} {shape:?} for {rows} rows")));
                }
            },
        };
        let weights = file.tensor("weights").ok().map(|weights| row_weights(&weights, &bytes, rows)).transpose()?;
        Ok(Self { shape: shape.to_vec(), x: inputs, y, weights })
    }
}

/// The numbers of a tensor, where they lie.
fn floats(name: &str, tensor: &TensorView<'_>, bytes: &Bytes) -> Result<Values<f32>> {
    match tensor.dtype() {
        Dtype::F32 => Ok(Values::of_bytes(bytes.slice_ref(tensor.data()))),
        other => Err(corrupt(format!("tensor `{name}` is {other}, but must be F32"))),
    }
}

/// How much each row counts: a number above 0.
fn row_weights(tensor: &TensorView<'_>, bytes: &Bytes, rows: usize) -> Result<Values<f32>> {
    let weights = floats("weights", tensor, bytes)?;
    match tensor.shape() == [rows] && weights.iter().all(|weight| weight.is_finite() && *weight > 0.0) {
        true => Ok(weights),
        false => {
            Err(corrupt(format!("tensor `weights` of a data set is not a number above 0 for each of {rows} rows")))
        }
    }
}

/// How the bytes of a data set with rows of `width` features are scaled.
fn scalings(file: &SafeTensors<'_>, width: usize) -> Result<Vec<Scaling>> {
    let numbers = |name| match file.tensor(name) {
        Ok(tensor) if tensor.dtype() == Dtype::F64 => Ok(bytemuck::pod_collect_to_vec::<u8, f64>(tensor.data())),
        _ => Err(corrupt(format!("a data set of bytes has no F64 tensor `{name}`"))),
    };
    let (offsets, scales) = (numbers("offset")?, numbers("scale")?);
    if offsets.len() != scales.len() || scales.is_empty() || !width.is_multiple_of(scales.len()) {
        let (offsets, scales) = (offsets.len(), scales.len());
        return Err(corrupt(format!("a data set has {offsets} offsets and {scales} scales for rows of {width} bytes")));
    }
    let scalings: Vec<_> = offsets.into_iter().zip(scales).map(|(offset, scale)| Scaling { offset, scale }).collect();
    match scalings.iter().all(|scaling| [0.0, 255.0].iter().all(|x| scaling.apply(*x).is_finite())) {
        true => Ok(scalings),
        false => Err(corrupt("an offset or a scale of a data set is not usable")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_back_what_it_wrote() {
        let classes = Dataset {
            shape: vec![2, 3],
            x: (0..12).map(|i| i as f32).collect(),
            y: Target::Classes(vec![0, 4].into()),
            weights: None,
        };
        let values = Dataset {
            shape: vec![1],
            x: vec![0.5, 1.5].into(),
            y: Target::Values { outputs: 2, values: vec![1., 2., 3., 4.].into() },
            weights: Some(vec![0.5, 2.0].into()),
        };
        let none = Dataset { shape: vec![1], x: vec![0.5, 1.5].into(), y: Target::None, weights: None };
        let scalings = [0.0, 1.5].map(|offset| Scaling { offset, scale: 3.0 }).to_vec();
        let bytes = Inputs::Bytes { bytes: (0..24).collect(), scalings };
        let bytes = Dataset { shape: vec![2, 3], x: bytes, y: Target::Classes(vec![0, 4, 2, 2].into()), weights: None };
        for data in [classes, values, none, bytes] {
            assert_eq!(Dataset::decode(&data.encode().unwrap()).unwrap(), data);
        }
    }

    #[test]
    fn rows_take_another_shape_if_it_has_as_many_numbers() {
        let data = Dataset { shape: vec![12], x: vec![0.0; 24].into(), y: Target::None, weights: None };
        assert_eq!(data.clone().shaped(&[1, 3, 4]).unwrap().shape, [1, 3, 4]);
        assert_eq!(
            data.shaped(&[1, 5, 5]).unwrap_err().to_string(),
            "`model.input` is [1, 5, 5], which takes 25 numbers, but a row of the data has 12"
        );
    }

    #[test]
    fn tokens_are_whole_numbers_below_the_size_of_the_vocabulary() {
        let layers = [Layer::Embedding { tokens: 4, out: 2, padding_index: None }];
        for (wrong, shown) in [(4.0, "4"), (-1.0, "-1"), (0.5, "0.5"), (f32::NAN, "NaN")] {
            let data = Dataset { shape: vec![2], x: vec![0.0, 3.0, 1.0, wrong].into(), y: Target::None, weights: None };
            assert_eq!(
                data.check_tokens(&layers).unwrap_err().to_string(),
                format!("number 2 of row 2 is {shown}, but layer 0 (embedding) takes whole numbers from 0 to 3")
            );
            assert!(data.check_tokens(&[Layer::Relu]).is_ok());
            assert!(Dataset { x: vec![0.0, 3.0].into(), ..data }.check_tokens(&layers).is_ok());
        }
    }

    #[test]
    fn bytes_need_a_scaling_that_fits_their_rows() {
        let refused = |scalings: Vec<Scaling>| {
            let x = Inputs::Bytes { bytes: vec![7; 12].into(), scalings };
            let data = Dataset { shape: vec![2, 3], x, y: Target::None, weights: None };
            Dataset::decode(&data.encode().unwrap()).unwrap_err().to_string()
        };
        assert_eq!(refused(vec![]), "a data set of bytes has no F64 tensor `offset`");
        assert_eq!(refused(vec![Scaling::NONE; 4]), "a data set has 4 offsets and 4 scales for rows of 6 bytes");
        for scaling in [Scaling { offset: 0.0, scale: 0.0 }, Scaling { offset: f64::NAN, scale: 1.0 }] {
            assert_eq!(refused(vec![scaling]), "an offset or a scale of a data set is not usable");
        }
    }

    #[test]
    fn a_row_counts_more_than_nothing() {
        for weights in [vec![1.0], vec![1.0, 0.0], vec![f32::NAN, 1.0], vec![1.0, -1.0]] {
            let data = Dataset {
                shape: vec![1],
                x: vec![0.5, 1.5].into(),
                y: Target::None,
                weights: Some(weights.clone().into()),
            };
            assert!(data.encode().and_then(|bytes| Dataset::decode(&bytes)).is_err(), "{weights:?}");
        }
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_never_a_panic(at in 0usize..200, byte: u8, cut in 0usize..200) {
            let data = Dataset { shape: vec![3], x: vec![1.0; 9].into(), y: Target::Classes(vec![0, 1, 2].into()), weights: None };
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
