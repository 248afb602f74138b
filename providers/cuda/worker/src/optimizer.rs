//! Updates over all that is trained (`docs/protocol.md`, section 9), each in a few operations in place.

use outboard_engine::optimizer::Update;
use tch::{Kind, Tensor};

use crate::{error::Torch, parameters::Trained};

/// Moves the values against their gradients, which are left undefined.
pub(crate) fn apply(update: Update, Trained { values, gradients, state, .. }: &mut Trained) -> Torch<()> {
    let device = values.device();
    // On the device already: nothing waits for it.
    let number = |x: f32| Tensor::f_full([1], f64::from(x), (Kind::Float, device));
    match (update, &mut state[..]) {
        (Update::Sgd { lr, momentum, fresh, weight_decay, ahead }, buffer) => {
            if weight_decay != 0.0 {
                gradients.f_addcmul_(values, &number(weight_decay)?).map(drop)?;
            }
            let Some(buffer) = buffer.first_mut() else {
                values.f_addcmul_(gradients, &number(-lr)?).map(drop)?;
                return Ok(());
            };
            buffer.f_mul_scalar_(f64::from(momentum)).map(drop)?;
            buffer.f_addcmul_(gradients, &number(fresh)?).map(drop)?;
            match ahead {
                Some(ahead) => {
                    gradients.f_addcmul_(buffer, &number(ahead)?).map(drop)?;
                    values.f_addcmul_(gradients, &number(-lr)?).map(drop)?;
                }
                None => {
                    values.f_addcmul_(buffer, &number(-lr)?).map(drop)?;
                }
            }
        }
        (Update::Adam { fresh, step_size, correction, eps, weight_decay, keep, .. }, [mean, square]) => {
            if keep != 1.0 {
                values.f_mul_scalar_(f64::from(keep)).map(drop)?;
            }
            if weight_decay != 0.0 {
                gradients.f_addcmul_(values, &number(weight_decay)?).map(drop)?;
            }
            mean.f_lerp_(gradients, f64::from(fresh[0])).map(drop)?;
            gradients.f_square_().map(drop)?;
            square.f_lerp_(gradients, f64::from(fresh[1])).map(drop)?;
            square.f_sqrt_out(gradients).map(drop)?;
            // -(root / correction + eps) / step_size
            let [first, second] = [-eps / step_size, -1.0 / (correction * step_size)];
            if step_size != 0.0 {
                let denominator = &*gradients;
                number(first)?.f_addcmul_out(denominator, denominator, &number(second)?).map(drop)?;
                values.f_addcdiv_(mean, gradients).map(drop)?;
            }
        }
        (Update::Adam { .. }, _) => return Err(tch::TchError::Shape("Adam has two states".into())),
    }
    Ok(())
}
