//! `x` plus what other layers make of it.

use outboard_core::layer::Planned;
use rayon::prelude::*;

use super::{CHUNK, Chain, Op, Pass};
use crate::{parameters::Parameters, simd::simd};

#[derive(Debug)]
pub(crate) struct Residual {
    body: Chain,
}

impl Residual {
    pub(crate) fn new(planned: &Planned, parameters: &Parameters) -> Self {
        Self { body: Chain::new(&planned.body, planned.input.iter().product(), parameters) }
    }
}

/// `sum = a + b`.
fn add(a: &[f32], b: &[f32], sum: &mut [f32]) {
    sum.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((sum, a), b)| {
        simd(
            #[inline(always)]
            || sum.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum = a + b),
        );
    });
}

impl Op for Residual {
    fn width(&self) -> usize {
        self.body.width()
    }

    fn forward(&mut self, pass: Pass<'_>, parameters: &Parameters, x: &[f32], y: &mut [f32]) {
        self.body.forward(pass, parameters, x);
        add(x, self.body.output(x, pass.rows), y);
    }

    fn backward(
        &mut self,
        pass: Pass<'_>,
        parameters: &mut Parameters,
        x: &[f32],
        _: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        let (_, slope) = self.body.output_and_slope(x, pass.rows);
        slope.copy_from_slice(dy);
        let inner = self.body.backward(pass, parameters, x, dx.is_some());
        if let (Some(dx), Some(inner)) = (dx, inner) {
            add(dy, inner, dx);
        }
    }

    fn settle(&mut self, parameters: &mut Parameters) {
        self.body.settle(parameters);
    }

    fn is_trained(&self, parameters: &Parameters) -> bool {
        self.body.is_trained(parameters)
    }
}
