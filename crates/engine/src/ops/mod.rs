//! One file per layer, forward and backward.

mod activation;
mod batch_norm;
mod chain;
mod conv;
mod dropout;
mod embedding;
mod encoder;
mod layer_norm;
mod linear;
mod pool;
mod positions;
mod recurrent;
mod residual;
mod softmax;

use std::fmt::Debug;

use outboard_core::{Layer, layer::Planned};
use rayon::prelude::*;

pub(crate) use self::chain::Chain;
use crate::{parameters::Parameters, simd::simd};

/// What an op needs to know of the pass it is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass<'a> {
    /// Rows of the batch.
    pub(crate) rows: usize,
    /// Whether dropout is on.
    pub(crate) training: bool,
    /// The job's seed.
    pub(crate) seed: u64,
    /// Optimizer step, from 0.
    pub(crate) step: u64,
    /// For each position of each row, whether it is padding; empty where the model knows no padding.
    pub(crate) padding: &'a [bool],
}

/// A layer, or several fused, planned for samples of a known shape.
pub(crate) trait Op: Debug + Send + Sync {
    /// Elements of one sample after it.
    fn width(&self) -> usize;

    /// `x` and `y` hold one sample after another.
    fn forward(&mut self, pass: Pass<'_>, parameters: &Parameters, x: &[f32], y: &mut [f32]);

    /// Turns `dy` into `dx`, where it is asked for, then updates the op's parameters. `dy` is left undefined.
    fn backward(
        &mut self,
        pass: Pass<'_>,
        parameters: &mut Parameters,
        x: &[f32],
        y: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    );

    /// Lets what the last pass saw count in the op's running statistics, now that its loss is known to be finite.
    fn settle(&mut self, _parameters: &mut Parameters) {}

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
        let width = planned.width();
        let op: Box<dyn Op> = match &planned.layer {
            Layer::Linear { .. } => {
                let relu = layers.next_if(|next| next.layer == Layer::Relu).is_some();
                let masked_above = relu && matches!(layers.peek(), Some(Planned { layer: Layer::Linear { .. }, .. }));
                let mut linear = linear::Linear::new(planned, parameters);
                (linear.relu, linear.masked_above, linear.after_relu) = (relu, masked_above, after_relu);
                ops.push(Box::new(linear));
                after_relu = masked_above;
                continue;
            }
            Layer::Flatten => continue,
            Layer::Softmax => Box::new(softmax::Softmax { width, last: planned.output.last().copied().unwrap_or(1) }),
            Layer::Dropout { p } => Box::new(dropout::Dropout { width, number: planned.dropout, p: *p }),
            Layer::Relu | Layer::Gelu { .. } | Layer::Silu | Layer::Tanh | Layer::Sigmoid => {
                Box::new(activation::Activation { width, kind: activation::Kind::of(&planned.layer) })
            }
            Layer::Conv1d { .. } | Layer::Conv2d { .. } => {
                let relu = layers.next_if(|next| next.layer == Layer::Relu).is_some();
                let pool = layers.next_if(|next| conv::takes_along(&next.layer));
                Box::new(conv::Conv::new(planned, relu, pool, parameters))
            }
            Layer::MaxPool1d(_)
            | Layer::MaxPool2d(_)
            | Layer::AvgPool1d(_)
            | Layer::AvgPool2d(_)
            | Layer::AdaptiveAvgPool1d { .. }
            | Layer::AdaptiveAvgPool2d { .. } => Box::new(pool::Pool::new(planned)),
            Layer::BatchNorm1d(keys) | Layer::BatchNorm2d(keys) => {
                Box::new(batch_norm::BatchNorm::new(planned, keys, parameters))
            }
            Layer::LayerNorm { eps } => Box::new(layer_norm::LayerNorm::new(planned, *eps, parameters)),
            Layer::Embedding { padding_index, .. } => {
                Box::new(embedding::Embedding::new(planned, *padding_index, parameters))
            }
            Layer::PositionalEmbedding => Box::new(embedding::Positional::new(planned, parameters)),
            Layer::Residual { .. } => Box::new(residual::Residual::new(planned, parameters)),
            Layer::TransformerEncoder { .. } => Box::new(encoder::Encoder::new(planned, parameters)),
            Layer::Lstm(_) => Box::new(recurrent::Recurrent::new(planned, recurrent::Cell::Lstm, parameters)),
            Layer::Gru(_) => Box::new(recurrent::Recurrent::new(planned, recurrent::Cell::Gru, parameters)),
            Layer::MeanPool => Box::new(positions::MeanPool::new(planned)),
            Layer::LastPool => Box::new(positions::LastPool::new(planned)),
        };
        ops.push(op);
        after_relu = false;
    }
    ops
}

/// Elements that one thread takes at a time; fewer than two of these aren't worth a second thread.
const CHUNK: usize = 1 << 14;

/// Parts that the rows of a batch are cut into where each needs memory of its own. Sums over parts are added up in
/// their order, so the number of threads doesn't show.
const PARTS: usize = 8;

/// Rows of one of at most [`PARTS`] parts.
fn rows_per_part(rows: usize) -> usize {
    rows.div_ceil(PARTS).max(1)
}

/// The parts of a slope that may not be asked for.
fn parts_of(slope: Option<&mut [f32]>, size: usize, count: usize) -> Vec<Option<&mut [f32]>> {
    match slope {
        Some(slope) => slope.chunks_mut(size).map(Some).collect(),
        None => (0..count).map(|_| None).collect(),
    }
}
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
