//! One vector for a whole sequence: the mean of its positions, or the last one.

use outboard_core::layer::Planned;

use super::{Op, Pass};
use crate::{parameters::Parameters, simd::simd};

/// Where a layer's positions may be padding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequence {
    pub(super) positions: usize,
    pub(super) features: usize,
    padded: bool,
}

impl Sequence {
    pub(super) fn new(planned: &Planned) -> Self {
        Self { positions: planned.input[0], features: planned.input[1], padded: planned.padded }
    }

    /// For each position of a row, whether it is padding; empty where nothing is.
    pub(super) fn padding<'a>(&self, pass: Pass<'a>, row: usize) -> &'a [bool] {
        match pass.padding {
            marks if self.padded && !marks.is_empty() => &marks[row * self.positions..][..self.positions],
            _ => &[],
        }
    }

    /// Elements of a sample.
    pub(super) fn width(&self) -> usize {
        self.positions * self.features
    }
}

/// The mean over positions.
#[derive(Debug)]
pub(crate) struct MeanPool(Sequence);

impl MeanPool {
    pub(crate) fn new(planned: &Planned) -> Self {
        Self(Sequence::new(planned))
    }

    /// Each position's share in the mean of a row.
    fn shares(&self, pass: Pass<'_>, row: usize) -> impl Fn(usize) -> f32 {
        let padding = self.0.padding(pass, row);
        let count = self.0.positions - padding.iter().filter(|padding| **padding).count();
        let share = 1.0 / count.max(1) as f32;
        move |position| if padding.get(position) == Some(&true) { 0.0 } else { share }
    }
}

impl Op for MeanPool {
    fn width(&self) -> usize {
        self.0.features
    }

    fn forward(&mut self, pass: Pass<'_>, _: &Parameters, x: &[f32], y: &mut [f32]) {
        let features = self.0.features;
        for (row, (x, y)) in x.chunks_exact(self.0.width()).zip(y.chunks_exact_mut(features)).enumerate() {
            let share = self.shares(pass, row);
            y.fill(0.0);
            for (position, x) in x.chunks_exact(features).enumerate() {
                let share = share(position);
                simd(
                    #[inline(always)]
                    || y.iter_mut().zip(x).for_each(|(y, x)| *y += if share == 0.0 { 0.0 } else { share * x }),
                );
            }
        }
    }

    fn backward(
        &mut self,
        pass: Pass<'_>,
        _: &mut Parameters,
        _: &[f32],
        _: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        let Some(dx) = dx else { return };
        let features = self.0.features;
        for (row, (dx, dy)) in dx.chunks_exact_mut(self.0.width()).zip(dy.chunks_exact(features)).enumerate() {
            let share = self.shares(pass, row);
            for (position, dx) in dx.chunks_exact_mut(features).enumerate() {
                let share = share(position);
                simd(
                    #[inline(always)]
                    || dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = share * dy),
                );
            }
        }
    }
}

/// The last position that is no padding.
#[derive(Debug)]
pub(crate) struct LastPool(Sequence);

impl LastPool {
    pub(crate) fn new(planned: &Planned) -> Self {
        Self(Sequence::new(planned))
    }

    fn last(&self, pass: Pass<'_>, row: usize) -> usize {
        self.0.padding(pass, row).iter().rposition(|padding| !padding).unwrap_or(self.0.positions - 1)
    }
}

impl Op for LastPool {
    fn width(&self) -> usize {
        self.0.features
    }

    fn forward(&mut self, pass: Pass<'_>, _: &Parameters, x: &[f32], y: &mut [f32]) {
        let features = self.0.features;
        for (row, (x, y)) in x.chunks_exact(self.0.width()).zip(y.chunks_exact_mut(features)).enumerate() {
            y.copy_from_slice(&x[self.last(pass, row) * features..][..features]);
        }
    }

    fn backward(
        &mut self,
        pass: Pass<'_>,
        _: &mut Parameters,
        _: &[f32],
        _: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        let Some(dx) = dx else { return };
        let features = self.0.features;
        dx.fill(0.0);
        for (row, (dx, dy)) in dx.chunks_exact_mut(self.0.width()).zip(dy.chunks_exact(features)).enumerate() {
            dx[self.last(pass, row) * features..][..features].copy_from_slice(dy);
        }
    }
}
