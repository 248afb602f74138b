//! Gated recurrent unit.

use super::{Part, Shape, Weights, add_bias, gates};
use crate::simd::{sigmoid, simd, tanh};

/// From the inputs' share of the gates to the states.
pub(super) fn forward(shape: Shape, part: &mut Part, weights: Weights<'_>, y: &mut [f32]) {
    let Shape { positions, states, gates: all, .. } = shape;
    let Part { gates: values, before, cells, scratch, .. } = part;
    let rows = y.len() / (positions * states);
    if let Some([bias, _]) = weights.biases {
        add_bias(values, bias);
    }
    // What the state gives to the gates.
    scratch.resize(rows * all, 0.0);
    let given = &mut scratch[..rows * all];
    for t in 0..positions {
        match t {
            0 => given.fill(0.0),
            _ => {
                weights.state.multiply(rows, &before[t * states..], given, [positions * states, all], false);
            }
        }
        if let Some([_, bias]) = weights.biases {
            add_bias(given, bias);
        }
        let now = &mut values[t * all..];
        simd(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let at = (row * positions + t) * states;
                    let [reset, update, new] = gates::<3>(&mut now[row * positions * all..][..all], states);
                    let [to_reset, to_update, to_new] = gates::<3>(&mut given[row * all..][..all], states);
                    let kept = &mut cells[at..][..states];
                    kept.copy_from_slice(to_new);
                    let (old, next) = before.split_at_mut(at + states);
                    // Zeroes before the first position.
                    let old = &old[at..][..states];
                    let state = &mut y[at..][..states];
                    for i in 0..states {
                        let r = sigmoid(reset[i] + to_reset[i]);
                        let z = sigmoid(update[i] + to_update[i]);
                        let n = tanh(new[i] + r * to_new[i]);
                        state[i] = (1.0 - z) * n + z * old[i];
                        (reset[i], update[i], new[i]) = (r, z, n);
                    }
                    if t + 1 < positions {
                        next[..states].copy_from_slice(state);
                    }
                }
            },
        );
    }
}

/// From the gradients of the states to those of the gates.
pub(super) fn backward(shape: Shape, part: &mut Part, weights: Weights<'_>, dy: &[f32]) {
    let Shape { positions, states, gates: all, .. } = shape;
    let Part { gates: values, before, cells, from_state, scratch } = part;
    let rows = dy.len() / (positions * states);
    from_state.resize(values.len(), 0.0);
    // The gradient of the state, from the position after.
    scratch.resize(rows * all, 0.0);
    let later = &mut scratch[..rows * states];
    later.fill(0.0);
    for t in (0..positions).rev() {
        let now = &mut values[t * all..];
        let now_from_state = &mut from_state[t * all..];
        simd(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let at = (row * positions + t) * states;
                    let [reset, update, new] = gates::<3>(&mut now[row * positions * all..][..all], states);
                    let [to_reset, to_update, to_new] =
                        gates::<3>(&mut now_from_state[row * positions * all..][..all], states);
                    let (given, old, dy) = (&cells[at..][..states], &before[at..][..states], &dy[at..][..states]);
                    let later = &mut later[row * states..][..states];
                    for i in 0..states {
                        let (r, z, n) = (reset[i], update[i], new[i]);
                        let state = dy[i] + later[i];
                        let to_n = state * (1.0 - z) * (1.0 - n * n);
                        let to_z = state * (old[i] - n) * z * (1.0 - z);
                        let to_r = to_n * given[i] * r * (1.0 - r);
                        (reset[i], update[i], new[i]) = (to_r, to_z, to_n);
                        (to_reset[i], to_update[i], to_new[i]) = (to_r, to_z, to_n * r);
                        later[i] = state * z;
                    }
                }
            },
        );
        if t > 0 {
            weights.state.multiply(rows, now_from_state, later, [positions * all, states], true);
        }
    }
}
