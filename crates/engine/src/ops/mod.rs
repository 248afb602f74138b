//! One file per layer, forward and backward.

mod activation;
mod dropout;
mod linear;
mod softmax;

use std::fmt::Debug;

use outboard_core::{Layer, layer::Planned};
use rayon::prelude::*;

use crate::{parameters::Parameters, simd::simd};

/// What an op needs to know of the pass it is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    /// Rows of the batch.
    pub(crate) rows: usize,
    /// Whether dropout is on.
    pub(crate) training: bool,
    /// The job's seed.
    pub(crate) seed: u64,
    /// Optimizer step, from 0.
    pub(crate) step: u64,
}

/// A layer, or several fused, planned for samples of a known shape.
pub(crate) trait Op: Debug + Send + Sync {
    /// Elements of one sample after it.
    fn width(&self) -> usize;

    /// `x` and `y` hold one sample after another.
    fn forward(&self, pass: Pass, parameters: &Parameters, x: &[f32], y: &mut [f32]);

    /// Turns `dy` into `dx`, where it is asked for, then updates the op's parameters. `dy` is left undefined.
    fn backward(
        &self,
        pass: Pass,
        parameters: &mut Parameters,
        x: &[f32],
        y: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    );

    /// Whether it has a parameter that is trained.
    fn is_trained(&self, _parameters: &Parameters) -> bool {
        false
    }
}

/// The ops of a model. Layers that are cheaper together become one op.
pub(crate) fn build(plan: &[Planned], parameters: &Parameters) -> Vec<Box<dyn Op>> {
    let mut ops: Vec<Box<dyn Op>> = Vec::new();
    let mut layers = plan.iter().peekable();
    // Whether the op before leaves the mask of its relu to this one.
    let mut after_relu = false;
    while let Some(planned) = layers.next() {
        let width = planned.output.iter().product();
        match &planned.layer {
            Layer::Linear { .. } => {
                let relu = layers.next_if(|next| next.layer == Layer::Relu).is_some();
                let masked_above = relu && matches!(layers.peek(), Some(Planned { layer: Layer::Linear { .. }, .. }));
                let mut linear = linear::Linear::new(planned, parameters);
                (linear.relu, linear.masked_above, linear.after_relu) = (relu, masked_above, after_relu);
                ops.push(Box::new(linear));
                after_relu = masked_above;
                continue;
            }
            Layer::Flatten => {}
            Layer::Softmax => {
                ops.push(Box::new(softmax::Softmax { width, last: planned.output.last().copied().unwrap_or(1) }))
            }
            Layer::Dropout { p } => ops.push(Box::new(dropout::Dropout { width, layer: planned.index as u32, p: *p })),
            Layer::Relu | Layer::Gelu { .. } | Layer::Silu | Layer::Tanh | Layer::Sigmoid => {
                ops.push(Box::new(activation::Activation { width, kind: activation::Kind::of(&planned.layer) }));
            }
        }
    }
    ops
}

/// Elements that one thread takes at a time; fewer than two of these aren't worth a second thread.
const CHUNK: usize = 1 << 14;

/// `y[i] = f(i, x[i])`, over threads and vector units.
#[inline(always)]
pub(crate) fn map(x: &[f32], y: &mut [f32], f: impl Fn(usize, f32) -> f32 + Sync) {
    let chunk = |(index, (y, x)): (usize, (&mut [f32], &[f32]))| {
        simd(
            #[inline(always)]
            || {
                for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
                    *y = f(index * CHUNK + i, x);
                }
            },
        );
    };
    if y.len() <= CHUNK {
        chunk((0, (y, x)));
    } else {
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(chunk);
    }
}

/// `dx[i] = f(x[i], y[i], dy[i])`, over threads and vector units.
#[inline(always)]
pub(crate) fn map_gradient(x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32], f: impl Fn(f32, f32, f32) -> f32 + Sync) {
    let chunk = |dx: &mut [f32], x: &[f32], y: &[f32], dy: &[f32]| {
        simd(
            #[inline(always)]
            || {
                for (((dx, &x), &y), &dy) in dx.iter_mut().zip(x).zip(y).zip(dy) {
                    *dx = f(x, y, dy);
                }
            },
        );
    };
    if dx.len() <= CHUNK {
        chunk(dx, x, y, dy);
    } else {
        let inputs = x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
        dx.par_chunks_mut(CHUNK).zip(inputs).for_each(|(dx, ((x, y), dy))| chunk(dx, x, y, dy));
    }
}
