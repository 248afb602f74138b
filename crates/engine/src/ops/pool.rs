//! Pooling over windows of each channel: the largest element, or the mean.

use std::ops::Range;

use outboard_core::{
    Layer,
    layer::{Extent, Planned, Pool as Keys},
};
use rayon::prelude::*;

use super::{Op, Pass};
use crate::{parameters::Parameters, simd::simd};

/// Windows along one dimension, where they overlap with the input.
pub(super) type Places = Vec<Range<usize>>;

/// Elements that one thread takes at a time, about.
const CHUNK: usize = 1 << 14;

#[derive(Debug)]
pub(crate) struct Pool {
    channels: usize,
    height: usize,
    width: usize,
    rows: Places,
    columns: Places,
    kind: Kind,
    /// Where the largest element of each window was found, within its channel.
    chosen: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Max,
    /// The sum over this.
    Mean(f32),
    /// The sum over the window's size.
    Adaptive,
}

/// Windows of a fixed size.
pub(super) fn sliding(size: usize, kernel: usize, stride: usize, padding: usize) -> Places {
    let count = (size + 2 * padding - kernel) / stride + 1;
    (0..count)
        .map(|place| {
            let start = place * stride;
            start.saturating_sub(padding)..(start + kernel - padding).min(size)
        })
        .collect()
}

/// Windows that cover everything, as evenly as can be.
fn adaptive(size: usize, count: usize) -> Places {
    (0..count).map(|place| place * size / count..((place + 1) * size).div_ceil(count)).collect()
}

/// The keys of a pool with one dimension, for two.
pub(super) fn flat(keys: &Keys<usize>) -> Keys<Extent> {
    Keys {
        kernel: Extent { height: 1, width: keys.kernel },
        stride: Some(Extent { height: 1, width: keys.stride.unwrap_or(keys.kernel) }),
        padding: Extent { height: 0, width: keys.padding },
    }
}

/// Channels, height and width; a sequence has the height 1.
pub(super) fn image(shape: &[usize]) -> [usize; 3] {
    match *shape {
        [channels, length] => [channels, 1, length],
        [channels, height, width] => [channels, height, width],
        _ => unreachable!("{shape:?}: ruled out when the layer is planned"),
    }
}

impl Pool {
    pub(crate) fn new(planned: &Planned) -> Self {
        let [channels, height, width] = image(&planned.input);
        let windows = |keys: &Keys<Extent>| {
            let stride = keys.stride.unwrap_or(keys.kernel);
            [
                sliding(height, keys.kernel.height, stride.height, keys.padding.height),
                sliding(width, keys.kernel.width, stride.width, keys.padding.width),
            ]
        };
        let mean = |keys: &Keys<Extent>| Kind::Mean((keys.kernel.height * keys.kernel.width) as f32);
        let ([rows, columns], kind) = match &planned.layer {
            Layer::MaxPool1d(keys) => (windows(&flat(keys)), Kind::Max),
            Layer::MaxPool2d(keys) => (windows(keys), Kind::Max),
            Layer::AvgPool1d(keys) => (windows(&flat(keys)), mean(&flat(keys))),
            Layer::AvgPool2d(keys) => (windows(keys), mean(keys)),
            _ => {
                let [_, out_height, out_width] = image(&planned.output);
                ([adaptive(height, out_height), adaptive(width, out_width)], Kind::Adaptive)
            }
        };
        Self { channels, height, width, rows, columns, kind, chosen: Vec::new() }
    }

    /// Elements of a channel before and after.
    fn planes(&self) -> [usize; 2] {
        [self.height * self.width, self.rows.len() * self.columns.len()]
    }

    /// Channels that one thread takes at a time.
    fn block(&self) -> usize {
        let [before, after] = self.planes();
        (CHUNK / before.max(after)).max(1)
    }

    fn windows(&self) -> impl Iterator<Item = (&Range<usize>, &Range<usize>)> {
        self.rows.iter().flat_map(|rows| self.columns.iter().map(move |columns| (rows, columns)))
    }

    fn share(&self, rows: &Range<usize>, columns: &Range<usize>) -> f32 {
        match self.kind {
            Kind::Mean(divisor) => 1.0 / divisor,
            _ => 1.0 / (rows.len() * columns.len()) as f32,
        }
    }

    fn largest(&self, x: &[f32], y: &mut [f32], chosen: &mut [u32]) {
        for ((rows, columns), (y, chosen)) in self.windows().zip(y.iter_mut().zip(chosen)) {
            let mut at = rows.start * self.width + columns.start;
            let mut max = f32::NEG_INFINITY;
            for row in rows.clone() {
                let from = row * self.width + columns.start;
                for (offset, &x) in x[from..][..columns.len()].iter().enumerate() {
                    // A NaN is passed on, as by PyTorch.
                    if x > max || x.is_nan() {
                        (max, at) = (x, from + offset);
                    }
                }
            }
            (*y, *chosen) = (max, at as u32);
        }
    }

    fn mean(&self, x: &[f32], y: &mut [f32]) {
        for ((rows, columns), y) in self.windows().zip(y) {
            let row = |row: usize| x[row * self.width..][columns.clone()].iter().sum::<f32>();
            let sum: f32 = rows.clone().map(row).sum();
            *y = match self.kind {
                Kind::Mean(divisor) => sum / divisor,
                _ => sum / (rows.len() * columns.len()) as f32,
            };
        }
    }
}

impl Op for Pool {
    fn width(&self) -> usize {
        self.channels * self.planes()[1]
    }

    fn forward(&mut self, _: Pass<'_>, _: &Parameters, x: &[f32], y: &mut [f32]) {
        let [before, after] = self.planes();
        let block = self.block();
        if matches!(self.kind, Kind::Max) {
            let mut chosen = std::mem::take(&mut self.chosen);
            chosen.resize(y.len().max(chosen.len()), 0);
            let blocks = y.par_chunks_mut(block * after).zip(chosen.par_chunks_mut(block * after));
            blocks.zip(x.par_chunks(block * before)).for_each(|((y, chosen), x)| {
                let planes = y.chunks_exact_mut(after).zip(chosen.chunks_exact_mut(after));
                planes.zip(x.chunks_exact(before)).for_each(|((y, chosen), x)| self.largest(x, y, chosen));
            });
            self.chosen = chosen;
        } else {
            y.par_chunks_mut(block * after).zip(x.par_chunks(block * before)).for_each(|(y, x)| {
                y.chunks_exact_mut(after).zip(x.chunks_exact(before)).for_each(|(y, x)| self.mean(x, y));
            });
        }
    }

    fn backward(
        &mut self,
        _: Pass<'_>,
        _: &mut Parameters,
        _: &[f32],
        _: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        let Some(dx) = dx else { return };
        let [before, after] = self.planes();
        let block = self.block();
        let blocks = dx.par_chunks_mut(block * before).zip(dy.par_chunks(block * after)).enumerate();
        blocks.for_each(|(index, (dx, dy))| {
            dx.fill(0.0);
            let planes = dx.chunks_exact_mut(before).zip(dy.chunks_exact(after)).enumerate();
            for (plane, (dx, dy)) in planes {
                match self.kind {
                    Kind::Max => {
                        let chosen = &self.chosen[(index * block + plane) * after..][..after];
                        chosen.iter().zip(dy).for_each(|(&at, dy)| dx[at as usize] += dy);
                    }
                    _ => {
                        for ((rows, columns), dy) in self.windows().zip(dy) {
                            let slope = dy * self.share(rows, columns);
                            for row in rows.clone() {
                                let dx = &mut dx[row * self.width..][columns.clone()];
                                simd(
                                    #[inline(always)]
                                    || dx.iter_mut().for_each(|dx| *dx += slope),
                                );
                            }
                        }
                    }
                }
            }
        });
    }
}
