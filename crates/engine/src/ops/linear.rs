//! `y = x Wᵀ + b`, with a relu behind it fused in.

use outboard_core::layer::Planned;
use rayon::prelude::*;

use super::{CHUNK, Op, Pass};
use crate::{
    matmul::{Matrix, product, product_here},
    parameters::{Parameters, Slot},
    simd::simd,
};

/// Inputs whose weights one thread updates at a time. Their gradient stays in cache between product and update.
const BLOCK: usize = 64;

#[derive(Debug)]
pub(crate) struct Linear {
    inputs: usize,
    outputs: usize,
    /// Applications to one sample: the product of its other dimensions.
    repeats: usize,
    weight: Slot,
    bias: Option<Slot>,
    /// Whether a relu follows.
    pub(crate) relu: bool,
    /// Whether its input comes from a fused relu, whose mask is applied to `dx` while that is in cache.
    pub(crate) after_relu: bool,
    /// Whether the op behind it applies the mask of its relu.
    pub(crate) masked_above: bool,
}

impl Linear {
    pub(crate) fn new(planned: &Planned, parameters: &Parameters) -> Self {
        let dimensions = &planned.parameters[0].shape;
        let slot = |i: usize| planned.parameters.get(i).map(|p| parameters.slot(&p.name));
        let width: usize = planned.output.iter().product();
        Self {
            inputs: dimensions[1],
            outputs: dimensions[0],
            repeats: width / dimensions[0],
            weight: slot(0).unwrap_or_default(),
            bias: slot(1),
            relu: false,
            after_relu: false,
            masked_above: false,
        }
    }

    /// The weight as it lies: `[in, out]`.
    fn weight<'a>(&self, parameters: &'a Parameters) -> Matrix<'a> {
        Matrix::new(parameters.values(self.weight), self.inputs, self.outputs)
    }
}

/// `dy = 0` where a relu gave 0.
fn mask(y: &[f32], dy: &mut [f32]) {
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

impl Op for Linear {
    fn width(&self) -> usize {
        self.outputs * self.repeats
    }

    fn forward(&mut self, pass: Pass<'_>, parameters: &Parameters, x: &[f32], y: &mut [f32]) {
        let x = Matrix::new(x, pass.rows * self.repeats, self.inputs);
        let bias = self.bias.map(|slot| parameters.values(slot));
        let relu = self.relu;
        product(
            y,
            x,
            self.weight(parameters),
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
        &mut self,
        pass: Pass<'_>,
        parameters: &mut Parameters,
        x: &[f32],
        y: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        let rows = pass.rows * self.repeats;
        if self.relu && !self.masked_above {
            mask(y, dy);
        }
        let dy = Matrix::new(dy, rows, self.outputs);
        if let Some(dx) = dx {
            let (after_relu, inputs) = (self.after_relu, self.inputs);
            product(
                dx,
                dy,
                self.weight(parameters).transposed(),
                #[inline(always)]
                |row, column, dx| {
                    if after_relu {
                        let y = &x[row * inputs + column..];
                        dx.iter_mut().zip(y).for_each(|(dx, &y)| *dx = if y > 0.0 { *dx } else { 0.0 });
                    }
                },
            );
        }
        let x = Matrix::new(x, rows, self.inputs);
        let weight = (self.weight, BLOCK * self.outputs);
        let bias = self.bias.map(|bias| (bias, self.outputs));
        let parts: Vec<_> = std::iter::once(weight).chain(bias).collect();
        parameters.update(&parts, |part, index, gradient| match part {
            0 => {
                let inputs = gradient.len() / self.outputs;
                product_here(gradient, x.columns(index * BLOCK, inputs).transposed(), dy);
            }
            _ => dy.sum_rows(gradient),
        });
    }

    fn is_trained(&self, parameters: &Parameters) -> bool {
        parameters.is_trained(self.weight) || self.bias.is_some_and(|bias| parameters.is_trained(bias))
    }
}
