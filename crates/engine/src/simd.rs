//! Vectorised mathematics: plain loops, compiled for the vector units that the CPU has.
//!
//! No operation here is fused by the compiler (Rust never contracts `a * b + c`), so element-wise results are the same
//! bytes on every CPU.

/// Runs a loop compiled for the best vector units of this CPU. What it calls must be `#[inline(always)]`.
#[inline(always)]
pub fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// The vector units of this CPU that loops are compiled for; none where there are none.
#[must_use]
pub fn vector_units() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    return match () {
        () if pulp::x86::V4::try_new().is_some() => Some("AVX-512"),
        () if pulp::x86::V3::try_new().is_some() => Some("AVX2 and FMA"),
        () => None,
    };
    #[cfg(target_arch = "aarch64")]
    return pulp::aarch64::Neon::try_new().map(|_| "NEON");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    None
}

/// `exp(x)`, within 2 units in the last place; saturates near the ends of the range instead of reaching 0 or infinity.
///
/// Range reduction by powers of two and a polynomial (Cephes, `expf`).
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.33, 88.72);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 0.166_666_65;
    p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `tanh(x)`, within 3 units in the last place (Cephes, `tanhf`).
#[inline(always)]
#[must_use]
pub fn tanh(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = p * z + 2.063_908_8e-2;
    p = p * z - 5.373_971_5e-2;
    p = p * z + 0.133_314_42;
    p = p * z - 0.333_332_8;
    let near = p * z * x + x;
    let far = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.625 { near } else { far.copysign(x) }
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Elements that loops take at a time: enough for every vector unit, and the same on all.
const LANES: usize = 16;

/// The sum of `f` over elements of slices of one length, in an order that vector units can follow and that is the same
/// on every CPU.
#[inline(always)]
pub fn fold<const N: usize>(slices: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    let chunks = slices.map(|slice| slice.as_chunks::<LANES>());
    let mut sums = [0.0f32; LANES];
    for i in 0..chunks.first().map_or(0, |(whole, _)| whole.len()) {
        let chunk = chunks.map(|(whole, _)| &whole[i]);
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += f(std::array::from_fn(|k| chunk[k][lane]));
        }
    }
    for (lane, sum) in sums.iter_mut().enumerate().take(chunks.first().map_or(0, |(_, rest)| rest.len())) {
        *sum += f(chunks.map(|(_, rest)| rest[lane]));
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}

/// `y = f(y, x)` for elements of slices of one length, which may be short.
#[inline(always)]
pub fn update<const N: usize>(y: &mut [f32], slices: [&[f32]; N], f: impl Fn(f32, [f32; N]) -> f32) {
    let (whole, rest) = y.as_chunks_mut::<LANES>();
    let chunks = slices.map(|slice| slice.as_chunks::<LANES>());
    for (i, y) in whole.iter_mut().enumerate() {
        let chunk = chunks.map(|(whole, _)| &whole[i]);
        // Apart from `y`, so that nothing is read again after a write.
        let mut new = [0.0; LANES];
        for (lane, new) in new.iter_mut().enumerate() {
            *new = f(y[lane], std::array::from_fn(|k| chunk[k][lane]));
        }
        *y = new;
    }
    for (i, y) in rest.iter_mut().enumerate() {
        *y = f(*y, chunks.map(|(_, rest)| rest[i]));
    }
}

/// The largest element; NaN counts for nothing.
#[inline(always)]
#[must_use]
pub fn largest(x: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        largest.iter_mut().zip(x).for_each(|(m, &x)| *m = if x > *m { x } else { *m });
    }
    largest.iter_mut().zip(rest).for_each(|(m, &x)| *m = if x > *m { x } else { *m });
    largest.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum of all elements.
#[must_use]
pub fn sum(x: &[f32]) -> f32 {
    simd(
        #[inline(always)]
        || fold([x], |[x]| x),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error over a sweep, relative to the larger of the true value and `floor`.
    fn worst(f: fn(f32) -> f32, truth: fn(f64) -> f64, range: std::ops::Range<i32>, floor: f64) -> f64 {
        range
            .map(|i| i as f32 * 1e-3)
            .map(|x| (f64::from(f(x)) - truth(f64::from(x))).abs() / truth(f64::from(x)).abs().max(floor))
            .fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_within_a_few_units_in_the_last_place() {
        assert!(worst(exp, f64::exp, -87_000..88_000, 0.0) < 1.8e-7);
        assert!(worst(tanh, f64::tanh, -12_000..12_000, 1e-30) < 2.5e-7);
        assert!(worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -80_000..80_000, 0.0) < 3e-7);
    }

    #[test]
    fn far_arguments_stay_finite() {
        for x in [-1e30, -200.0, 200.0, 1e30] {
            assert!(exp(x).is_finite() && exp(x) >= 0.0);
            assert!(tanh(x).abs() <= 1.0 && (0.0..=1.0).contains(&sigmoid(x)));
        }
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
    }
}
