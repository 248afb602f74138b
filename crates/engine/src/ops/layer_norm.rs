//! Layer norm over the last dimension.

use outboard_core::layer::Planned;
use rayon::prelude::*;

use super::{CHUNK, Op, Pass};
use crate::{
    matmul::Matrix,
    parameters::{Parameters, Slot},
    simd::{fold, simd},
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
            let mean = fold(n, |i| x[i]) / n as f32;
            let variance = fold(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
            let scale = 1.0 / (variance + self.eps).sqrt();
            *moments = [mean, scale];
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = (x - mean) * scale * w + b;
            }
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
            let slopes = fold(n, |i| dy[i] * weight[i]) / n as f32;
            let products = fold(n, |i| dy[i] * weight[i] * (x[i] - mean)) * scale / n as f32;
            for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                let slope = (dy * w - slopes - (x - mean) * scale * products) * scale;
                *dx = if add { *dx + slope } else { slope };
            }
        }
    }

    /// Adds to the gradient of the weight.
    #[inline(always)]
    pub(super) fn add_weight_gradient(self, x: &[f32], moments: &[[f32; 2]], dy: &[f32], gradient: &mut [f32]) {
        let n = self.features;
        for ((x, dy), &[mean, scale]) in x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(moments) {
            for ((sum, x), dy) in gradient.iter_mut().zip(x).zip(dy) {
                *sum += dy * (x - mean) * scale;
            }
        }
    }
}

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
                0 => simd(
                    #[inline(always)]
                    || norm.add_weight_gradient(x, moments, dy, gradient),
                ),
                _ => Matrix::new(dy, dy.len() / n, n).add_rows(gradient),
            }
        });
    }

    fn is_trained(&self, parameters: &Parameters) -> bool {
        parameters.is_trained(self.weight) || parameters.is_trained(self.bias)
    }
}
