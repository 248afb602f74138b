//! Layers (`docs/protocol.md`, section 6).

use outboard_core::{
    Layer,
    layer::{GeluApproximation, Planned},
};
use tch::{Kind, Tensor};

use crate::{dropout::Dropouts, encoder, error::Torch};

/// What a layer needs to know of the pass it is in.
pub(crate) struct Pass<'a> {
    /// The dropouts of this step; none where nothing is dropped.
    pub(crate) dropouts: Option<Dropouts<'a>>,
    /// Whether batch norms take the batch's statistics.
    pub(crate) training: bool,
    /// Whether products are made of 16-bit floats.
    pub(crate) bf16: bool,
    /// For each position of each row, whether it is padding.
    pub(crate) padding: Option<Tensor>,
}

impl Pass<'_> {
    /// A factor of a product, in its precision.
    fn factor(&self, x: &Tensor) -> Torch<Tensor> {
        if self.bf16 { x.f_to_kind(Kind::BFloat16) } else { Ok(x.shallow_clone()) }
    }

    fn optional(&self, x: Option<&Tensor>) -> Torch<Option<Tensor>> {
        x.map(|x| self.factor(x)).transpose()
    }

    /// What is summed up or exponentiated, in 32 bits.
    pub(crate) fn whole(&self, x: Tensor) -> Torch<Tensor> {
        if self.bf16 { x.f_to_kind(Kind::Float) } else { Ok(x) }
    }

    /// `x Wᵀ + b` over the last dimension.
    pub(crate) fn linear(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Torch<Tensor> {
        self.factor(x)?.f_linear(&self.factor(weight)?, self.optional(bias)?)
    }

    /// Drops elements where the pass does.
    pub(crate) fn dropout(&self, x: Tensor, number: u32, p: f64) -> Torch<Tensor> {
        match &self.dropouts {
            Some(dropouts) if p > 0.0 => dropouts.apply(&x, number, p),
            _ => Ok(x),
        }
    }

    /// `nn.LayerNorm` over the last dimension.
    pub(crate) fn layer_norm(&self, x: Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Torch<Tensor> {
        self.whole(x)?.f_layer_norm(weight.size(), Some(weight), Some(bias), eps, true)
    }

    /// The mask of positions, for a layer of whose input some may be padding.
    pub(crate) fn padding(&self, planned: &Planned) -> Option<&Tensor> {
        self.padding.as_ref().filter(|_| planned.padded)
    }
}

/// Runs `x`, rows first, through layers. `tensors` are those of the layers, in state-dict order.
pub(crate) fn chain(plan: &[Planned], mut tensors: &[Tensor], mut x: Tensor, pass: &Pass<'_>) -> Torch<Tensor> {
    for planned in plan {
        let (own, rest) = tensors.split_at(planned.parameters.len());
        x = layer(planned, own, x, pass)?;
        tensors = rest;
    }
    Ok(x)
}

fn layer(planned: &Planned, tensors: &[Tensor], x: Tensor, pass: &Pass<'_>) -> Torch<Tensor> {
    let size = |n: usize| n as i64;
    let sides = |sides: [usize; 2]| sides.map(size);
    match &planned.layer {
        Layer::Linear { .. } => pass.linear(&x, &tensors[0], tensors.get(1)),
        Layer::Relu => x.f_relu(),
        Layer::Gelu { approximate: GeluApproximation::None } => x.f_gelu("none"),
        Layer::Gelu { approximate: GeluApproximation::Tanh } => x.f_gelu("tanh"),
        Layer::Silu => x.f_silu(),
        Layer::Tanh => x.f_tanh(),
        Layer::Sigmoid => x.f_sigmoid(),
        Layer::Softmax => pass.whole(x)?.f_softmax(-1, None),
        Layer::Flatten => x.f_flatten(1, -1),
        Layer::Dropout { p } => pass.dropout(x, planned.dropout, *p),
        Layer::Conv1d { stride, padding, dilation, groups, .. } => pass.factor(&x)?.f_conv1d(
            &pass.factor(&tensors[0])?,
            pass.optional(tensors.get(1))?,
            size(*stride),
            size(*padding),
            size(*dilation),
            size(*groups),
        ),
        Layer::Conv2d { stride, padding, dilation, groups, .. } => pass.factor(&x)?.f_conv2d(
            &pass.factor(&tensors[0])?,
            pass.optional(tensors.get(1))?,
            sides(stride.sides()),
            sides(padding.sides()),
            sides(dilation.sides()),
            size(*groups),
        ),
        Layer::MaxPool1d(pool) => {
            let [kernel, stride] = [pool.kernel, pool.stride.unwrap_or(pool.kernel)].map(size);
            x.f_max_pool1d(kernel, stride, size(pool.padding), 1, false)
        }
        Layer::MaxPool2d(pool) => {
            let [kernel, stride] = [pool.kernel, pool.stride.unwrap_or(pool.kernel)].map(|e| sides(e.sides()));
            x.f_max_pool2d(kernel, stride, sides(pool.padding.sides()), 1, false)
        }
        Layer::AvgPool1d(pool) => {
            let [kernel, stride] = [pool.kernel, pool.stride.unwrap_or(pool.kernel)].map(size);
            x.f_avg_pool1d(kernel, stride, size(pool.padding), false, true)
        }
        Layer::AvgPool2d(pool) => {
            let [kernel, stride] = [pool.kernel, pool.stride.unwrap_or(pool.kernel)].map(|e| sides(e.sides()));
            x.f_avg_pool2d(kernel, stride, sides(pool.padding.sides()), false, true, None)
        }
        Layer::AdaptiveAvgPool1d { out } => x.f_adaptive_avg_pool1d(size(*out)),
        Layer::AdaptiveAvgPool2d { out } => x.f_adaptive_avg_pool2d(sides(out.sides())),
        Layer::BatchNorm1d(norm) | Layer::BatchNorm2d(norm) => pass.whole(x)?.f_batch_norm(
            Some(&tensors[0]),
            Some(&tensors[1]),
            Some(&tensors[2]),
            Some(&tensors[3]),
            pass.training,
            norm.momentum,
            norm.eps,
            true,
        ),
        Layer::LayerNorm { eps } => pass.layer_norm(x, &tensors[0], &tensors[1], *eps),
        Layer::Embedding { padding_index, .. } => {
            let padding = padding_index.map_or(-1, size);
            Tensor::f_embedding(&tensors[0], &x.f_to_kind(Kind::Int64)?, padding, false, false)
        }
        Layer::PositionalEmbedding => x.f_add(&tensors[0]),
        Layer::Residual { .. } => {
            let inner = chain(&planned.body, tensors, x.shallow_clone(), pass)?;
            x.f_add(&inner)
        }
        Layer::TransformerEncoder { .. } => encoder::forward(planned, tensors, x, pass),
        Layer::Lstm(_) => {
            let (state, parameters) = recurrent(planned, tensors, &x, pass)?;
            let start = [&state, &state];
            let (states, ..) = pass.factor(&x)?.f_lstm(
                &start,
                &parameters.iter().collect::<Vec<_>>(),
                parameters.len() == 4,
                1,
                0.0,
                pass.training,
                false,
                true,
            )?;
            Ok(states)
        }
        Layer::Gru(_) => {
            let (state, parameters) = recurrent(planned, tensors, &x, pass)?;
            let has_biases = parameters.len() == 4;
            let (states, _) =
                pass.factor(&x)?.f_gru(&state, &parameters, has_biases, 1, 0.0, pass.training, false, true)?;
            Ok(states)
        }
        Layer::MeanPool => {
            let x = pass.whole(x)?;
            let Some(padding) = pass.padding(planned) else { return x.f_mean_dim([1].as_slice(), false, None) };
            let kept = padding.f_logical_not()?.f_to_kind(Kind::Float)?.f_unsqueeze(-1)?;
            let sum = x.f_mul(&kept)?.f_sum_dim_intlist([1].as_slice(), false, None)?;
            sum.f_div(&kept.f_sum_dim_intlist([1].as_slice(), false, None)?)
        }
        Layer::LastPool => {
            let Some(padding) = pass.padding(planned) else { return x.f_select(1, -1) };
            let [rows, positions] = [x.size()[0], x.size()[1]];
            let place = Tensor::f_arange(positions, (Kind::Int64, x.device()))?;
            let last = place.f_expand([rows, positions], false)?.f_masked_fill(padding, -1)?.f_amax([1], true)?;
            let index = last.f_unsqueeze(-1)?.f_expand([rows, 1, x.size()[2]], false)?;
            x.f_gather(1, &index, false)?.f_squeeze_dim(1)
        }
    }
}

/// The first state of a recurrent layer, and its parameters.
fn recurrent(planned: &Planned, tensors: &[Tensor], x: &Tensor, pass: &Pass<'_>) -> Torch<(Tensor, Vec<Tensor>)> {
    let kind = if pass.bf16 { Kind::BFloat16 } else { Kind::Float };
    let out = planned.output.last().map_or(0, |out| *out as i64);
    let state = Tensor::f_zeros([1, x.size()[0], out], (kind, x.device()))?;
    Ok((state, tensors.iter().map(|tensor| pass.factor(tensor)).collect::<Torch<_>>()?))
}
