//! `y = x Wᵀ + b`, with a relu behind it fused in.

use outboard_core::layer::Planned;
use rayon::prelude::*;

use super::{CHUNK, Op, Pass};
use crate::{
    matmul::{Matrix, product, product_here},
    network::{Parameters, Slot},
    simd::simd,
};

/// Outputs whose weights one thread updates at a time. Their gradient stays in cache between product and update.
const BLOCK: usize = 64;

#[derive(Debug)]
pub(crate) struct Linear {
    inputs: usize,
    outputs: usize,
    /// Applications to one sample: the product of its other dimensions.
    repeats: usize,
    weight: Slot,
    bias: Option<Slot>,
    relu: bool,
}

impl Linear {
    pub(crate) fn new(planned: &Planned, parameters: &Parameters, relu: bool) -> Self {
        let dimensions = &planned.parameters[0].shape;
        let slot = |i: usize| planned.parameters.get(i).map(|p| parameters.slot(&p.name));
        let width: usize = planned.output.iter().product();
        Self {
            inputs: dimensions[1],
            outputs: dimensions[0],
            repeats: width / dimensions[0],
            weight: slot(0).unwrap_or_default(),
            bias: slot(1),
            relu,
        }
    }

    fn mask(&self, y: &[f32], dy: &mut [f32]) {
        let mask = |(y, dy): (&[f32], &mut [f32])| {
            simd(
                #[inline(always)]
                || dy.iter_mut().zip(y).for_each(|(dy, &y)| *dy = if y > 0.0 { *dy } else { 0.0 }),
            );
        };
        if y.len() <= CHUNK {
            mask((y, dy));
        } else {
            y.par_chunks(CHUNK).zip(dy.par_chunks_mut(CHUNK)).for_each(mask);
        }
    }
}

impl Op for Linear {
    fn width(&self) -> usize {
        self.outputs * self.repeats
    }

    fn forward(&self, pass: Pass, parameters: &Parameters, x: &[f32], y: &mut [f32]) {
        let rows = pass.rows * self.repeats;
        let x = Matrix::new(x, rows, self.inputs);
        let w = Matrix::new(parameters.values(self.weight), self.outputs, self.inputs);
        let bias = self.bias.map(|slot| parameters.values(slot));
        let relu = self.relu;
        product(
            y,
            x,
            w.transposed(),
            #[inline(always)]
            |_, column, y| {
                if let Some(bias) = bias {
                    y.iter_mut().zip(&bias[column..]).for_each(|(y, b)| *y += b);
                }
                if relu {
                    y.iter_mut().for_each(|y| *y = y.max(0.0));
                }
            },
        );
    }

    fn backward(
        &self,
        pass: Pass,
        parameters: &mut Parameters,
        x: &[f32],
        y: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        let rows = pass.rows * self.repeats;
        if self.relu {
            self.mask(y, dy);
        }
        let x = Matrix::new(x, rows, self.inputs);
        let dy = Matrix::new(dy, rows, self.outputs);
        if let Some(dx) = dx {
            let w = Matrix::new(parameters.values(self.weight), self.outputs, self.inputs);
            product(dx, dy, w, |_, _, _| {});
        }
        parameters.update(self.weight, BLOCK * self.inputs, |index, gradient| {
            let outputs = gradient.len() / self.inputs;
            product_here(gradient, dy.columns(index * BLOCK, outputs).transposed(), x);
        });
        if let Some(bias) = self.bias {
            parameters.update(bias, self.outputs, |_, gradient| dy.sum_rows(gradient));
        }
    }

    fn is_trained(&self, parameters: &Parameters) -> bool {
        parameters.is_trained(self.weight) || self.bias.is_some_and(|bias| parameters.is_trained(bias))
    }
}
