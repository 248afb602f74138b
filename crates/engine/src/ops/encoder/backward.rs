//! A part's way back, up to the gradients of weights.

use outboard_core::layer::EncoderActivation;

use super::{Block, LINEAR, NORM, OUT, Part, Pass, QKV, Weights, drop_out};
use crate::{ops::activation::gelu_slope, simd::simd};

impl Block {
    /// The gradients of what the rows from `row` on went through, and of `x` where it is asked for.
    pub(super) fn backward(
        &self,
        part: &mut Part,
        pass: Pass<'_>,
        row: usize,
        weights: Weights<'_>,
        [x, dy]: [&[f32]; 2],
        dx: Option<&mut [f32]>,
    ) {
        let features = self.sequence.features;
        let rows = x.len() / features;
        let first_element = row * self.sequence.width();
        let Part { qkv, probabilities, first, fed: _, raw, hidden, second, moments, slopes, scratch, .. } = part;
        for slope in [&mut slopes.context, &mut slopes.first].into_iter().chain(&mut slopes.normal) {
            slope.resize(x.len(), 0.0);
        }
        slopes.qkv.resize(3 * x.len(), 0.0);
        slopes.hidden.resize(rows * self.ff, 0.0);

        // The linear layers.
        let second_slope = match self.norm_first {
            true => dy,
            false => {
                slopes.second.resize(x.len(), 0.0);
                self.normal_slope(weights.all[NORM[1]], second, &moments[1], dy, &mut slopes.second, false);
                &slopes.second
            }
        };
        let [added, added_later] = &mut slopes.added;
        let later = self.dropped(pass, 3, first_element, second_slope, added_later);
        weights.multiply(LINEAR[1], rows, later, &mut slopes.hidden, false);
        drop_out(self.mask(pass, 2), row * self.sequence.positions * self.ff, &mut slopes.hidden);
        match self.activation {
            EncoderActivation::Relu => simd(
                #[inline(always)]
                || {
                    let slopes = slopes.hidden.iter_mut().zip(&*hidden);
                    slopes.for_each(|(slope, &y)| *slope = if y > 0.0 { *slope } else { 0.0 });
                },
            ),
            EncoderActivation::Gelu => {
                slopes.hidden.iter_mut().zip(&*raw).for_each(|(slope, &x)| *slope *= gelu_slope(x));
            }
        }
        let [attended_slope, fed_slope] = &mut slopes.normal;
        if self.norm_first {
            weights.multiply(LINEAR[0], rows, &slopes.hidden, fed_slope, false);
            slopes.first.copy_from_slice(dy);
            self.normal_slope(weights.all[NORM[1]], first, &moments[1], fed_slope, &mut slopes.first, true);
        } else {
            attended_slope.copy_from_slice(second_slope);
            weights.multiply(LINEAR[0], rows, &slopes.hidden, attended_slope, true);
            self.normal_slope(weights.all[NORM[0]], first, &moments[0], attended_slope, &mut slopes.first, false);
        }

        // Attention.
        let added = self.dropped(pass, 1, first_element, &slopes.first, added);
        weights.multiply(OUT, rows, added, &mut slopes.context, false);
        self.heads.backward(self.mask(pass, 0), row, qkv, probabilities, &slopes.context, &mut slopes.qkv, scratch);
        if self.norm_first {
            weights.multiply(QKV, rows, &slopes.qkv, attended_slope, false);
        }
        let Some(dx) = dx else { return };
        dx.copy_from_slice(&slopes.first);
        match self.norm_first {
            true => self.normal_slope(weights.all[NORM[0]], x, &moments[0], attended_slope, dx, true),
            false => weights.multiply(QKV, rows, &slopes.qkv, dx, true),
        }
    }

    /// The gradient before a dropout, which `scratch` holds where it differs.
    fn dropped<'a>(
        &self,
        pass: Pass<'_>,
        number: u32,
        first: usize,
        slope: &'a [f32],
        scratch: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let mask = self.mask(pass, number);
        if mask.is_none() {
            return slope;
        }
        scratch.clear();
        scratch.extend_from_slice(slope);
        drop_out(mask, first, scratch);
        scratch
    }

    fn normal_slope(&self, weight: &[f32], x: &[f32], moments: &[[f32; 2]], dy: &[f32], dx: &mut [f32], add: bool) {
        simd(
            #[inline(always)]
            || self.norm.backward(weight, x, moments, dy, dx, add),
        );
    }
}
