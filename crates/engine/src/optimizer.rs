//! Fused updates: weights and their state in one pass (`docs/protocol.md`, section 9).

use outboard_core::job::Optimizer;

use crate::simd::simd;

/// Names of an optimizer's state tensors in a checkpoint, in PyTorch's words.
#[must_use]
pub fn state_names(optimizer: &Optimizer) -> &'static [&'static str] {
    match optimizer {
        Optimizer::Sgd { momentum, .. } if *momentum == 0.0 => &[],
        Optimizer::Sgd { .. } => &["momentum_buffer"],
        Optimizer::Adam { .. } | Optimizer::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
    }
}

/// The update of one step, with everything that is the same for all elements worked out.
#[derive(Clone, Copy, Debug)]
pub enum Update {
    /// See [`Optimizer::Sgd`].
    Sgd {
        /// Learning rate.
        lr: f32,
        /// Share of the buffer that is kept.
        momentum: f32,
        /// Share of the gradient that enters the buffer.
        fresh: f32,
        /// L2 penalty.
        weight_decay: f32,
        /// Share of the buffer that Nesterov's step looks ahead by.
        ahead: Option<f32>,
    },
    /// See [`Optimizer::Adam`] and [`Optimizer::AdamW`].
    Adam {
        /// Decays.
        betas: [f32; 2],
        /// Their complements, rounded from the exact value.
        fresh: [f32; 2],
        /// Learning rate over the first bias correction.
        step_size: f32,
        /// Root of the second bias correction.
        correction: f32,
        /// Added to the denominator.
        eps: f32,
        /// L2 penalty, in the gradient.
        weight_decay: f32,
        /// What is left of the weight after decoupled decay.
        keep: f32,
    },
}

impl Update {
    /// The update of step `step` (from 0) at learning rate `lr`.
    #[must_use]
    pub fn new(optimizer: &Optimizer, step: u64, lr: f64) -> Self {
        match *optimizer {
            Optimizer::Sgd { momentum, dampening, weight_decay, nesterov, .. } => Self::Sgd {
                lr: lr as f32,
                // The buffer starts as the first gradient.
                momentum: if step == 0 { 0.0 } else { momentum as f32 },
                fresh: if step == 0 { 1.0 } else { (1.0 - dampening) as f32 },
                weight_decay: weight_decay as f32,
                ahead: nesterov.then_some(momentum as f32),
            },
            Optimizer::Adam { betas, eps, weight_decay, .. } => Self::adam(betas, eps, weight_decay, 1.0, step, lr),
            Optimizer::AdamW { betas, eps, weight_decay, .. } => {
                Self::adam(betas, eps, 0.0, 1.0 - lr * weight_decay, step, lr)
            }
        }
    }

    fn adam(betas: [f64; 2], eps: f64, weight_decay: f64, keep: f64, step: u64, lr: f64) -> Self {
        let correction = betas.map(|beta| 1.0 - beta.powf((step + 1) as f64));
        Self::Adam {
            betas: betas.map(|b| b as f32),
            fresh: betas.map(|b| (1.0 - b) as f32),
            step_size: (lr / correction[0]) as f32,
            correction: correction[1].sqrt() as f32,
            eps: eps as f32,
            weight_decay: weight_decay as f32,
            keep: keep as f32,
        }
    }

    /// Moves `weights` against `gradient`. `first` and `second` are the state, empty where the optimizer has none.
    pub fn apply(&self, weights: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        simd(
            #[inline(always)]
            || match *self {
                Self::Sgd { lr, weight_decay, .. } if first.is_empty() => {
                    for (w, &g) in weights.iter_mut().zip(gradient) {
                        *w -= lr * (g + weight_decay * *w);
                    }
                }
                Self::Sgd { lr, momentum, fresh, weight_decay, ahead } => {
                    for ((w, &g), buffer) in weights.iter_mut().zip(gradient).zip(first) {
                        let g = g + weight_decay * *w;
                        *buffer = momentum * *buffer + fresh * g;
                        *w -= lr * ahead.map_or(*buffer, |ahead| g + ahead * *buffer);
                    }
                }
                Self::Adam { betas, fresh, step_size, correction, eps, weight_decay, keep } => {
                    for (((w, &g), m), v) in weights.iter_mut().zip(gradient).zip(first).zip(second) {
                        let decayed = *w * keep;
                        let g = g + weight_decay * decayed;
                        *m = betas[0] * *m + fresh[0] * g;
                        *v = betas[1] * *v + fresh[1] * g * g;
                        *w = decayed - step_size * *m / (v.sqrt() / correction + eps);
                    }
                }
            },
        );
    }
}

/// The factor of `clip_norm`: `min(1, max_norm / (norm + 1e-6))`, as in PyTorch.
#[must_use]
pub fn clip_factor(max_norm: f64, norm: f64) -> f32 {
    (max_norm / (norm + 1e-6)).min(1.0) as f32
}
