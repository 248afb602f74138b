//! Batch norm over all dimensions but the channels.

use outboard_core::layer::{self, Planned};
use rayon::prelude::*;

use super::{CHUNK, Op, Pass};
use crate::{
    parameters::{Parameters, Slot},
    simd::simd,
};

#[derive(Debug)]
pub(crate) struct BatchNorm {
    channels: usize,
    /// Elements of a channel in one sample.
    places: usize,
    eps: f64,
    momentum: f64,
    weight: Slot,
    bias: Slot,
    running_mean: Slot,
    running_variance: Slot,
    count: Slot,
    /// Of the last pass, for each channel.
    mean: Vec<f32>,
    variance: Vec<f64>,
    /// One over the deviation.
    scale: Vec<f32>,
    /// Rows of a pass that doesn't count in the running statistics yet.
    unsettled: Option<usize>,
}

impl BatchNorm {
    pub(crate) fn new(planned: &Planned, keys: &layer::BatchNorm, parameters: &Parameters) -> Self {
        let slot = |i: usize| parameters.slot(&planned.parameters[i].name);
        let channels = planned.input[0];
        Self {
            channels,
            places: planned.input[1..].iter().product(),
            eps: keys.eps,
            momentum: keys.momentum,
            weight: slot(0),
            bias: slot(1),
            running_mean: slot(2),
            running_variance: slot(3),
            count: slot(4),
            mean: vec![0.0; channels],
            variance: vec![0.0; channels],
            scale: vec![0.0; channels],
            unsettled: None,
        }
    }

    /// For each channel, the sums of `f(channel, i)` over its elements `i` of a batch of so many rows.
    fn sums(&self, rows: usize, f: impl Fn(usize, usize) -> [f64; 2] + Sync) -> Vec<[f64; 2]> {
        let (channels, places) = (self.channels, self.places);
        if places == 1 {
            let mut sums = vec![[0.0; 2]; channels];
            simd(
                #[inline(always)]
                || {
                    for row in 0..rows {
                        for (channel, sum) in sums.iter_mut().enumerate() {
                            let [a, b] = f(channel, row * channels + channel);
                            *sum = [sum[0] + a, sum[1] + b];
                        }
                    }
                },
            );
            return sums;
        }
        let channel = |channel: usize| {
            simd(
                #[inline(always)]
                || {
                    const LANES: usize = 8;
                    let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
                    for row in 0..rows {
                        let first = (row * channels + channel) * places;
                        for from in (first..first + places).step_by(LANES) {
                            for lane in 0..LANES.min(first + places - from) {
                                let [x, y] = f(channel, from + lane);
                                (a[lane], b[lane]) = (a[lane] + x, b[lane] + y);
                            }
                        }
                    }
                    [a.iter().sum(), b.iter().sum()]
                },
            )
        };
        (0..channels).into_par_iter().map(channel).collect()
    }

    /// `y[i] = f(channel, i)` for each element of a batch.
    fn map(&self, y: &mut [f32], f: impl Fn(usize, usize) -> f32 + Sync) {
        let (channels, places) = (self.channels, self.places);
        let samples = (CHUNK / (channels * places)).max(1);
        y.par_chunks_mut(samples * channels * places).enumerate().for_each(|(chunk, y)| {
            let from = chunk * samples * channels * places;
            simd(
                #[inline(always)]
                || match places {
                    1 => {
                        for (sample, y) in y.chunks_exact_mut(channels).enumerate() {
                            let from = from + sample * channels;
                            y.iter_mut().enumerate().for_each(|(channel, y)| *y = f(channel, from + channel));
                        }
                    }
                    _ => {
                        for (plane, y) in y.chunks_exact_mut(places).enumerate() {
                            let (channel, from) = (plane % channels, from + plane * places);
                            y.iter_mut().enumerate().for_each(|(i, y)| *y = f(channel, from + i));
                        }
                    }
                },
            );
        });
    }

    fn observe(&mut self, rows: usize, x: &[f32]) {
        let values = (rows * self.places) as f64;
        let means: Vec<f64> =
            self.sums(rows, |_, i| [f64::from(x[i]), 0.0]).iter().map(|[sum, _]| sum / values).collect();
        let squares = self.sums(rows, |channel, i| [(f64::from(x[i]) - means[channel]).powi(2), 0.0]);
        self.mean = means.iter().map(|&mean| mean as f32).collect();
        self.variance = squares.iter().map(|[sum, _]| sum / values).collect();
        self.scale = self.variance.iter().map(|variance| (1.0 / (variance + self.eps).sqrt()) as f32).collect();
        self.unsettled = Some(rows);
    }
}

impl Op for BatchNorm {
    fn width(&self) -> usize {
        self.channels * self.places
    }

    fn forward(&mut self, pass: Pass<'_>, parameters: &Parameters, x: &[f32], y: &mut [f32]) {
        if pass.training {
            self.observe(pass.rows, x);
        } else {
            self.mean.copy_from_slice(parameters.values(self.running_mean));
            let variances = parameters.values(self.running_variance).iter();
            self.scale = variances.map(|&v| (1.0 / (f64::from(v) + self.eps).sqrt()) as f32).collect();
        }
        let (weight, bias) = (parameters.values(self.weight), parameters.values(self.bias));
        let (mean, scale) = (&self.mean, &self.scale);
        self.map(y, |c, i| (x[i] - mean[c]) * (scale[c] * weight[c]) + bias[c]);
    }

    fn backward(
        &mut self,
        pass: Pass<'_>,
        parameters: &mut Parameters,
        x: &[f32],
        _: &[f32],
        dy: &mut [f32],
        dx: Option<&mut [f32]>,
    ) {
        let (mean, scale) = (&self.mean, &self.scale);
        // The gradients of bias and weight.
        let sums = self.sums(pass.rows, |c, i| {
            let slope = f64::from(dy[i]);
            [slope, slope * f64::from((x[i] - mean[c]) * scale[c])]
        });
        if let Some(dx) = dx {
            let values = (pass.rows * self.places) as f64;
            let weight = parameters.values(self.weight);
            let shares: Vec<[f32; 2]> = sums.iter().map(|sums| sums.map(|sum| (sum / values) as f32)).collect();
            self.map(dx, |c, i| {
                let normal = (x[i] - mean[c]) * scale[c];
                (dy[i] - shares[c][0] - normal * shares[c][1]) * (scale[c] * weight[c])
            });
        }
        parameters.update(&[(self.weight, self.channels), (self.bias, self.channels)], |part, _, gradient| {
            gradient.iter_mut().zip(&sums).for_each(|(g, sums)| *g = sums[1 - part] as f32);
        });
    }

    fn settle(&mut self, parameters: &mut Parameters) {
        let Some(rows) = self.unsettled.take() else { return };
        let values = (rows * self.places) as f64;
        let follow = |running: &mut f32, new: f64| {
            *running = ((1.0 - self.momentum) * f64::from(*running) + self.momentum * new) as f32;
        };
        let means = parameters.values_mut(self.running_mean).iter_mut().zip(&self.mean);
        means.for_each(|(running, &mean)| follow(running, f64::from(mean)));
        let variances = parameters.values_mut(self.running_variance).iter_mut().zip(&self.variance);
        // The running variance is that of a sample.
        variances.for_each(|(running, variance)| follow(running, variance * values / (values - 1.0)));
        parameters.values_mut(self.count)[0] += 1.0;
    }

    fn is_trained(&self, parameters: &Parameters) -> bool {
        parameters.is_trained(self.weight) || parameters.is_trained(self.bias)
    }
}
