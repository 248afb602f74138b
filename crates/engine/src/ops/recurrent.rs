//! Recurrent layers. A part of the batch goes through all positions on one thread, forward and back; gradients of
//! weights follow, cut by outputs.

mod gru;
mod lstm;

use outboard_core::layer::Planned;
use rayon::prelude::*;

use super::{Op, Pass, parts_of};
use crate::{
    matmul::{Matrix, add_product_here, product_here},
    parameters::{Parameters, Slot},
    simd::simd,
    tiles::Panels,
};

/// Rows of the batch in one part: enough for products, as a position is one.
const ROWS: usize = 32;

/// Inputs whose weights one thread updates at a time.
const BLOCK: usize = 32;

/// What is done at each position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Gates: input, forget, cell, output.
    Lstm,
    /// Gates: reset, update, new.
    Gru,
}

#[derive(Debug)]
pub(crate) struct Recurrent {
    shape: Shape,
    cell: Cell,
    /// Of the input's weight, the state's weight, and their biases where there are some.
    slots: Vec<Slot>,
    parts: Vec<Part>,
    /// The state's weight, laid out for the products at each position; its transpose on the way back.
    panels: Panels,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    positions: usize,
    inputs: usize,
    /// Features of the state.
    states: usize,
    /// All gates together.
    gates: usize,
}

/// What a part leaves on its way forward and back. Positions follow each other within a row of the batch.
#[derive(Debug, Default)]
struct Part {
    /// The gates after their functions; on the way back, the gradients of what came in from `x`.
    gates: Vec<f32>,
    /// The state before each position.
    before: Vec<f32>,
    /// LSTM: the cell after each position. GRU: what the state gives to the new gate.
    cells: Vec<f32>,
    /// GRU: the gradients of what came in from the state, where they differ.
    from_state: Vec<f32>,
    scratch: Vec<f32>,
}

/// Values of the weights.
#[derive(Clone, Copy)]
struct Weights<'a> {
    /// As it lies, `[in, out]`.
    input: Matrix<'a>,
    state: &'a Panels,
    biases: Option<[&'a [f32]; 2]>,
}

impl Recurrent {
    pub(crate) fn new(planned: &Planned, cell: Cell, parameters: &Parameters) -> Self {
        let gates = planned.parameters[0].shape[0];
        let shape = Shape { positions: planned.input[0], inputs: planned.input[1], states: planned.output[1], gates };
        let slots = planned.parameters.iter().map(|p| parameters.slot(&p.name)).collect();
        Self { shape, cell, slots, parts: Vec::new(), panels: Panels::default() }
    }

    /// Lays the state's weight out.
    fn fill_panels(&mut self, parameters: &Parameters, back: bool) {
        let state = Matrix::new(parameters.values(self.slots[1]), self.shape.states, self.shape.gates);
        self.panels.fill(if back { state.transposed() } else { state });
    }
}

fn weights<'a>(shape: Shape, slots: &[Slot], panels: &'a Panels, parameters: &'a Parameters) -> Weights<'a> {
    let values = |i: usize| parameters.values(slots[i]);
    let input = Matrix::new(values(0), shape.inputs, shape.gates);
    Weights { input, state: panels, biases: (slots.len() == 4).then(|| [values(2), values(3)]) }
}

impl Op for Recurrent {
    fn width(&self) -> usize {
        self.shape.positions * self.shape.states
    }

    fn forward(&mut self, pass: Pass<'_>, parameters: &Parameters, x: &[f32], y: &mut [f32]) {
        self.fill_panels(parameters, false);
        let (shape, cell) = (self.shape, self.cell);
        let weights = weights(shape, &self.slots, &self.panels, parameters);
        let count = pass.rows.div_ceil(ROWS);
        if self.parts.len() < count {
            self.parts.resize_with(count, Part::default);
        }
        let (before, after) = (shape.positions * shape.inputs, shape.positions * shape.states);
        let samples = x.par_chunks(ROWS * before).zip(y.par_chunks_mut(ROWS * after)).zip(&mut self.parts);
        samples.with_max_len(1).for_each(|((x, y), part)| {
            let rows = x.len() / before;
            part.gates.resize(rows * shape.positions * shape.gates, 0.0);
            part.before.resize(y.len(), 0.0);
            part.cells.resize(y.len(), 0.0);
            let input = Matrix::new(x, rows * shape.positions, shape.inputs);
            product_here(&mut part.gates, input, weights.input);
            match cell {
                Cell::Lstm => lstm::forward(shape, part, weights, y),
                Cell::Gru => gru::forward(shape, part, weights, y),
            }
            if !pass.training {
                // Only the way back needs it, and evaluation takes many rows.
                *part = Part::default();
            }
        });
    }

    fn backward(
        &mut self,
        pass: Pass<'_>,
        parameters: &mut Parameters,
        x: &[f32],
        _: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        self.fill_panels(parameters, true);
        let (shape, cell) = (self.shape, self.cell);
        let weights = weights(shape, &self.slots, &self.panels, parameters);
        let count = pass.rows.div_ceil(ROWS);
        let (before, after) = (shape.positions * shape.inputs, shape.positions * shape.states);
        let parts: Vec<_> = self.parts[..count].iter_mut().zip(parts_of(dx, ROWS * before, count)).collect();
        dy.par_chunks(ROWS * after).zip(parts).with_max_len(1).for_each(|(dy, (part, dx))| {
            match cell {
                Cell::Lstm => lstm::backward(shape, part, weights, dy),
                Cell::Gru => gru::backward(shape, part, weights, dy),
            }
            if let Some(dx) = dx {
                let slope = Matrix::new(&part.gates, dx.len() / shape.inputs, shape.gates);
                product_here(dx, slope, weights.input.transposed());
            }
        });

        let parts: Vec<_> = x.chunks(ROWS * before).zip(&self.parts).collect();
        let sizes = [BLOCK * shape.gates, BLOCK * shape.gates, shape.gates, shape.gates];
        let slots: Vec<_> = self.slots.iter().copied().zip(sizes).collect();
        parameters.update(&slots, |place, index, gradient| {
            gradient.fill(0.0);
            for &(x, part) in &parts {
                let from_state = if cell == Cell::Gru { &part.from_state } else { &part.gates };
                let (input, inputs, slope) = match place % 2 {
                    0 => (x, shape.inputs, &part.gates),
                    _ => (&part.before[..], shape.states, from_state),
                };
                let rows = slope.len() / shape.gates;
                let slope = Matrix::new(slope, rows, shape.gates);
                match place {
                    0 | 1 => {
                        let input = Matrix::new(input, rows, inputs);
                        let input = input.columns(index * BLOCK, gradient.len() / shape.gates);
                        add_product_here(gradient, input.transposed(), slope);
                    }
                    _ => slope.add_rows(gradient),
                }
            }
        });
    }

    fn is_trained(&self, parameters: &Parameters) -> bool {
        self.slots.iter().any(|slot| parameters.is_trained(*slot))
    }
}

/// Adds a bias to rows.
fn add_bias(x: &mut [f32], bias: &[f32]) {
    simd(
        #[inline(always)]
        || {
            for x in x.chunks_exact_mut(bias.len()) {
                x.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
        },
    );
}

/// The gates of one row at one position, apart, each with `size` elements.
#[inline(always)]
fn gates<const N: usize>(row: &mut [f32], size: usize) -> [&mut [f32]; N] {
    let mut rest = row;
    std::array::from_fn(|_| {
        let (gate, others) = std::mem::take(&mut rest).split_at_mut(size);
        rest = others;
        &mut gate[..size]
    })
}
