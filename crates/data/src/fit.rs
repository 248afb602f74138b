//! Offsets and scales of numeric features (`docs/protocol.md`, section 3).

use outboard_core::job::Normalize;
use outboard_protocol::Scaling;

#[derive(Clone, Copy)]
struct Moments {
    count: f64,
    mean: f64,
    min: f64,
    max: f64,
    squares: f64,
}

/// Fits so many features. `visit` gives every number of the training rows with its feature, in row order; it is called
/// twice.
pub(crate) fn fit(features: usize, normalize: Normalize, visit: impl Fn(&mut dyn FnMut(usize, f64))) -> Vec<Scaling> {
    if normalize == Normalize::None {
        return vec![Scaling::NONE; features];
    }
    let none = Moments { count: 0.0, mean: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY, squares: 0.0 };
    let mut all = vec![none; features];
    visit(&mut |feature, x| {
        let m = &mut all[feature];
        m.count += 1.0;
        m.mean += x;
        m.min = m.min.min(x);
        m.max = m.max.max(x);
    });
    all.iter_mut().for_each(|m| m.mean /= m.count);
    visit(&mut |feature, x| {
        let m = &mut all[feature];
        let from_mean = x - m.mean;
        m.squares += from_mean * from_mean;
    });
    all.into_iter()
        .map(|m| {
            let (offset, scale) = match normalize {
                // Its mean is rounded, so its deviation may come out tiny instead of 0.
                _ if m.min == m.max => (m.min, 1.0),
                Normalize::MinMax => (m.min, m.max - m.min),
                Normalize::Standard | Normalize::None => (m.mean, (m.squares / m.count).sqrt()),
            };
            // Differences this small have squares that vanish.
            Scaling { offset, scale: if scale == 0.0 { 1.0 } else { scale } }
        })
        .collect()
}
