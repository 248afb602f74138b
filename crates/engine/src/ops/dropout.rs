//! Dropout by the protocol's mask, which is worked out again on the way back instead of being kept.

use outboard_protocol::random::DropoutMask;

use super::{Op, Pass, map};
use crate::parameters::Parameters;

#[derive(Debug)]
pub(crate) struct Dropout {
    pub(crate) width: usize,
    /// Its number in the protocol.
    pub(crate) number: u32,
    pub(crate) p: f64,
}

impl Dropout {
    fn apply(&self, pass: Pass<'_>, x: &[f32], y: &mut [f32]) {
        if !pass.training || self.p == 0.0 {
            y.copy_from_slice(x);
            return;
        }
        let mask = DropoutMask::new(pass.seed, self.number, pass.step, self.p);
        let scale = (1.0 / (1.0 - self.p)) as f32;
        map(x, y, |i, x| if mask.keeps(i as u32) { x * scale } else { 0.0 });
    }
}

impl Op for Dropout {
    fn width(&self) -> usize {
        self.width
    }

    fn forward(&mut self, pass: Pass<'_>, _: &Parameters, x: &[f32], y: &mut [f32]) {
        self.apply(pass, x, y);
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
        if let Some(dx) = dx {
            self.apply(pass, dy, dx);
        }
    }
}
