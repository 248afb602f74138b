//! Trained vectors for tokens and for positions.

use outboard_core::layer::Planned;
use rayon::prelude::*;

use super::{CHUNK, Op, Pass};
use crate::{
    parameters::{Parameters, Slot},
    simd::simd,
};

/// Tokens whose vectors one thread updates at a time.
const BLOCK: usize = 128;

/// A vector for each token. Tokens were checked when the data set was.
#[derive(Debug)]
pub(crate) struct Embedding {
    tokens: usize,
    out: usize,
    width: usize,
    padding_index: Option<usize>,
    weight: Slot,
}

impl Embedding {
    pub(crate) fn new(planned: &Planned, padding_index: Option<usize>, parameters: &Parameters) -> Self {
        let table = &planned.parameters[0];
        Self {
            tokens: table.shape[0],
            out: table.shape[1],
            width: planned.width(),
            padding_index,
            weight: parameters.slot(&table.name),
        }
    }
}

impl Op for Embedding {
    fn width(&self) -> usize {
        self.width
    }

    fn forward(&mut self, _: Pass<'_>, parameters: &Parameters, x: &[f32], y: &mut [f32]) {
        let table = parameters.values(self.weight);
        for (y, &token) in y.chunks_exact_mut(self.out).zip(x) {
            y.copy_from_slice(&table[token as usize * self.out..][..self.out]);
        }
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
        if let Some(dx) = dx {
            dx.fill(0.0);
        }
        let (out, dy): (_, &[f32]) = (self.out, dy);
        let block = BLOCK.min(self.tokens);
        parameters.update(&[(self.weight, block * out)], |_, index, gradient| {
            gradient.fill(0.0);
            let first = index * block;
            let tokens = first..first + gradient.len() / out;
            for (&token, dy) in x.iter().zip(dy.chunks_exact(out)) {
                let token = token as usize;
                if tokens.contains(&token) && Some(token) != self.padding_index {
                    let sum = &mut gradient[(token - first) * out..][..out];
                    simd(
                        #[inline(always)]
                        || sum.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy),
                    );
                }
            }
        });
    }

    fn is_trained(&self, parameters: &Parameters) -> bool {
        parameters.is_trained(self.weight)
    }
}

/// A vector for each position, added to what is there.
#[derive(Debug)]
pub(crate) struct Positional {
    width: usize,
    weight: Slot,
}

impl Positional {
    pub(crate) fn new(planned: &Planned, parameters: &Parameters) -> Self {
        Self { width: planned.width(), weight: parameters.slot(&planned.parameters[0].name) }
    }
}

impl Op for Positional {
    fn width(&self) -> usize {
        self.width
    }

    fn forward(&mut self, _: Pass<'_>, parameters: &Parameters, x: &[f32], y: &mut [f32]) {
        let table = parameters.values(self.weight);
        let samples = (CHUNK / self.width).max(1) * self.width;
        x.par_chunks(samples).zip(y.par_chunks_mut(samples)).for_each(|(x, y)| {
            simd(
                #[inline(always)]
                || {
                    for (x, y) in x.chunks_exact(self.width).zip(y.chunks_exact_mut(self.width)) {
                        x.iter().zip(table).zip(y).for_each(|((x, position), y)| *y = x + position);
                    }
                },
            );
        });
    }

    fn backward(
        &mut self,
        _: Pass<'_>,
        parameters: &mut Parameters,
        _: &[f32],
        _: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        if let Some(dx) = dx {
            dx.copy_from_slice(dy);
        }
        let (width, dy): (_, &[f32]) = (self.width, dy);
        let block = CHUNK.min(width);
        parameters.update(&[(self.weight, block)], |_, index, gradient| {
            gradient.fill(0.0);
            for dy in dy.chunks_exact(width) {
                let dy = &dy[index * block..];
                simd(
                    #[inline(always)]
                    || gradient.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy),
                );
            }
        });
    }

    fn is_trained(&self, parameters: &Parameters) -> bool {
        parameters.is_trained(self.weight)
    }
}
