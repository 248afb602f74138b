//! Dropout by the protocol's mask (`docs/protocol.md`, section 7).

use std::cell::RefCell;

use outboard_protocol::random::{Domain, Stream};
use tch::{Device, Kind, Tensor};

use crate::error::Torch;

/// The first step of the mask's hash, which is the same for all masks: `e * 0x9E3779B9`, for the elements met so far.
#[derive(Debug, Default)]
pub(crate) struct Elements(RefCell<Option<Tensor>>);

impl Elements {
    fn first(&self, count: i64, device: Device) -> Torch<Tensor> {
        let mut known = self.0.borrow_mut();
        if let Some(known) = known.as_ref().filter(|known| known.size()[0] >= count) {
            return known.f_narrow(0, 0, count);
        }
        // Element numbers are 32-bit and wrap, as PyTorch's integers do.
        let numbers = Tensor::f_arange(count, (Kind::Int64, device))?.f_to_kind(Kind::Int)?;
        let first = numbers.f_mul_scalar(signed(0x9E37_79B9))?;
        *known = Some(first.shallow_clone());
        Ok(first)
    }
}

/// The dropouts of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropouts<'a> {
    /// The job's seed.
    pub(crate) seed: u64,
    /// The optimizer step, from 0.
    pub(crate) step: u64,
    /// What masks have in common.
    pub(crate) elements: &'a Elements,
}

impl Dropouts<'_> {
    /// Drops elements of `x` with probability `p`; `number` is the dropout's.
    pub(crate) fn apply(&self, x: &Tensor, number: u32, p: f64) -> Torch<Tensor> {
        let key = Stream::new(self.seed, Domain::Dropout, number).at(self.step);
        let least = (p * 32f64.exp2()).round().min(f64::from(u32::MAX)) as u32;
        let size = x.size();
        let mut h = self.elements.first(size.iter().product(), x.device())?.f_add_scalar(signed(key as u32))?;
        mix(&mut h, 16)?;
        let mut h = h.f_mul_scalar_(signed(0x7FEB_352D))?.f_add_scalar_(signed((key >> 32) as u32))?;
        mix(&mut h, 15)?;
        let mut h = h.f_mul_scalar_(signed(0x846C_A68B))?;
        mix(&mut h, 16)?;
        // Turning the top bit round makes an unsigned comparison of a signed one.
        let kept = h.f_bitwise_xor_(signed(1 << 31))?.f_ge(signed(least ^ 1 << 31))?.f_view(size.as_slice())?;
        let scale = (1.0 / (1.0 - p)) as f32;
        x.f_mul_scalar(f64::from(scale))?.f_where_scalarother(&kept, 0.0)
    }
}

/// `h ^= h >> by`, the shift being a logical one.
fn mix(h: &mut Tensor, by: i64) -> Torch<()> {
    let mut shifted = h.f_bitwise_right_shift_tensor_scalar(by)?;
    let shifted = shifted.f_bitwise_and_((1i64 << (32 - by)) - 1)?;
    h.f_bitwise_xor_tensor_(&shifted).map(drop)?;
    Ok(())
}

/// A word as PyTorch's 32-bit integers have it.
fn signed(word: u32) -> i64 {
    i64::from(word.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_protocol::random::DropoutMask;

    #[test]
    fn masks_are_those_of_the_protocol() {
        let elements = Elements::default();
        for (seed, number, step, p) in [(7, 2, 0, 0.5), (u64::MAX, 65_538, 81, 0.1), (3, 0, 1 << 40, 0.999)] {
            let dropouts = Dropouts { seed, step, elements: &elements };
            let x = Tensor::ones([7, 1001], (Kind::Float, Device::Cpu));
            let y = dropouts.apply(&x, number, p).unwrap();
            let mask = DropoutMask::new(seed, number, step, p);
            let scale = (1.0 / (1.0 - p)) as f32;
            let found = Vec::<f32>::try_from(y.reshape(-1)).unwrap();
            let right: Vec<_> = (0..7007).map(|e| if mask.keeps(e) { scale } else { 0.0 }).collect();
            assert_eq!(found, right);
        }
    }
}
