//! The transformer encoder block.

use outboard_core::{
    Layer,
    layer::{EncoderActivation, Planned},
};
use tch::{Kind, Tensor};

use crate::{error::Torch, layers::Pass};

/// PyTorch's default for the norms of a block.
const EPS: f64 = 1e-5;

/// Runs `x`, `[rows, positions, features]`, through the block. `tensors` are in state-dict order.
pub(crate) fn forward(planned: &Planned, tensors: &[Tensor], x: Tensor, pass: &Pass<'_>) -> Torch<Tensor> {
    let (
        Layer::TransformerEncoder { heads, dropout, activation, norm_first, .. },
        [in_weight, in_bias, out_weight, out_bias, weight1, bias1, weight2, bias2, norm1, shift1, norm2, shift2],
    ) = (&planned.layer, tensors)
    else {
        return Err(tch::TchError::Shape("a transformer_encoder has 12 tensors".into()));
    };
    let number = |n: u32| planned.dropout + (n << 16);
    let attention = |x: &Tensor| -> Torch<Tensor> {
        let [rows, positions, features] = [x.size()[0], x.size()[1], x.size()[2]];
        let heads = *heads as i64;
        let projected = pass.linear(x, in_weight, Some(in_bias))?;
        // [3, rows, heads, positions, features of a head]
        let parts = projected.f_view([rows, positions, 3, heads, features / heads])?.f_permute([2, 0, 3, 1, 4])?;
        let [q, k, v] = [parts.f_select(0, 0)?, parts.f_select(0, 1)?, parts.f_select(0, 2)?];
        let mask = pass.padding(planned).map(|padding| mask(padding, q.kind())).transpose()?;
        let context = if pass.dropouts.is_some() && *dropout > 0.0 {
            let root = ((features / heads) as f64).sqrt();
            let mut scores = q.f_matmul(&k.f_transpose(2, 3)?)?.f_div_scalar(root)?;
            if let Some(mask) = &mask {
                scores = scores.f_add(mask)?;
            }
            let shares = pass.whole(scores)?.f_softmax(-1, None)?;
            pass.dropout(shares, number(0), *dropout)?.f_to_kind(v.kind())?.f_matmul(&v)?
        } else {
            Tensor::f_scaled_dot_product_attention(&q, &k, &v, mask.as_ref(), 0.0, false, None, false)?
        };
        let context = context.f_transpose(1, 2)?.f_reshape([rows, positions, features])?;
        pass.dropout(pass.linear(&context, out_weight, Some(out_bias))?, number(1), *dropout)
    };
    let feed_forward = |x: &Tensor| -> Torch<Tensor> {
        let hidden = pass.linear(x, weight1, Some(bias1))?;
        let hidden = match activation {
            EncoderActivation::Relu => hidden.f_relu()?,
            EncoderActivation::Gelu => hidden.f_gelu("none")?,
        };
        let hidden = pass.dropout(hidden, number(2), *dropout)?;
        pass.dropout(pass.linear(&hidden, weight2, Some(bias2))?, number(3), *dropout)
    };
    let before = |x: &Tensor| pass.layer_norm(x.shallow_clone(), norm1, shift1, EPS);
    let after = |x: &Tensor| pass.layer_norm(x.shallow_clone(), norm2, shift2, EPS);
    if *norm_first {
        let x = x.f_add(&attention(&before(&x)?)?)?;
        x.f_add(&feed_forward(&after(&x)?)?)
    } else {
        let x = before(&x.f_add(&attention(&x)?)?)?;
        after(&x.f_add(&feed_forward(&x)?)?)
    }
}

/// What is added to scores: nothing, or minus infinity where a position is padding.
fn mask(padding: &Tensor, kind: Kind) -> Torch<Tensor> {
    let [rows, positions] = [padding.size()[0], padding.size()[1]];
    let open = Tensor::f_zeros([rows, 1, 1, positions], (kind, padding.device()))?;
    open.f_masked_fill(&padding.f_view([rows, 1, 1, positions])?, f64::NEG_INFINITY)
}
