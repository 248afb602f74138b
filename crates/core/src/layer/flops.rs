//! What a layer costs.

use super::{Layer, Planned};

impl Planned {
    /// Floating-point operations of the forward pass for one sample; a multiply-add counts as two,
    /// an element-wise function as one per element.
    #[must_use]
    pub fn flops(&self) -> u64 {
        let product = |sizes: &[usize]| sizes.iter().fold(1u64, |n, &size| n.saturating_mul(size as u64));
        let elements = product(&self.output);
        let per_output = |shape: &[usize], bias: bool| 2 * product(&shape[1..]) + u64::from(bias);
        match &self.layer {
            Layer::Linear { bias, .. } | Layer::Conv1d { bias, .. } | Layer::Conv2d { bias, .. } => {
                elements.saturating_mul(per_output(&self.parameters[0].shape, *bias))
            }
            Layer::Flatten | Layer::Embedding { .. } => 0,
            Layer::MaxPool1d(pool) | Layer::AvgPool1d(pool) => elements.saturating_mul(pool.kernel as u64),
            Layer::MaxPool2d(pool) | Layer::AvgPool2d(pool) => elements.saturating_mul(product(&pool.kernel.sides())),
            Layer::AdaptiveAvgPool1d { .. } | Layer::AdaptiveAvgPool2d { .. } | Layer::MeanPool => product(&self.input),
            Layer::Residual { .. } => self.body.iter().map(Planned::flops).fold(elements, u64::saturating_add),
            Layer::TransformerEncoder { ff, .. } => {
                let (positions, features) = (self.input[0], self.input[1]);
                // Projections in and out, feed-forward; then scores and their sums.
                let products =
                    [[4 * features, features], [features, 2 * ff], [positions, features], [positions, features]];
                let per_position = products.iter().map(|pair| 2 * product(pair)).fold(0, u64::saturating_add);
                (positions as u64).saturating_mul(per_position)
            }
            Layer::Lstm(_) | Layer::Gru(_) => {
                let weights = self.parameters[..2].iter().map(|p| 2 * product(&p.shape)).fold(0, u64::saturating_add);
                (self.input[0] as u64).saturating_mul(weights).saturating_add(elements)
            }
            _ => elements,
        }
    }
}
