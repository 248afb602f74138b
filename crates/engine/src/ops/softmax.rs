//! Softmax over the last dimension.

use super::{Op, Pass};
use crate::{
    parameters::Parameters,
    simd::{exp, simd},
};

#[derive(Debug)]
pub(crate) struct Softmax {
    pub(crate) width: usize,
    /// Size of the last dimension.
    pub(crate) last: usize,
}

impl Op for Softmax {
    fn width(&self) -> usize {
        self.width
    }

    fn forward(&mut self, _: Pass<'_>, _: &Parameters, x: &[f32], y: &mut [f32]) {
        simd(
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(self.last).zip(y.chunks_exact_mut(self.last)) {
                    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let mut sum = 0.0;
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = exp(x - max);
                        sum += *y;
                    }
                    y.iter_mut().for_each(|y| *y /= sum);
                }
            },
        );
    }

    fn backward(
        &mut self,
        _: Pass<'_>,
        _: &mut Parameters,
        _: &[f32],
        y: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        let Some(dx) = dx else { return };
        simd(
            #[inline(always)]
            || {
                let rows = y.chunks_exact(self.last).zip(dy.chunks_exact(self.last));
                for (dx, (y, dy)) in dx.chunks_exact_mut(self.last).zip(rows) {
                    let dot: f32 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
                    for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                        *dx = y * (dy - dot);
                    }
                }
            },
        );
    }
}
