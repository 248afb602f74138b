//! Attention of each row and head, in register tiles.

use outboard_protocol::random::DropoutMask;
use pulp::{Simd, WithSimd};

use crate::{
    ops::{Pass, positions::Sequence},
    simd::{exp, fold, largest, update},
    tiles::{Small, transpose},
};

type Mask = Option<(DropoutMask, f32)>;

/// The heads of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    sequence: Sequence,
    count: usize,
}

impl Heads {
    pub(super) fn new(sequence: Sequence, count: usize) -> Self {
        Self { sequence, count }
    }

    /// Features of one head.
    fn width(&self) -> usize {
        self.sequence.features / self.count
    }

    /// Probabilities and their means of values, for the rows from `row` on.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn forward(
        &self,
        mask: Mask,
        pass: Pass<'_>,
        row: usize,
        qkv: &[f32],
        probabilities: &mut Vec<f32>,
        context: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        let (positions, features) = (self.sequence.positions, self.sequence.features);
        let square = positions * positions;
        let rows = context.len() / self.sequence.width();
        probabilities.resize(rows * self.count * square, 0.0);
        scratch.resize(positions * self.width() + square, 0.0);
        for sample in 0..rows {
            let qkv = &qkv[sample * positions * 3 * features..][..positions * 3 * features];
            let context = &mut context[sample * positions * features..][..positions * features];
            for head in 0..self.count {
                let index = sample * self.count + head;
                pulp::Arch::new().dispatch(Forward {
                    heads: self,
                    head,
                    mask,
                    first: (row * self.count + index) * square,
                    padding: self.sequence.padding(pass, row + sample),
                    qkv,
                    probabilities: &mut probabilities[index * square..][..square],
                    context,
                    scratch,
                });
            }
        }
    }

    /// The gradients of queries, keys and values.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn backward(
        &self,
        mask: Mask,
        row: usize,
        qkv: &[f32],
        probabilities: &[f32],
        context: &[f32],
        slopes: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        let (positions, features) = (self.sequence.positions, self.sequence.features);
        let square = positions * positions;
        scratch.resize(positions * self.width() + 2 * square, 0.0);
        for sample in 0..context.len() / self.sequence.width() {
            let part = sample * positions * 3 * features..(sample + 1) * positions * 3 * features;
            for head in 0..self.count {
                let index = sample * self.count + head;
                pulp::Arch::new().dispatch(Backward {
                    heads: self,
                    head,
                    mask,
                    first: (row * self.count + index) * square,
                    qkv: &qkv[part.clone()],
                    probabilities: &probabilities[index * square..][..square],
                    context: &context[sample * positions * features..][..positions * features],
                    slopes: &mut slopes[part.clone()],
                    scratch,
                });
            }
        }
    }

    /// Part `which` of a head in rows of queries, keys and values.
    fn start(&self, head: usize, which: usize) -> usize {
        which * self.sequence.features + head * self.width()
    }

    /// One over the root of a head's features.
    fn scale(&self) -> f32 {
        1.0 / (self.width() as f32).sqrt()
    }
}

#[inline(always)]
fn drop_out(mask: Mask, first: usize, x: &mut [f32]) {
    if let Some((mask, scale)) = mask {
        for (i, x) in x.iter_mut().enumerate() {
            *x = if mask.keeps((first + i) as u32) { *x * scale } else { 0.0 };
        }
    }
}

struct Forward<'a> {
    heads: &'a Heads,
    head: usize,
    mask: Mask,
    /// Number of the first probability in the batch.
    first: usize,
    padding: &'a [bool],
    qkv: &'a [f32],
    probabilities: &'a mut [f32],
    context: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Heads { sequence, .. } = *self.heads;
        let (n, width, stride) = (sequence.positions, self.heads.width(), 3 * sequence.features);
        let [q, k, v] = [0, 1, 2].map(|which| self.heads.start(self.head, which));
        let (keys, rest) = self.scratch.split_at_mut(n * width);
        transpose(&self.qkv[k..], stride, [n, width], keys);
        Small {
            size: [n, n, width],
            a: &self.qkv[q..],
            a_strides: [stride, 1],
            b: keys,
            b_stride: n,
            c: self.probabilities,
            c_stride: n,
            add: false,
        }
        .with_simd(simd);
        let scale = self.heads.scale();
        for scores in self.probabilities.chunks_exact_mut(n) {
            for (score, _) in scores.iter_mut().zip(self.padding).filter(|(_, padding)| **padding) {
                *score = f32::NEG_INFINITY;
            }
            let max = largest(scores);
            update(scores, [], |x, []| exp((x - max) * scale));
            for (power, _) in scores.iter_mut().zip(self.padding).filter(|(_, padding)| **padding) {
                *power = 0.0;
            }
            let share = 1.0 / fold([scores], |[x]| x);
            update(scores, [], |x, []| x * share);
        }
        let weights = match self.mask {
            None => &*self.probabilities,
            Some(_) => {
                let kept = &mut rest[..n * n];
                kept.copy_from_slice(self.probabilities);
                drop_out(self.mask, self.first, kept);
                kept
            }
        };
        Small {
            size: [n, width, n],
            a: weights,
            a_strides: [n, 1],
            b: &self.qkv[v..],
            b_stride: stride,
            c: &mut self.context[self.head * width..],
            c_stride: sequence.features,
            add: false,
        }
        .with_simd(simd);
    }
}

struct Backward<'a> {
    heads: &'a Heads,
    head: usize,
    mask: Mask,
    first: usize,
    qkv: &'a [f32],
    probabilities: &'a [f32],
    /// The gradient of the context.
    context: &'a [f32],
    slopes: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Heads { sequence, .. } = *self.heads;
        let (n, width, features) = (sequence.positions, self.heads.width(), sequence.features);
        let stride = 3 * features;
        let [q, k, v] = [0, 1, 2].map(|which| self.heads.start(self.head, which));
        let (values, rest) = self.scratch.split_at_mut(n * width);
        let (slopes, rest) = rest.split_at_mut(n * n);
        let context = &self.context[self.head * width..];
        transpose(&self.qkv[v..], stride, [n, width], values);
        Small {
            size: [n, n, width],
            a: context,
            a_strides: [features, 1],
            b: values,
            b_stride: n,
            c: slopes,
            c_stride: n,
            add: false,
        }
        .with_simd(simd);
        let weights = match self.mask {
            None => self.probabilities,
            Some(_) => {
                let kept = &mut rest[..n * n];
                kept.copy_from_slice(self.probabilities);
                drop_out(self.mask, self.first, kept);
                drop_out(self.mask, self.first, slopes);
                kept
            }
        };
        // The gradient of values.
        Small {
            size: [n, width, n],
            a: weights,
            a_strides: [1, n],
            b: context,
            b_stride: features,
            c: &mut self.slopes[v..],
            c_stride: stride,
            add: false,
        }
        .with_simd(simd);
        // Through the softmax, to the scores before their scaling.
        let scale = self.heads.scale();
        for (slopes, p) in slopes.chunks_exact_mut(n).zip(self.probabilities.chunks_exact(n)) {
            let dot = fold([slopes, p], |[slope, p]| slope * p);
            update(slopes, [p], |slope, [p]| p * (slope - dot) * scale);
        }
        for (to, a_strides, from) in [(q, [n, 1], k), (k, [1, n], q)] {
            Small {
                size: [n, width, n],
                a: slopes,
                a_strides,
                b: &self.qkv[from..],
                b_stride: stride,
                c: &mut self.slopes[to..],
                c_stride: stride,
                add: false,
            }
            .with_simd(simd);
        }
    }
}
