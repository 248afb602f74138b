//! Convolution by products with the columns that its filters meet, with a relu and a max pool behind it fused in.

mod columns;
mod fused_pool;

use outboard_core::{Layer, layer::Planned};
use rayon::prelude::*;

use self::{columns::Columns, fused_pool::FusedPool};
use super::{Op, PARTS, Pass, parts_of, pool::image, rows_per_part};
use crate::{
    parameters::{Parameters, Slot},
    simd::{self, simd},
    tiles::{Small, transpose},
};

/// Elements of a weight that one thread adds up and updates at a time.
const BLOCK: usize = 1 << 12;

#[derive(Debug)]
pub(crate) struct Conv {
    filters: Filters,
    weight: Slot,
    bias: Option<Slot>,
    parts: Vec<Part>,
}

/// What one part of the batch needs for itself.
#[derive(Debug, Default)]
struct Part {
    columns: Vec<f32>,
    /// The filters' output for one sample before pooling, or its gradient.
    full: Vec<f32>,
    /// Where pooling found the largest elements, for each sample.
    chosen: Vec<u32>,
    /// The gradient of `full`, and that of the weight, with rows and columns exchanged.
    turned: Vec<f32>,
    turned_slope: Vec<f32>,
    /// Gradients.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Whether a convolution before this layer does its work too.
pub(crate) fn takes_along(layer: &Layer) -> bool {
    FusedPool::can_be(layer)
}

impl Conv {
    pub(crate) fn new(planned: &Planned, relu: bool, pool: Option<&Planned>, parameters: &Parameters) -> Self {
        let groups = match planned.layer {
            Layer::Conv1d { groups, .. } | Layer::Conv2d { groups, .. } => groups,
            _ => 1,
        };
        let slot = |i: usize| planned.parameters.get(i).map(|p| parameters.slot(&p.name));
        let (columns, out) = (Columns::new(planned), image(&planned.output)[0]);
        let filters = Filters { columns, out, groups, relu, pool: pool.map(|pool| FusedPool::new(planned, pool)) };
        Self { filters, weight: slot(0).unwrap_or_default(), bias: slot(1), parts: Vec::new() }
    }
}

impl Op for Conv {
    fn width(&self) -> usize {
        self.filters.width()
    }

    fn forward(&mut self, pass: Pass<'_>, parameters: &Parameters, x: &[f32], y: &mut [f32]) {
        let filters = &self.filters;
        let rows = rows_per_part(pass.rows);
        let (weight, bias) = (parameters.values(self.weight), self.bias.map(|bias| parameters.values(bias)));
        self.parts.resize_with(PARTS, Part::default);
        let samples = x.par_chunks(rows * filters.columns.sample()).zip(y.par_chunks_mut(rows * filters.width()));
        samples
            .zip(&mut self.parts)
            .with_max_len(1)
            .for_each(|((x, y), part)| filters.forward(part, weight, bias, x, y));
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
        let filters = &self.filters;
        let rows = rows_per_part(pass.rows);
        let count = pass.rows.div_ceil(rows);
        let weight = parameters.values(self.weight);
        let trained = self.is_trained(parameters);
        let (before, after) = (filters.columns.sample(), filters.width());
        let slopes: Vec<_> =
            dy.chunks_mut(rows * after).zip(parts_of(dx, rows * before, count)).zip(&mut self.parts).collect();
        let samples = x.par_chunks(rows * before).zip(y.par_chunks(rows * after));
        samples.zip(slopes).with_max_len(1).for_each(|((x, y), ((dy, dx), part))| {
            filters.backward(part, weight, trained, [x, y], dy, dx);
        });
        let slots: Vec<_> = std::iter::once((self.weight, BLOCK)).chain(self.bias.map(|bias| (bias, BLOCK))).collect();
        let parts = &self.parts[..count];
        parameters.update(&slots, |slot, index, gradient| {
            let from = index * BLOCK;
            gradient.fill(0.0);
            for part in parts {
                let all = if slot == 0 { &part.weight } else { &part.bias };
                simd(
                    #[inline(always)]
                    || gradient.iter_mut().zip(&all[from..]).for_each(|(sum, x)| *sum += x),
                );
            }
        });
    }

    fn is_trained(&self, parameters: &Parameters) -> bool {
        parameters.is_trained(self.weight) || self.bias.is_some_and(|bias| parameters.is_trained(bias))
    }
}

/// What the filters do with a part of the batch.
#[derive(Debug)]
struct Filters {
    columns: Columns,
    out: usize,
    groups: usize,
    relu: bool,
    pool: Option<FusedPool>,
}

impl Filters {
    /// Elements of one sample after everything.
    fn width(&self) -> usize {
        self.out * self.pool.as_ref().map_or(self.columns.places(), FusedPool::places)
    }

    /// Outputs, columns that they meet, and places, of one group.
    fn group(&self) -> [usize; 3] {
        [self.out / self.groups, self.columns.rows() / self.groups, self.columns.places()]
    }

    fn forward(&self, part: &mut Part, weight: &[f32], bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
        let Part { columns, full, chosen, .. } = part;
        let (before, after) = (self.columns.sample(), self.width());
        if self.pool.is_some() {
            full.resize(self.out * self.columns.places(), 0.0);
            chosen.resize(y.len().max(chosen.len()), 0);
        }
        for (sample, (x, y)) in x.chunks_exact(before).zip(y.chunks_exact_mut(after)).enumerate() {
            let columns = self.columns.of(x, columns);
            match &self.pool {
                None => self.products(weight, columns, y),
                Some(pool) => {
                    self.products(weight, columns, full);
                    pool.forward(full, y, &mut chosen[sample * after..][..after]);
                }
            }
            self.finish(bias, y);
        }
    }

    fn products(&self, weight: &[f32], columns: &[f32], out: &mut [f32]) {
        let [outputs, filter, places] = self.group();
        let groups = weight.chunks_exact(outputs * filter).zip(columns.chunks_exact(filter * places));
        for (out, (weight, columns)) in out.chunks_exact_mut(outputs * places).zip(groups) {
            multiply([outputs, places, filter], (weight, [filter, 1]), columns, out, false);
        }
    }

    /// Adds the bias to each channel, then lets nothing negative pass where a relu follows. A maximum commutes with
    /// both, so pooling may come first.
    fn finish(&self, bias: Option<&[f32]>, y: &mut [f32]) {
        let places = y.len() / self.out;
        simd(
            #[inline(always)]
            || {
                for (channel, y) in y.chunks_exact_mut(places).enumerate() {
                    let bias = bias.map_or(0.0, |bias| bias[channel]);
                    match self.relu {
                        true => y.iter_mut().for_each(|y| *y = (*y + bias).max(0.0)),
                        false => y.iter_mut().for_each(|y| *y += bias),
                    }
                }
            },
        );
    }

    fn backward(
        &self,
        part: &mut Part,
        weight: &[f32],
        trained: bool,
        [x, y]: [&[f32]; 2],
        dy: &mut [f32],
        mut dx: Option<&mut [f32]>,
    ) {
        let Part { columns: scratch, full, turned, chosen, turned_slope, weight: weight_slope, bias: bias_slope } =
            part;
        let (before, after) = (self.columns.sample(), self.width());
        let [outputs, filter, places] = self.group();
        if trained {
            turned_slope.clear();
            turned_slope.resize(weight.len(), 0.0);
            weight_slope.resize(weight.len(), 0.0);
            bias_slope.clear();
            bias_slope.resize(self.out, 0.0);
        }
        let samples = x.chunks_exact(before).zip(y.chunks_exact(after)).zip(dy.chunks_exact_mut(after));
        for (sample, ((x, y), dy)) in samples.enumerate() {
            if self.relu {
                simd(
                    #[inline(always)]
                    || dy.iter_mut().zip(y).for_each(|(dy, &y)| *dy = if y > 0.0 { *dy } else { 0.0 }),
                );
            }
            if trained {
                let channels = dy.chunks_exact(after / self.out);
                bias_slope.iter_mut().zip(channels).for_each(|(sum, dy)| *sum += simd::sum(dy));
            }
            let dy: &[f32] = match &self.pool {
                None => dy,
                Some(pool) => {
                    pool.backward(dy, &chosen[sample * after..][..after], full);
                    full
                }
            };
            if trained {
                let columns = self.columns.of(x, scratch);
                let groups = dy.chunks_exact(outputs * places).zip(columns.chunks_exact(filter * places));
                for (slope, (dy, columns)) in turned_slope.chunks_exact_mut(outputs * filter).zip(groups) {
                    turned.resize(outputs * places, 0.0);
                    turn(dy, [outputs, places], turned);
                    multiply([filter, outputs, places], (columns, [places, 1]), turned, slope, true);
                }
            }
            if let Some(dx) = dx.as_deref_mut() {
                let dx = &mut dx[sample * before..][..before];
                self.columns.gather(dx, scratch, |columns| {
                    let groups = weight.chunks_exact(outputs * filter).zip(dy.chunks_exact(outputs * places));
                    for (columns, (weight, dy)) in columns.chunks_exact_mut(filter * places).zip(groups) {
                        multiply([filter, places, outputs], (weight, [1, filter]), dy, columns, false);
                    }
                });
            }
        }
        if trained {
            let groups =
                turned_slope.chunks_exact(outputs * filter).zip(weight_slope.chunks_exact_mut(outputs * filter));
            groups.for_each(|(turned, slope)| turn(turned, [filter, outputs], slope));
        }
    }
}

/// `c = a b` or `c += a b`, where all but `a` are row-major.
fn multiply(size: [usize; 3], (a, a_strides): (&[f32], [usize; 2]), b: &[f32], c: &mut [f32], add: bool) {
    let [_, columns, _] = size;
    pulp::Arch::new().dispatch(Small { size, a, a_strides, b, b_stride: columns, c, c_stride: columns, add });
}

/// `to` holds the columns of `from` as rows.
fn turn(from: &[f32], size: [usize; 2], to: &mut [f32]) {
    simd(
        #[inline(always)]
        || transpose(from, size[1], size, to),
    );
}
