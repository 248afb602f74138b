//! A transformer encoder block: self-attention and two linear layers, each with a residual and a layer norm.
//!
//! A part of the batch goes through the whole block on one thread, forward and back. Gradients of weights follow, cut
//! by outputs.

mod attention;
mod backward;
mod forward;

use outboard_core::{
    Layer,
    layer::{EncoderActivation, Planned},
};
use outboard_protocol::random::DropoutMask;
use rayon::prelude::*;

use self::attention::Heads;
use super::{Op, Pass, layer_norm::Norm, parts_of, positions::Sequence};
use crate::{
    matmul::{Matrix, add_product_here},
    parameters::{Parameters, Slot},
    simd::simd,
    tiles::Panels,
};

/// Positions of a part, about: enough rows for products, few enough to stay in cache.
const PART: usize = 128;

/// Inputs whose weights one thread updates at a time.
const BLOCK: usize = 32;

/// PyTorch's, which `nn.TransformerEncoderLayer` doesn't share with a layer norm by itself.
const EPS: f32 = 1e-5;

#[derive(Debug)]
pub(crate) struct Encoder {
    block: Block,
    slots: Vec<Slot>,
    parts: Vec<Part>,
    /// The four matrices, laid out for a pass; their transposes on the way back.
    panels: [Panels; 4],
}

/// The block's shape and options.
#[derive(Debug)]
struct Block {
    sequence: Sequence,
    heads: Heads,
    /// Features between the two linear layers.
    ff: usize,
    p: f64,
    activation: EncoderActivation,
    norm_first: bool,
    norm: Norm,
    /// Number of its first dropout.
    dropout: u32,
}

/// What a part of the batch leaves on its way forward and back.
#[derive(Debug, Default)]
struct Part {
    /// Attention's input, where it isn't the block's.
    attended: Vec<f32>,
    qkv: Vec<f32>,
    /// Of each row and head.
    probabilities: Vec<f32>,
    context: Vec<f32>,
    /// After the first residual.
    first: Vec<f32>,
    /// The first linear layer's input.
    fed: Vec<f32>,
    /// Before the activation, where the way back needs it.
    raw: Vec<f32>,
    hidden: Vec<f32>,
    /// After the second residual, where that isn't the block's output.
    second: Vec<f32>,
    moments: [Vec<[f32; 2]>; 2],
    slopes: Slopes,
    scratch: Vec<f32>,
}

/// Gradients of a part.
#[derive(Debug, Default)]
struct Slopes {
    qkv: Vec<f32>,
    context: Vec<f32>,
    /// Of what attention and the linear layers add to the residuals.
    added: [Vec<f32>; 2],
    hidden: Vec<f32>,
    /// Of the residuals' sums.
    first: Vec<f32>,
    second: Vec<f32>,
    /// Of the layer norms' outputs; the block's own output has none here.
    normal: [Vec<f32>; 2],
}

/// Values of the weights.
#[derive(Clone, Copy)]
struct Weights<'a> {
    all: [&'a [f32]; 12],
    panels: &'a [Panels; 4],
}

/// Places of the weights, in state-dict order.
const QKV: usize = 0;
const OUT: usize = 2;
const LINEAR: [usize; 2] = [4, 6];
const NORM: [usize; 2] = [8, 10];

impl<'a> Weights<'a> {
    fn pair(&self, place: usize) -> [&'a [f32]; 2] {
        [self.all[place], self.all[place + 1]]
    }

    /// The product with the matrix at `place`, or with its transpose on the way back.
    fn multiply(&self, place: usize, rows: usize, x: &[f32], y: &mut [f32], add: bool) {
        let strides = [x.len() / rows, y.len() / rows];
        self.panels[place / 2].multiply(rows, x, y, strides, add);
    }
}

impl Encoder {
    pub(crate) fn new(planned: &Planned, parameters: &Parameters) -> Self {
        let Layer::TransformerEncoder { heads, ff, dropout, activation, norm_first } = planned.layer else {
            unreachable!("{} is no encoder block", planned.layer.kind())
        };
        let sequence = Sequence::new(planned);
        let features = sequence.features;
        let block = Block {
            sequence,
            heads: Heads::new(sequence, heads),
            ff,
            p: dropout,
            activation,
            norm_first,
            norm: Norm { features, eps: EPS },
            dropout: planned.dropout,
        };
        let slots = planned.parameters.iter().map(|p| parameters.slot(&p.name)).collect();
        Self { block, slots, parts: Vec::new(), panels: Default::default() }
    }

    /// Lays the matrices out, which lie as `[in, out]`.
    fn fill_panels(&mut self, parameters: &Parameters, back: bool) {
        let features = self.block.sequence.features;
        let inputs = [features, features, features, self.block.ff];
        for ((panels, slot), inputs) in self.panels.iter_mut().zip(self.slots.iter().step_by(2)).zip(inputs) {
            let values = parameters.values(*slot);
            let matrix = Matrix::new(values, inputs, values.len() / inputs);
            panels.fill(if back { matrix.transposed() } else { matrix });
        }
    }
}

fn weights<'a>(slots: &[Slot], panels: &'a [Panels; 4], parameters: &'a Parameters) -> Weights<'a> {
    let mut all = [&[][..]; 12];
    all.iter_mut().zip(slots).for_each(|(values, slot)| *values = parameters.values(*slot));
    Weights { all, panels }
}

impl Block {
    /// Rows of the batch in one part.
    fn rows(&self) -> usize {
        (PART / self.sequence.positions).max(1)
    }

    /// The mask of one of its dropouts, with the factor of what is kept.
    fn mask(&self, pass: Pass<'_>, number: u32) -> Option<(DropoutMask, f32)> {
        let number = self.dropout + (number << 16);
        let is_on = pass.training && self.p > 0.0;
        is_on.then(|| (DropoutMask::new(pass.seed, number, pass.step, self.p), (1.0 / (1.0 - self.p)) as f32))
    }
}

/// Zeroes what a dropout drops. `first` is the number of the first element in the batch.
fn drop_out(mask: Option<(DropoutMask, f32)>, first: usize, x: &mut [f32]) {
    let Some((mask, scale)) = mask else { return };
    simd(
        #[inline(always)]
        || {
            for (i, x) in x.iter_mut().enumerate() {
                *x = if mask.keeps((first + i) as u32) { *x * scale } else { 0.0 };
            }
        },
    );
}

impl Op for Encoder {
    fn width(&self) -> usize {
        self.block.sequence.width()
    }

    fn forward(&mut self, pass: Pass<'_>, parameters: &Parameters, x: &[f32], y: &mut [f32]) {
        self.fill_panels(parameters, false);
        let weights = weights(&self.slots, &self.panels, parameters);
        let (block, rows) = (&self.block, self.block.rows());
        let size = rows * self.block.sequence.width();
        let count = pass.rows.div_ceil(rows);
        if self.parts.len() < count {
            self.parts.resize_with(count, Part::default);
        }
        let samples = x.par_chunks(size).zip(y.par_chunks_mut(size)).zip(&mut self.parts).enumerate();
        samples.with_max_len(1).for_each(|(index, ((x, y), part))| {
            block.forward(part, pass, index * rows, weights, x, y);
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
        let dy: &[f32] = dy;
        self.fill_panels(parameters, true);
        let weights = weights(&self.slots, &self.panels, parameters);
        let (block, rows) = (&self.block, self.block.rows());
        let size = rows * self.block.sequence.width();
        let count = pass.rows.div_ceil(rows);
        let parts: Vec<_> = self.parts[..count].iter_mut().zip(parts_of(dx, size, count)).collect();
        let samples = x.par_chunks(size).zip(dy.par_chunks(size)).zip(parts).enumerate();
        samples.with_max_len(1).for_each(|(index, ((x, dy), (part, dx)))| {
            block.backward(part, pass, index * rows, weights, [x, dy], dx);
        });

        let parts = x.chunks(size).zip(dy.chunks(size)).zip(&self.parts);
        let parts: Vec<_> = parts.map(|((x, dy), part)| Gradients::new(block, part, [x, dy])).collect();
        let features = block.sequence.features;
        let outputs = [3 * features, features, block.ff, features];
        let sizes = outputs.iter().flat_map(|&outputs| [BLOCK * outputs, outputs]).chain([features; 4]);
        let slots: Vec<_> = self.slots.iter().copied().zip(sizes).collect();
        parameters.update(&slots, |place, index, gradient| {
            gradient.fill(0.0);
            parts.iter().for_each(|part| part.add(block.norm, place, index, gradient));
        });
    }

    fn is_trained(&self, parameters: &Parameters) -> bool {
        self.slots.iter().any(|slot| parameters.is_trained(*slot))
    }
}

/// What the gradients of weights are made of: for each matrix its input and the gradient of its output, then the same
/// for each layer norm.
struct Gradients<'a> {
    products: [[Matrix<'a>; 2]; 4],
    norms: [[&'a [f32]; 2]; 2],
    moments: &'a [Vec<[f32; 2]>; 2],
}

impl<'a> Gradients<'a> {
    fn new(block: &Block, part: &'a Part, [x, dy]: [&'a [f32]; 2]) -> Self {
        let slopes = &part.slopes;
        let rows = x.len() / block.sequence.features;
        let matrix = |values: &'a [f32]| Matrix::new(values, rows, values.len() / rows);
        // Without dropout, what is added has the gradient of the sum.
        let added = |slope: &'a [f32], sum: &'a [f32]| if slope.is_empty() { sum } else { slope };
        let (attended, second) = match block.norm_first {
            true => (&part.attended[..], dy),
            false => (x, &slopes.second[..]),
        };
        let products = [
            [attended, &slopes.qkv],
            [&part.context, added(&slopes.added[0], &slopes.first)],
            [&part.fed, &slopes.hidden],
            [&part.hidden, added(&slopes.added[1], second)],
        ];
        let norms = match block.norm_first {
            true => [[x, &slopes.normal[0]], [&part.first, &slopes.normal[1]]],
            false => [[&part.first[..], &slopes.normal[0]], [&part.second, dy]],
        };
        Self { products: products.map(|pair| pair.map(matrix)), norms, moments: &part.moments }
    }

    /// Adds to block `index` of the gradient of the weight at `place`.
    fn add(&self, norm: Norm, place: usize, index: usize, gradient: &mut [f32]) {
        if let Some([input, slope]) = self.products.get(place / 2) {
            match place % 2 {
                0 => {
                    let input = input.columns(index * BLOCK, gradient.len() / slope.size()[1]);
                    add_product_here(gradient, input.transposed(), *slope);
                }
                _ => slope.add_rows(gradient),
            }
            return;
        }
        let which = (place - NORM[0]) / 2;
        let [input, slope] = self.norms[which];
        match place % 2 {
            0 => norm.add_weight_gradient(input, &self.moments[which], slope, gradient),
            _ => Matrix::new(slope, slope.len() / norm.features, norm.features).add_rows(gradient),
        }
    }
}
