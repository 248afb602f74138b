//! What can be trained. Both peers know the models by their names.

use clap::ValueEnum;

/// A model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Model {
    /// Three linear layers with relus: 784, 256, 128, 10
    Mlp,
    /// On 28 x 28: two convolutions to 32 and 64 channels, each with relu and max pool, then linear layers to 128 and 10
    Cnn,
    /// 32 of 1000 tokens: embedding of 64, two encoder blocks with 4 heads and 128 between, mean, linear layer to 4
    Transformer,
    /// 32 positions of 32 features: LSTM of 128, its last state, linear layer to 10
    Lstm,
}

/// What a model should reach.
#[derive(Clone, Copy)]
pub(super) struct Goals {
    /// How much faster than eager PyTorch on two threads, with SGD and with Adam.
    pub(super) ratios: [f64; 2],
    /// The share of a core's multiply-add peak that products reach on one thread.
    pub(super) share_of_peak: Option<f64>,
    /// How soon after its start a process should have trained its first step, in less memory than PyTorch.
    pub(super) start_seconds: Option<f64>,
}

impl Model {
    /// What the peers call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::Cnn => "cnn",
            Self::Transformer => "transformer",
            Self::Lstm => "lstm",
        }
    }

    /// The rows of a step.
    pub(super) fn batch(self) -> u32 {
        if self == Self::Transformer { 32 } else { 64 }
    }

    /// What our engine should reach.
    pub(super) fn goals(self) -> Goals {
        let (ratios, share_of_peak) = match self {
            Self::Mlp => ([2.5, 2.5], Some(0.55)),
            Self::Cnn => ([1.7, 1.7], Some(0.5)),
            Self::Transformer => ([2.3, 2.8], Some(0.55)),
            Self::Lstm => ([1.5, 1.5], None),
        };
        Goals { ratios, share_of_peak, start_seconds: Some(0.05) }
    }

    /// What the worker on libtorch should reach: the same kernels, with less around them.
    pub(super) fn libtorch_goals(self) -> Goals {
        let ratio = if self == Self::Mlp { 1.5 } else { 1.0 };
        Goals { ratios: [ratio; 2], share_of_peak: None, start_seconds: None }
    }

    /// Multiply-adds of each product on the way forward, for one sample, the first layer's first.
    fn products(self) -> Vec<f64> {
        match self {
            Self::Mlp => vec![784.0 * 256.0, 256.0 * 128.0, 128.0 * 10.0],
            Self::Cnn => {
                let convolutions = [784.0 * 9.0 * 32.0, 196.0 * 288.0 * 64.0];
                [&convolutions[..], &[3136.0 * 128.0, 128.0 * 10.0]].concat()
            }
            // The embedding is no product; its gradient is what the first block gives back.
            Self::Transformer => {
                let block =
                    [32.0 * 64.0 * 192.0, 2.0 * 32.0 * 32.0 * 64.0, 32.0 * 64.0 * 64.0, 2.0 * 32.0 * 64.0 * 128.0];
                [&[0.0][..], &block, &block, &[64.0 * 4.0]].concat()
            }
            Self::Lstm => vec![32.0 * 32.0 * 512.0, 32.0 * 128.0 * 512.0, 128.0 * 10.0],
        }
    }

    /// Floating-point operations of the matrix products alone, forward and backward. The first layer's input needs no
    /// gradient.
    pub(super) fn flops_per_sample(self) -> f64 {
        let products = self.products();
        2.0 * (3.0 * products.iter().sum::<f64>() - products.first().copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_layer_has_two_products_and_the_others_three() {
        let mlp = 2.0 * 2.0 * 784.0 * 256.0 + 3.0 * 2.0 * (256.0 * 128.0 + 128.0 * 10.0);
        assert_eq!(Model::Mlp.flops_per_sample(), mlp);
        assert_eq!((Model::Cnn.flops_per_sample() / 1e5).round(), 250.0);
    }
}
