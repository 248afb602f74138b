//! The columns that a convolution's filters meet: for each element of a filter, what it sees at each place.

use outboard_core::{
    Layer,
    layer::{Extent, Planned},
};

use crate::{
    ops::pool::image,
    simd::{simd, update},
};

#[derive(Debug)]
pub(super) struct Columns {
    channels: usize,
    rows: Axis,
    columns: Axis,
    /// For each element of a filter, where it lies within the input.
    views: Vec<View>,
}

/// Where an element of a filter lies within the input: at which places, and what the first of them sees.
#[derive(Clone, Copy, Debug)]
struct View {
    top: usize,
    bottom: usize,
    first_row: usize,
    left: usize,
    right: usize,
    first_col: usize,
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
        let (rows, columns) = (axis(height, out_height, |e| e.height), axis(width, out_width, |e| e.width));
        let views = (0..rows.kernel)
            .flat_map(|row| (0..columns.kernel).map(move |column| (row, column)))
            .map(|(row, column)| {
                let (top, bottom, first_row) = rows.inside(row);
                let (left, right, first_col) = columns.inside(column);
                View { top, bottom, first_row, left, right, first_col }
            })
            .collect();
        Self { channels, rows, columns, views }
    }

    /// Whether a filter's element sees a sample's elements in their order, but for those that wrap around an edge.
    fn are_shifts(&self) -> bool {
        self.rows.stride == 1 && self.columns.stride == 1 && self.columns.places == self.columns.size
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
        let planes = x.chunks_exact(rows.size * cols.size);
        let shifts = self.are_shifts();
        let views = planes.flat_map(|plane| self.views.iter().map(move |view| (plane, view)));
        for (out, (plane, view)) in columns.chunks_exact_mut(self.places()).zip(views) {
            let View { top, bottom, first_row, left, right, first_col } = *view;
            out[..top * cols.places].fill(0.0);
            out[bottom * cols.places..].fill(0.0);
            let inside = &mut out[top * cols.places..bottom * cols.places];
            if shifts {
                if let Some(length) = self.shift(view) {
                    inside[left..][..length].copy_from_slice(&plane[first_row * cols.size + first_col..][..length]);
                }
                self.clear_wrapped(view, inside);
                continue;
            }
            for (line, to) in inside.chunks_exact_mut(cols.places).enumerate() {
                let from = &plane[((first_row + line * rows.stride) * cols.size + first_col).min(plane.len())..];
                to[..left].fill(0.0);
                to[right..].fill(0.0);
                to[left..right].iter_mut().zip(from.iter().step_by(cols.stride)).for_each(|(to, x)| *to = *x);
            }
        }
    }

    /// Elements from the first that a shift sees to the last.
    fn shift(&self, view: &View) -> Option<usize> {
        let View { top, bottom, left, right, .. } = *view;
        (top < bottom && left < right).then(|| (bottom - top - 1) * self.columns.places + right - left)
    }

    /// Zeroes what a shift saw around an edge.
    #[inline(always)]
    fn clear_wrapped(&self, view: &View, inside: &mut [f32]) {
        let View { left, right, .. } = *view;
        let places = self.columns.places;
        if left > 0 || right < places {
            for line in inside.chunks_exact_mut(places) {
                line[..left].iter_mut().for_each(|x| *x = 0.0);
                line[right..].iter_mut().for_each(|x| *x = 0.0);
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
    fn add_up(&self, dx: &mut [f32], columns: &mut [f32]) {
        let (rows, cols) = (&self.rows, &self.columns);
        let shifts = self.are_shifts();
        dx.fill(0.0);
        let planes = dx.chunks_exact_mut(rows.size * cols.size);
        for (plane, columns) in planes.zip(columns.chunks_exact_mut(self.views.len() * self.places())) {
            for (from, view) in columns.chunks_exact_mut(self.places()).zip(&self.views) {
                let View { top, bottom, first_row, left, right, first_col } = *view;
                let inside = &mut from[top * cols.places..bottom * cols.places];
                if shifts {
                    self.clear_wrapped(view, inside);
                    if let Some(length) = self.shift(view) {
                        let to = &mut plane[first_row * cols.size + first_col..][..length];
                        update(to, [&inside[left..][..length]], |sum, [x]| sum + x);
                    }
                    continue;
                }
                for (line, from) in inside.chunks_exact(cols.places).enumerate() {
                    let start = ((first_row + line * rows.stride) * cols.size + first_col).min(plane.len());
                    let to = plane[start..].iter_mut().step_by(cols.stride);
                    to.zip(&from[left..right]).for_each(|(to, x)| *to += x);
                }
            }
        }
    }
}
