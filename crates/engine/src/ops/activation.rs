//! Element-wise functions.

use outboard_core::{Layer, layer::GeluApproximation};

use super::{Op, Pass, map, map_gradient};
use crate::{
    parameters::Parameters,
    simd::{exp, sigmoid, tanh},
};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Relu,
    Gelu,
    GeluTanh,
    Silu,
    Tanh,
    Sigmoid,
}

impl Kind {
    /// The function of an element-wise layer.
    pub(crate) fn of(layer: &Layer) -> Self {
        match layer {
            Layer::Relu => Self::Relu,
            Layer::Gelu { approximate: GeluApproximation::None } => Self::Gelu,
            Layer::Gelu { approximate: GeluApproximation::Tanh } => Self::GeluTanh,
            Layer::Silu => Self::Silu,
            Layer::Tanh => Self::Tanh,
            Layer::Sigmoid => Self::Sigmoid,
            other => unreachable!("{} is not element-wise", other.kind()),
        }
    }
}

/// One element-wise function.
#[derive(Debug)]
pub(crate) struct Activation {
    pub(crate) width: usize,
    pub(crate) kind: Kind,
}

/// The normal distribution's integral.
#[inline(always)]
fn phi(x: f32) -> f32 {
    0.5 * libm::erfcf(-x * std::f32::consts::FRAC_1_SQRT_2)
}

/// `sqrt(2 / pi)`.
const ROOT: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// `x Φ(x)`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    x * phi(x)
}

/// The slope of [`gelu`]: Φ(x), and x times its density.
#[inline(always)]
pub(crate) fn gelu_slope(x: f32) -> f32 {
    phi(x) + x * exp(-0.5 * x * x) * 0.398_942_3
}

impl Op for Activation {
    fn width(&self) -> usize {
        self.width
    }

    fn forward(&mut self, _: Pass<'_>, _: &Parameters, x: &[f32], y: &mut [f32]) {
        match self.kind {
            Kind::Relu => map(x, y, |_, x| x.max(0.0)),
            Kind::Gelu => map(x, y, |_, x| gelu(x)),
            Kind::GeluTanh => map(x, y, |_, x| 0.5 * x * (1.0 + tanh(ROOT * (x + CUBIC * x * x * x)))),
            Kind::Silu => map(x, y, |_, x| x * sigmoid(x)),
            Kind::Tanh => map(x, y, |_, x| tanh(x)),
            Kind::Sigmoid => map(x, y, |_, x| sigmoid(x)),
        }
    }

    fn backward(
        &mut self,
        _: Pass<'_>,
        _: &mut Parameters,
        x: &[f32],
        y: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        let Some(dx) = dx else { return };
        match self.kind {
            Kind::Relu => map_gradient(x, y, dy, dx, |_, y, dy| if y > 0.0 { dy } else { 0.0 }),
            Kind::Gelu => map_gradient(x, y, dy, dx, |x, _, dy| dy * gelu_slope(x)),
            Kind::GeluTanh => map_gradient(x, y, dy, dx, |x, _, dy| {
                let t = tanh(ROOT * (x + CUBIC * x * x * x));
                let slope = ROOT * (1.0 + 3.0 * CUBIC * x * x);
                dy * 0.5 * (1.0 + t + x * (1.0 - t * t) * slope)
            }),
            Kind::Silu => map_gradient(x, y, dy, dx, |x, _, dy| {
                let s = sigmoid(x);
                dy * s * (1.0 + x * (1.0 - s))
            }),
            Kind::Tanh => map_gradient(x, y, dy, dx, |_, y, dy| dy * (1.0 - y * y)),
            Kind::Sigmoid => map_gradient(x, y, dy, dx, |_, y, dy| dy * y * (1.0 - y)),
        }
    }
}
