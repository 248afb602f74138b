//! Ops one after another, with the buffers between them.

use outboard_core::layer::Planned;

use super::{Op, Pass, build};
use crate::parameters::Parameters;

/// The ops of a list of layers.
#[derive(Debug)]
pub(crate) struct Chain {
    ops: Vec<Box<dyn Op>>,
    /// Elements of a sample before the first op, then after each.
    widths: Vec<usize>,
    /// The output of each op.
    outputs: Vec<Vec<f32>>,
    /// Gradients, used in turn. The first holds that of the output, and in the end that of the input.
    slopes: [Vec<f32>; 2],
}

impl Chain {
    /// Nothing is allocated yet.
    pub(crate) fn new(plan: &[Planned], input: usize, parameters: &Parameters) -> Self {
        let ops = build(plan, parameters);
        let widths = std::iter::once(input).chain(ops.iter().map(|op| op.width())).collect();
        Self { outputs: vec![Vec::new(); ops.len()], ops, widths, slopes: [Vec::new(), Vec::new()] }
    }

    /// Elements of one sample before the first op, then after each.
    pub(crate) fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// Elements of one sample after it.
    pub(crate) fn width(&self) -> usize {
        self.widths[self.ops.len()]
    }

    /// Allocates outputs for so many rows.
    pub(crate) fn reserve(&mut self, rows: usize) {
        for (output, width) in self.outputs.iter_mut().zip(&self.widths[1..]) {
            if output.len() < width * rows {
                *output = vec![0.0; width * rows];
            }
        }
    }

    /// Allocates gradients for so many rows.
    pub(crate) fn reserve_slopes(&mut self, rows: usize) {
        let widest = self.widths.iter().max().map_or(0, |width| width * rows);
        if self.slopes[0].len() < widest {
            self.slopes = [vec![0.0; widest], vec![0.0; widest]];
        }
    }

    /// Runs `x`, row after row, through the ops.
    pub(crate) fn forward(&mut self, pass: Pass<'_>, parameters: &Parameters, x: &[f32]) {
        self.reserve(pass.rows);
        for (i, op) in self.ops.iter_mut().enumerate() {
            let (before, after) = self.outputs.split_at_mut(i);
            let x = before.last().map_or(x, |x| &x[..pass.rows * self.widths[i]]);
            op.forward(pass, parameters, x, &mut after[0][..pass.rows * self.widths[i + 1]]);
        }
    }

    /// What the last pass made of `x`.
    pub(crate) fn output<'a>(&'a self, x: &'a [f32], rows: usize) -> &'a [f32] {
        self.outputs.last().map_or(x, |y| &y[..rows * self.width()])
    }

    /// The output for `x`, and where its gradient is to be put.
    pub(crate) fn output_and_slope<'a>(&'a mut self, x: &'a [f32], rows: usize) -> (&'a [f32], &'a mut [f32]) {
        self.reserve_slopes(rows);
        let width = self.width();
        (self.outputs.last().map_or(x, |y| &y[..rows * width]), &mut self.slopes[0][..rows * width])
    }

    /// Updates the parameters from the output's gradient; gives that of `x` where it is wanted.
    pub(crate) fn backward(
        &mut self,
        pass: Pass<'_>,
        parameters: &mut Parameters,
        x: &[f32],
        wanted: bool,
    ) -> Option<&[f32]> {
        let rows = pass.rows;
        let trained = self.ops.iter().position(|op| op.is_trained(parameters));
        let first = if wanted { 0 } else { trained.unwrap_or(self.ops.len()) };
        let [mut dy, mut dx] = std::mem::take(&mut self.slopes);
        for (i, op) in self.ops.iter_mut().enumerate().skip(first).rev() {
            let [before, after] = [self.widths[i], self.widths[i + 1]];
            let x = if i == 0 { x } else { &self.outputs[i - 1][..rows * before] };
            let y = &self.outputs[i][..rows * after];
            let below = (wanted || i > first).then(|| &mut dx[..rows * before]);
            op.backward(pass, parameters, x, y, &mut dy[..rows * after], below);
            std::mem::swap(&mut dy, &mut dx);
        }
        self.slopes = [dy, dx];
        wanted.then(|| &self.slopes[0][..rows * self.widths[0]])
    }

    /// See [`Op::settle`].
    pub(crate) fn settle(&mut self, parameters: &mut Parameters) {
        self.ops.iter_mut().for_each(|op| op.settle(parameters));
    }

    /// Whether it has a parameter that is trained.
    pub(crate) fn is_trained(&self, parameters: &Parameters) -> bool {
        self.ops.iter().any(|op| op.is_trained(parameters))
    }
}
