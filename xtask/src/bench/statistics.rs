//! Medians and quartiles: on a shared machine, means follow the outliers.

/// The middle of some measurements, and the range of their middle half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    /// Half of them are below.
    pub(super) median: f64,
    /// A quarter of them is below.
    pub(super) low: f64,
    /// A quarter of them is above.
    pub(super) high: f64,
}

impl Summary {
    /// Of at least one measurement; of none, everything is NaN.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<_> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let [low, median, high] = [0.25, 0.5, 0.75].map(|share| quantile(&sorted, share));
        Self { median, low, high }
    }
}

/// With linear interpolation between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = share * last as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles() {
        assert_eq!(Summary::of([4.0, 1.0, 2.0, 3.0, 100.0]), Summary { median: 3.0, low: 2.0, high: 4.0 });
        assert_eq!(Summary::of([1.0, 2.0]), Summary { median: 1.5, low: 1.25, high: 1.75 });
        assert_eq!(Summary::of([7.0]), Summary { median: 7.0, low: 7.0, high: 7.0 });
        assert!(Summary::of([]).median.is_nan());
    }
}
