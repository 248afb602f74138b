//! Long short-term memory.

use super::{Part, Shape, Weights, add_bias, gates};
use crate::simd::{sigmoid, simd, tanh};

/// From the inputs' share of the gates to the states.
pub(super) fn forward(shape: Shape, part: &mut Part, weights: Weights<'_>, y: &mut [f32]) {
    let Shape { positions, states, gates: all, .. } = shape;
    let Part { gates: values, before, cells, .. } = part;
    let rows = y.len() / (positions * states);
    if let Some(biases) = weights.biases {
        biases.iter().for_each(|bias| add_bias(values, bias));
    }
    for t in 0..positions {
        let now = &mut values[t * all..];
        if t > 0 {
            let state = &before[t * states..];
            weights.state.multiply(rows, state, now, [positions * states, positions * all], true);
        }
        simd(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let at = (row * positions + t) * states;
                    let [input, forget, new, output] = gates::<4>(&mut now[row * positions * all..][..all], states);
                    let (old, cell) = cells[..at + states].split_at_mut(at);
                    let (cell, state) = (&mut cell[..states], &mut y[at..][..states]);
                    for i in 0..states {
                        input[i] = sigmoid(input[i]);
                        forget[i] = sigmoid(forget[i]);
                        new[i] = tanh(new[i]);
                        output[i] = sigmoid(output[i]);
                        cell[i] = input[i] * new[i];
                    }
                    if t > 0 {
                        let old = &old[at - states..][..states];
                        for i in 0..states {
                            cell[i] += forget[i] * old[i];
                        }
                    }
                    for i in 0..states {
                        state[i] = output[i] * tanh(cell[i]);
                    }
                    if t + 1 < positions {
                        before[at + states..][..states].copy_from_slice(state);
                    }
                }
            },
        );
    }
}

/// From the gradients of the states to those of the gates.
pub(super) fn backward(shape: Shape, part: &mut Part, weights: Weights<'_>, dy: &[f32]) {
    let Shape { positions, states, gates: all, .. } = shape;
    let Part { gates: values, cells, scratch, .. } = part;
    let rows = dy.len() / (positions * states);
    // Gradients of the state and of the cell, from the position after.
    scratch.clear();
    scratch.resize((2 * rows + 1) * states, 0.0);
    let (later, rest) = scratch.split_at_mut(rows * states);
    // Before the first position there is nothing.
    let (cell_slopes, nothing) = rest.split_at_mut(rows * states);
    for t in (0..positions).rev() {
        let now = &mut values[t * all..];
        simd(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let at = (row * positions + t) * states;
                    let [input, forget, new, output] = gates::<4>(&mut now[row * positions * all..][..all], states);
                    let (cell, dy) = (&cells[at..][..states], &dy[at..][..states]);
                    let old = if t > 0 { &cells[at - states..][..states] } else { &nothing[..states] };
                    let (later, cell_slope) =
                        (&later[row * states..][..states], &mut cell_slopes[row * states..][..states]);
                    for i in 0..states {
                        let (a, f, g, o) = (input[i], forget[i], new[i], output[i]);
                        let state = dy[i] + later[i];
                        let bent = tanh(cell[i]);
                        let slope = cell_slope[i] + state * o * (1.0 - bent * bent);
                        input[i] = slope * g * a * (1.0 - a);
                        forget[i] = slope * old[i] * f * (1.0 - f);
                        new[i] = slope * a * (1.0 - g * g);
                        output[i] = state * bent * o * (1.0 - o);
                        cell_slope[i] = slope * f;
                    }
                }
            },
        );
        if t > 0 {
            weights.state.multiply(rows, now, later, [positions * all, states], false);
        }
    }
}
