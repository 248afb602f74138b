//! Long short-term memory.

use super::{Part, Shape, Weights, add_bias, gates};
use crate::{
    matmul::{Matrix, add_product_strided, product_here},
    simd::{sigmoid, simd, tanh},
};

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
            let state = Matrix::strided(&before[t * states..], rows, states, positions * states);
            add_product_strided(now, positions * all, state, weights.state);
        }
        simd(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let at = (row * positions + t) * states;
                    let [input, forget, new, output] = gates::<4>(&mut now[row * positions * all..][..all]);
                    let (old, cell) = cells[..at + states].split_at_mut(at);
                    let old = if t > 0 { &old[at - states..] } else { &[] };
                    let state = &mut y[at..][..states];
                    for i in 0..states {
                        let gates = [sigmoid(input[i]), sigmoid(forget[i]), tanh(new[i]), sigmoid(output[i])];
                        let kept = if t > 0 { gates[1] * old[i] } else { 0.0 };
                        cell[i] = kept + gates[0] * gates[2];
                        state[i] = gates[3] * tanh(cell[i]);
                        (input[i], forget[i], new[i], output[i]) = (gates[0], gates[1], gates[2], gates[3]);
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
    scratch.resize(2 * rows * states, 0.0);
    let (later, cell_slopes) = scratch.split_at_mut(rows * states);
    for t in (0..positions).rev() {
        let now = &mut values[t * all..];
        simd(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let at = (row * positions + t) * states;
                    let [input, forget, new, output] = gates::<4>(&mut now[row * positions * all..][..all]);
                    let (cell, dy) = (&cells[at..][..states], &dy[at..][..states]);
                    let old = if t > 0 { &cells[at - states..][..states] } else { &[] };
                    let (later, cell_slope) =
                        (&later[row * states..][..states], &mut cell_slopes[row * states..][..states]);
                    for i in 0..states {
                        let (a, f, g, o) = (input[i], forget[i], new[i], output[i]);
                        let old = if t > 0 { old[i] } else { 0.0 };
                        let state = dy[i] + later[i];
                        let bent = tanh(cell[i]);
                        let slope = cell_slope[i] + state * o * (1.0 - bent * bent);
                        input[i] = slope * g * a * (1.0 - a);
                        forget[i] = slope * old * f * (1.0 - f);
                        new[i] = slope * a * (1.0 - g * g);
                        output[i] = state * bent * o * (1.0 - o);
                        cell_slope[i] = slope * f;
                    }
                }
            },
        );
        if t > 0 {
            let slopes = Matrix::strided(now, rows, all, positions * all);
            product_here(later, slopes, weights.state.transposed());
        }
    }
}
