//! The columns that a convolution's filters meet: for each element of a filter, what it sees at each place.

use outboard_core::{
    Layer,
    layer::{Extent, Planned},
};

use crate::{ops::pool::image, simd::simd};

#[derive(Debug)]
pub(super) struct Columns {
    channels: usize,
    rows: Axis,
    columns: Axis,
}

/// How filters lie along one dimension.
#[derive(Debug)]
struct Axis {
    size: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
    places: usize,
}

impl Axis {
    /// What element `k` of the filter sees at each place. The first places and the last may lie in the padding: the
    /// range of those that don't, and the input that the first of them sees.
    fn inside(&self, k: usize) -> (usize, usize, usize) {
        let offset = k * self.dilation;
        let first = self.padding.saturating_sub(offset).div_ceil(self.stride).min(self.places);
        // place * stride + offset < size + padding
        let end = (self.size + self.padding).saturating_sub(offset).div_ceil(self.stride).clamp(first, self.places);
        (first, end, (first * self.stride + offset).saturating_sub(self.padding))
    }
}

impl Columns {
    pub(super) fn new(planned: &Planned) -> Self {
        let [channels, height, width] = image(&planned.input);
        let [_, out_height, out_width] = image(&planned.output);
        let flat = |width: usize, height: usize| Extent { height, width };
        let (kernel, stride, padding, dilation) = match planned.layer {
            Layer::Conv1d { kernel, stride, padding, dilation, .. } => {
                (flat(kernel, 1), flat(stride, 1), flat(padding, 0), flat(dilation, 1))
            }
            Layer::Conv2d { kernel, stride, padding, dilation, .. } => (kernel, stride, padding, dilation),
            ref other => unreachable!("{} is no convolution", other.kind()),
        };
        let axis = |size, places, pick: fn(Extent) -> usize| Axis {
            size,
            kernel: pick(kernel),
            stride: pick(stride),
            padding: pick(padding),
            dilation: pick(dilation),
            places,
        };
        Self { channels, rows: axis(height, out_height, |e| e.height), columns: axis(width, out_width, |e| e.width) }
    }

    /// Elements of a sample.
    pub(super) fn sample(&self) -> usize {
        self.channels * self.rows.size * self.columns.size
    }

    /// Elements of a filter over all channels.
    pub(super) fn rows(&self) -> usize {
        self.channels * self.rows.kernel * self.columns.kernel
    }

    /// Places of a filter.
    pub(super) fn places(&self) -> usize {
        self.rows.places * self.columns.places
    }

    /// Whether every filter sees one element, so that the columns are the sample.
    fn are_the_sample(&self) -> bool {
        [&self.rows, &self.columns].iter().all(|axis| axis.kernel == 1 && axis.stride == 1 && axis.padding == 0)
    }

    /// The columns of a sample, row-major.
    pub(super) fn of<'a>(&self, x: &'a [f32], scratch: &'a mut Vec<f32>) -> &'a [f32] {
        if self.are_the_sample() {
            return x;
        }
        scratch.resize(self.rows() * self.places(), 0.0);
        simd(
            #[inline(always)]
            || self.fill(x, scratch),
        );
        scratch
    }

    #[inline(always)]
    fn fill(&self, x: &[f32], columns: &mut [f32]) {
        let (rows, cols) = (&self.rows, &self.columns);
        let mut out = columns.chunks_exact_mut(self.places());
        for plane in x.chunks_exact(rows.size * cols.size) {
            for row_k in 0..rows.kernel {
                let (top, bottom, first_row) = rows.inside(row_k);
                for col_k in 0..cols.kernel {
                    let (left, right, first_col) = cols.inside(col_k);
                    let Some(out) = out.next() else { return };
                    out[..top * cols.places].fill(0.0);
                    out[bottom * cols.places..].fill(0.0);
                    let lines = out[top * cols.places..bottom * cols.places].chunks_exact_mut(cols.places);
                    for (line, to) in lines.enumerate() {
                        let from = &plane[(first_row + line * rows.stride) * cols.size + first_col..];
                        to[..left].fill(0.0);
                        to[right..].fill(0.0);
                        match cols.stride {
                            1 => to[left..right].copy_from_slice(&from[..right - left]),
                            stride => {
                                to[left..right].iter_mut().zip(from.iter().step_by(stride)).for_each(|(t, f)| *t = *f);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The gradient of a sample, from that of its columns, which `fill` computes.
    pub(super) fn gather(&self, dx: &mut [f32], scratch: &mut Vec<f32>, fill: impl FnOnce(&mut [f32])) {
        if self.are_the_sample() {
            return fill(dx);
        }
        scratch.resize(self.rows() * self.places(), 0.0);
        fill(scratch);
        simd(
            #[inline(always)]
            || self.add_up(dx, scratch),
        );
    }

    #[inline(always)]
    fn add_up(&self, dx: &mut [f32], columns: &[f32]) {
        let (rows, cols) = (&self.rows, &self.columns);
        dx.fill(0.0);
        let mut columns = columns.chunks_exact(self.places());
        for plane in dx.chunks_exact_mut(rows.size * cols.size) {
            for row_k in 0..rows.kernel {
                let (top, bottom, first_row) = rows.inside(row_k);
                for col_k in 0..cols.kernel {
                    let (left, right, first_col) = cols.inside(col_k);
                    let Some(from) = columns.next() else { return };
                    let lines = from[top * cols.places..bottom * cols.places].chunks_exact(cols.places);
                    for (line, from) in lines.enumerate() {
                        let to = &mut plane[(first_row + line * rows.stride) * cols.size + first_col..];
                        let from = &from[left..right];
                        match cols.stride {
                            1 => to.iter_mut().zip(from).for_each(|(t, f)| *t += f),
                            stride => to.iter_mut().step_by(stride).zip(from).for_each(|(t, f)| *t += f),
                        }
                    }
                }
            }
        }
    }
}
