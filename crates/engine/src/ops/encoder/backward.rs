//! A part's way back, up to the gradients of weights.

use outboard_core::layer::EncoderActivation;

use super::{Block, LINEAR, NORM, OUT, Part, Pass, QKV, Weights, drop_out};
use crate::{
    matmul::{Matrix, add_product_here, product_here},
    ops::activation::gelu_slope,
    simd::simd,
};

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
        product_here(
            &mut slopes.hidden,
            Matrix::new(later, rows, features),
            weights.matrix(LINEAR[1], self.ff).transposed(),
        );
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
        let hidden_slope = Matrix::new(&slopes.hidden, rows, self.ff);
        let back = weights.matrix(LINEAR[0], features).transposed();
        let [attended_slope, fed_slope] = &mut slopes.normal;
        if self.norm_first {
            product_here(fed_slope, hidden_slope, back);
            slopes.first.copy_from_slice(dy);
            self.normal_slope(weights.all[NORM[1]], first, &moments[1], fed_slope, &mut slopes.first, true);
        } else {
            attended_slope.copy_from_slice(second_slope);
            add_product_here(attended_slope, hidden_slope, back);
            self.normal_slope(weights.all[NORM[0]], first, &moments[0], attended_slope, &mut slopes.first, false);
        }

        // Attention.
        let added = self.dropped(pass, 1, first_element, &slopes.first, added);
        product_here(
            &mut slopes.context,
            Matrix::new(added, rows, features),
            weights.matrix(OUT, features).transposed(),
        );
        self.heads.backward(self.mask(pass, 0), row, qkv, probabilities, &slopes.context, &mut slopes.qkv, scratch);
        let qkv_slope = Matrix::new(&slopes.qkv, rows, 3 * features);
        let back = weights.matrix(QKV, features).transposed();
        if self.norm_first {
            product_here(attended_slope, qkv_slope, back);
        }
        let Some(dx) = dx else { return };
        dx.copy_from_slice(&slopes.first);
        match self.norm_first {
            true => self.normal_slope(weights.all[NORM[0]], x, &moments[0], attended_slope, dx, true),
            false => add_product_here(dx, qkv_slope, back),
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
