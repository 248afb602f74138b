//! Max pooling of a convolution's output while it is in cache.

use outboard_core::{
    Layer,
    layer::{Planned, Pool as Keys},
};

use crate::{
    ops::pool::{Places, flat, image, sliding},
    simd::simd,
};

#[derive(Debug)]
pub(super) struct FusedPool {
    /// Size of a channel before it.
    height: usize,
    width: usize,
    rows: Places,
    columns: Places,
    /// Whether windows of 2 x 2 lie side by side.
    quads: bool,
}

impl FusedPool {
    /// Whether a layer is one.
    pub(super) fn can_be(layer: &Layer) -> bool {
        match layer {
            Layer::MaxPool1d(keys) => keys.padding == 0,
            Layer::MaxPool2d(keys) => keys.padding.sides() == [0, 0],
            _ => false,
        }
    }

    pub(super) fn new(conv: &Planned, pool: &Planned) -> Self {
        let [_, height, width] = image(&conv.output);
        let keys = match &pool.layer {
            Layer::MaxPool1d(keys) => flat(keys),
            Layer::MaxPool2d(keys) => keys.clone(),
            other => unreachable!("{} is no max pool", other.kind()),
        };
        let Keys { kernel, stride, .. } = keys;
        let stride = stride.unwrap_or(kernel);
        Self {
            height,
            width,
            rows: sliding(height, kernel.height, stride.height, 0),
            columns: sliding(width, kernel.width, stride.width, 0),
            quads: kernel.sides() == [2, 2] && stride.sides() == [2, 2],
        }
    }

    /// Windows of a channel.
    pub(super) fn places(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// The largest element of each window, and where it was.
    pub(super) fn forward(&self, full: &[f32], y: &mut [f32], chosen: &mut [u32]) {
        let (before, after) = (self.height * self.width, self.places());
        let outputs = y.chunks_exact_mut(after).zip(chosen.chunks_exact_mut(after));
        simd(
            #[inline(always)]
            || {
                for (full, (y, chosen)) in full.chunks_exact(before).zip(outputs) {
                    match self.quads {
                        true => self.quads(full, y, chosen),
                        false => self.windows(full, y, chosen),
                    }
                }
            },
        );
    }

    #[inline(always)]
    fn quads(&self, full: &[f32], y: &mut [f32], chosen: &mut [u32]) {
        let count = self.columns.len();
        let lines = y.chunks_exact_mut(count).zip(chosen.chunks_exact_mut(count));
        for (pair, (y, chosen)) in full.chunks_exact(2 * self.width).zip(lines) {
            let (upper, lower) = pair.split_at(self.width);
            let pairs = upper.chunks_exact(2).zip(lower.chunks_exact(2));
            for ((y, chosen), (upper, lower)) in y.iter_mut().zip(chosen).zip(pairs) {
                let (mut max, mut at) = (upper[0], 0);
                (max, at) = if upper[1] > max { (upper[1], 1) } else { (max, at) };
                (max, at) = if lower[0] > max { (lower[0], 2) } else { (max, at) };
                (max, at) = if lower[1] > max { (lower[1], 3) } else { (max, at) };
                (*y, *chosen) = (max, at);
            }
        }
    }

    #[inline(always)]
    fn windows(&self, full: &[f32], y: &mut [f32], chosen: &mut [u32]) {
        let windows = self.rows.iter().flat_map(|rows| self.columns.iter().map(move |columns| (rows, columns)));
        for ((rows, columns), (y, chosen)) in windows.zip(y.iter_mut().zip(chosen)) {
            let mut at = rows.start * self.width + columns.start;
            for row in rows.clone() {
                for i in row * self.width + columns.start..row * self.width + columns.end {
                    at = if full[i] > full[at] { i } else { at };
                }
            }
            (*y, *chosen) = (full[at], at as u32);
        }
    }

    /// The gradient before pooling.
    pub(super) fn backward(&self, dy: &[f32], chosen: &[u32], full: &mut [f32]) {
        let (before, after) = (self.height * self.width, self.places());
        let inputs = dy.chunks_exact(after).zip(chosen.chunks_exact(after));
        simd(
            #[inline(always)]
            || {
                for (full, (dy, chosen)) in full.chunks_exact_mut(before).zip(inputs) {
                    match self.quads {
                        true => self.scatter_quads(dy, chosen, full),
                        false => {
                            full.fill(0.0);
                            chosen.iter().zip(dy).for_each(|(&at, dy)| full[at as usize] += dy);
                        }
                    }
                }
            },
        );
    }

    #[inline(always)]
    fn scatter_quads(&self, dy: &[f32], chosen: &[u32], full: &mut [f32]) {
        let count = self.columns.len();
        // What no window reaches.
        if self.width % 2 == 1 {
            full.iter_mut().skip(self.width - 1).step_by(self.width).for_each(|x| *x = 0.0);
        }
        if self.height % 2 == 1 {
            full[(self.height - 1) * self.width..].fill(0.0);
        }
        let lines = dy.chunks_exact(count).zip(chosen.chunks_exact(count));
        for (pair, (dy, chosen)) in full.chunks_exact_mut(2 * self.width).zip(lines) {
            let (upper, lower) = pair.split_at_mut(self.width);
            let pairs = upper.chunks_exact_mut(2).zip(lower.chunks_exact_mut(2));
            for ((&dy, &chosen), (upper, lower)) in dy.iter().zip(chosen).zip(pairs) {
                let at = |place: u32| if chosen == place { dy } else { 0.0 };
                (upper[0], upper[1], lower[0], lower[1]) = (at(0), at(1), at(2), at(3));
            }
        }
    }
}
