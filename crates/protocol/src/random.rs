//! The counter-based random numbers of the protocol (`docs/protocol.md`, sections 1, 2, 5 and 7).
//!
//! Every number is a pure function of a seed and counters, so nothing has to be saved to go on elsewhere.

const G: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn fmix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What a random number is used for; each has streams of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Batch order of an epoch.
    Order = 0,
    /// Initial weights of a parameter tensor.
    Weights = 1,
    /// Validation split.
    Split = 2,
    /// Dropout keys of a layer.
    Dropout = 3,
    /// Changes of images in an epoch.
    Augment = 4,
}

/// One stream of 64-bit random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream of `domain` with index `n` (an epoch, a parameter, a layer), under `seed`.
    #[must_use]
    pub fn new(seed: u64, domain: Domain, n: u32) -> Self {
        Self::raw(seed, ((domain as u64) << 32) | u64::from(n))
    }

    /// The stream of this number, `(domain << 32) | n`, under `seed`.
    #[must_use]
    pub fn raw(seed: u64, stream: u64) -> Self {
        Self(fmix(seed.wrapping_add(G.wrapping_mul(stream.wrapping_add(1)))))
    }

    /// Number `i` of the stream: `mix(seed, stream, i)`.
    #[must_use]
    pub fn at(self, i: u64) -> u64 {
        fmix(self.0.wrapping_add(G.wrapping_mul(i.wrapping_add(1))))
    }

    /// Number `i` as a float in `[0, 1)`, a multiple of 2^-53.
    #[must_use]
    pub fn uniform(self, i: u64) -> f64 {
        (self.at(i) >> 11) as f64 * (-53f64).exp2()
    }

    /// Rows `0..n` in the order of the stream: a stable argsort of `at(row) >> 1`.
    #[must_use]
    pub fn order(self, n: usize) -> Vec<u32> {
        let mut keyed: Vec<(u64, u32)> = (0..n as u32).map(|row| (self.at(u64::from(row)) >> 1, row)).collect();
        // Ties break by row, which is what a stable sort gives.
        keyed.sort_unstable();
        keyed.into_iter().map(|(_, row)| row).collect()
    }
}

/// Rows of the validation set, ascending: `round(fraction * n)` of `n` rows, at least 1 and at most `n - 1`.
///
/// # Panics
/// With fewer than two rows there is nothing to split.
#[must_use]
pub fn validation_rows(seed: u64, n: usize, fraction: f64) -> Vec<u32> {
    assert!(n >= 2, "a split needs at least two rows");
    let count = ((fraction * n as f64).round() as usize).clamp(1, n - 1);
    let mut rows = Stream::new(seed, Domain::Split, 0).order(n);
    rows.truncate(count);
    rows.sort_unstable();
    rows
}

/// The dropout mask of one layer at one step.
#[derive(Clone, Copy, Debug)]
pub struct DropoutMask {
    key: (u32, u32),
    threshold: u32,
}

impl DropoutMask {
    /// The mask that drops each element with probability `p`, `0 <= p < 1`.
    #[must_use]
    pub fn new(seed: u64, layer: u32, step: u64, p: f64) -> Self {
        let k = Stream::new(seed, Domain::Dropout, layer).at(step);
        let threshold = (p * 32f64.exp2()).round().min(f64::from(u32::MAX)) as u32;
        Self { key: (k as u32, (k >> 32) as u32), threshold }
    }

    /// Whether element `e` (row-major over the whole batch) is kept.
    #[inline(always)]
    #[must_use]
    pub fn keeps(self, e: u32) -> bool {
        let mut x = e.wrapping_mul(0x9E37_79B9).wrapping_add(self.key.0);
        x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D).wrapping_add(self.key.1);
        x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
        x ^ (x >> 16) >= self.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_a_permutation_and_depends_on_seed_and_epoch() {
        let order = |seed, epoch| Stream::new(seed, Domain::Order, epoch).order(257);
        let mut sorted = order(7, 0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..257).collect::<Vec<_>>());
        assert_ne!(order(7, 0), order(7, 1));
        assert_ne!(order(7, 0), order(8, 0));
    }

    #[test]
    fn split_keeps_at_least_one_row_on_each_side() {
        assert_eq!(validation_rows(1, 2, 0.001).len(), 1);
        assert_eq!(validation_rows(1, 2, 0.999).len(), 1);
        assert_eq!(validation_rows(1, 10, 0.25).len(), 3);
    }

    #[test]
    fn dropout_drops_its_share_independently_of_neighbouring_steps_and_layers() {
        let n = 1 << 16;
        let mask = |layer, step| DropoutMask::new(7, layer, step, 0.3);
        let both = |a: DropoutMask, b: DropoutMask, shift: u32| {
            (0..n).filter(|&e| !a.keeps(e) && !b.keeps(e + shift)).count() as f64 / f64::from(n)
        };
        let a = mask(0, 0);
        let dropped = (0..n).filter(|&e| !a.keeps(e)).count() as f64 / f64::from(n);
        assert!((dropped - 0.3).abs() < 0.01, "{dropped}");
        for (other, shift) in [(mask(0, 1), 0), (mask(1, 0), 0), (a, 1), (a, 64)] {
            let joint = both(a, other, shift);
            assert!((joint - 0.09).abs() < 0.01, "{joint}");
        }
        assert!((0..n).all(|e| DropoutMask::new(7, 0, 0, 0.0).keeps(e)));
    }
}
