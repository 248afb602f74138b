//! A part's way forward.

use outboard_core::layer::EncoderActivation;

use super::{Block, LINEAR, NORM, OUT, Part, Pass, QKV, Weights, drop_out};
use crate::{ops::activation::gelu, simd::simd};

impl Block {
    /// What the block makes of the rows from `row` on.
    pub(super) fn forward(
        &self,
        part: &mut Part,
        pass: Pass<'_>,
        row: usize,
        weights: Weights<'_>,
        x: &[f32],
        y: &mut [f32],
    ) {
        let features = self.sequence.features;
        let rows = x.len() / features;
        let first_element = row * self.sequence.width();
        let Part { attended, qkv, probabilities, context, first, fed, raw, hidden, second, moments, scratch, .. } =
            part;
        moments.iter_mut().for_each(|moments| moments.resize(rows, [0.0; 2]));
        for buffer in [&mut *context, &mut *first, &mut *fed] {
            buffer.resize(x.len(), 0.0);
        }
        qkv.resize(3 * x.len(), 0.0);
        hidden.resize(rows * self.ff, 0.0);

        let attended = match self.norm_first {
            true => {
                attended.resize(x.len(), 0.0);
                self.normalise(weights.pair(NORM[0]), x, &mut moments[0], attended);
                &attended[..]
            }
            false => x,
        };
        linear(attended, weights, QKV, features, qkv);
        self.heads.forward(self.mask(pass, 0), pass, row, qkv, probabilities, context, scratch);
        linear(context, weights, OUT, features, first);
        drop_out(self.mask(pass, 1), first_element, first);
        add(x, first);

        match self.norm_first {
            true => self.normalise(weights.pair(NORM[1]), first, &mut moments[1], fed),
            false => self.normalise(weights.pair(NORM[0]), first, &mut moments[0], fed),
        }
        linear(fed, weights, LINEAR[0], features, hidden);
        match self.activation {
            EncoderActivation::Relu => simd(
                #[inline(always)]
                || hidden.iter_mut().for_each(|x| *x = x.max(0.0)),
            ),
            EncoderActivation::Gelu => {
                raw.clone_from(hidden);
                hidden.iter_mut().for_each(|x| *x = gelu(*x));
            }
        }
        drop_out(self.mask(pass, 2), row * self.sequence.positions * self.ff, hidden);
        let finish = |sum: &mut [f32], residual: &[f32]| {
            linear(hidden, weights, LINEAR[1], self.ff, sum);
            drop_out(self.mask(pass, 3), first_element, sum);
            add(residual, sum);
        };
        if self.norm_first {
            finish(y, first);
        } else {
            second.resize(x.len(), 0.0);
            finish(second, fed);
            self.normalise(weights.pair(NORM[1]), second, &mut moments[1], y);
        }
    }

    fn normalise(&self, values: [&[f32]; 2], x: &[f32], moments: &mut [[f32; 2]], y: &mut [f32]) {
        simd(
            #[inline(always)]
            || self.norm.forward(values, x, moments, y),
        );
    }
}

/// `y = x W + b`.
fn linear(x: &[f32], weights: Weights<'_>, place: usize, inputs: usize, y: &mut [f32]) {
    weights.multiply(place, x.len() / inputs, x, y, false);
    let bias = weights.all[place + 1];
    simd(
        #[inline(always)]
        || {
            for y in y.chunks_exact_mut(bias.len()) {
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        },
    );
}

/// `y += x`.
fn add(x: &[f32], y: &mut [f32]) {
    simd(
        #[inline(always)]
        || y.iter_mut().zip(x).for_each(|(y, x)| *y += x),
    );
}
