//! Layer norm over the last dimension.

use outboard_core::layer::Planned;
use rayon::prelude::*;

use super::{CHUNK, Op, Pass};
use crate::{
    matmul::Matrix,
    parameters::{Parameters, Slot},
    simd::{fold, simd, update},
};

#[derive(Debug)]
pub(crate) struct LayerNorm {
    width: usize,
    norm: Norm,
    weight: Slot,
    bias: Slot,
    /// Mean of each row, and one over its deviation.
    moments: Vec<[f32; 2]>,
}

/// The normalisation of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    /// Elements of a row.
    pub(super) features: usize,
    pub(super) eps: f32,
}

impl Norm {
    /// Normalises rows; keeps what the way back needs.
    #[inline(always)]
    pub(super) fn forward(self, [weight, bias]: [&[f32]; 2], x: &[f32], moments: &mut [[f32; 2]], y: &mut [f32]) {
        let n = self.features;
        let rows = x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(moments);
        for ((x, y), moments) in rows {
            let mean = fold([x], |[x]| x) / n as f32;
            let variance = fold([x], |[x]| (x - mean) * (x - mean)) / n as f32;
            let scale = 1.0 / (variance + self.eps).sqrt();
            *moments = [mean, scale];
            update(y, [x, weight, bias], |_, [x, w, b]| (x - mean) * scale * w + b);
        }
    }

    /// The gradient of the rows from that of their normal form; added to `dx` if `add`.
    #[inline(always)]
    pub(super) fn backward(
        self,
        weight: &[f32],
        x: &[f32],
        moments: &[[f32; 2]],
        dy: &[f32],
        dx: &mut [f32],
        add: bool,
    ) {
        let n = self.features;
        let weight = &weight[..n];
        let rows = x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n)).zip(moments);
        for (((x, dy), dx), &[mean, scale]) in rows {
            let slopes = fold([dy, weight], |[dy, w]| dy * w) / n as f32;
            let products = fold([dy, weight, x], |[dy, w, x]| dy * w * (x - mean)) * scale / n as f32;
            let slope = |x: f32, dy: f32, w: f32| (dy * w - slopes - (x - mean) * scale * products) * scale;
            match add {
                true => update(dx, [x, dy, weight], |dx, [x, dy, w]| dx + slope(x, dy, w)),
                false => update(dx, [x, dy, weight], |_, [x, dy, w]| slope(x, dy, w)),
            }
        }
    }

    /// Adds to the gradient of the weight.
    pub(super) fn add_weight_gradient(self, x: &[f32], moments: &[[f32; 2]], dy: &[f32], gradient: &mut [f32]) {
        let n = self.features;
        let mut part = vec![0.0; n];
        let parts = x.chunks(PART * n).zip(dy.chunks(PART * n)).zip(moments.chunks(PART));
        simd(
            #[inline(always)]
            || {
                for ((x, dy), moments) in parts {
                    part.fill(0.0);
                    for ((x, dy), &[mean, scale]) in x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(moments) {
                        update(&mut part, [x, dy], |sum, [x, dy]| sum + dy * (x - mean) * scale);
                    }
                    gradient.iter_mut().zip(&part).for_each(|(sum, x)| *sum += x);
                }
            },
        );
    }
}

/// Rows that are added up by themselves: the rounding error of a long sum grows with its length.
const PART: usize = 64;

impl LayerNorm {
    pub(crate) fn new(planned: &Planned, eps: f64, parameters: &Parameters) -> Self {
        let slot = |i: usize| parameters.slot(&planned.parameters[i].name);
        let features = planned.input.last().copied().unwrap_or(1);
        Self {
            width: planned.width(),
            norm: Norm { features, eps: eps as f32 },
            weight: slot(0),
            bias: slot(1),
            moments: Vec::new(),
        }
    }

    /// Rows that one thread takes at a time.
    fn block(&self) -> usize {
        (CHUNK / self.norm.features).max(1)
    }
}

impl Op for LayerNorm {
    fn width(&self) -> usize {
        self.width
    }

    fn forward(&mut self, _: Pass<'_>, parameters: &Parameters, x: &[f32], y: &mut [f32]) {
        let (norm, n, block) = (self.norm, self.norm.features, self.block());
        let values = [parameters.values(self.weight), parameters.values(self.bias)];
        self.moments.resize(x.len() / n, [0.0; 2]);
        let blocks = x.par_chunks(block * n).zip(y.par_chunks_mut(block * n)).zip(self.moments.par_chunks_mut(block));
        blocks.for_each(|((x, y), moments)| {
            simd(
                #[inline(always)]
                || norm.forward(values, x, moments, y),
            );
        });
    }

    fn backward(
        &mut self,
        _: Pass<'_>,
        parameters: &mut Parameters,
        x: &[f32],
        _: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        let (norm, n, block) = (self.norm, self.norm.features, self.block());
        let moments = &self.moments[..x.len() / n];
        if let Some(dx) = dx {
            let weight = parameters.values(self.weight);
            let inputs = x.par_chunks(block * n).zip(dy.par_chunks(block * n)).zip(moments.par_chunks(block));
            inputs.zip(dx.par_chunks_mut(block * n)).for_each(|(((x, dy), moments), dx)| {
                simd(
                    #[inline(always)]
                    || norm.backward(weight, x, moments, dy, dx, false),
                );
            });
        }
        let dy: &[f32] = dy;
        parameters.update(&[(self.weight, n), (self.bias, n)], |part, _, gradient| {
            gradient.fill(0.0);
            match part {
                0 => norm.add_weight_gradient(x, moments, dy, gradient),
                _ => Matrix::new(dy, dy.len() / n, n).add_rows(gradient),
            }
        });
    }

    fn is_trained(&self, parameters: &Parameters) -> bool {
        parameters.is_trained(self.weight) || parameters.is_trained(self.bias)
    }
}
