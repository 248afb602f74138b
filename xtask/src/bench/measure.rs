//! What is asked of the peers, in turn: neighbours on the machine then disturb all of them alike.

use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::peer::{FirstStep, Peer};

/// The widths of the model that is trained.
pub(super) const LAYERS: [u32; 4] = [784, 256, 128, 10];

/// The rows of a step.
pub(super) const BATCH: u32 = 64;

/// How often each peer is started to measure its first step.
const STARTS: usize = 5;

/// Everything that was measured.
pub(super) struct Measurements {
    /// Runs, by setting.
    pub(super) settings: Vec<Setting>,
    /// Our starts.
    pub(super) our_starts: Vec<FirstStep>,
    /// PyTorch's starts.
    pub(super) pytorch_starts: Vec<FirstStep>,
}

/// The runs with one optimizer on some threads.
pub(super) struct Setting {
    /// The threads.
    pub(super) threads: u32,
    /// `sgd` or `adam`.
    pub(super) optimizer: &'static str,
    /// The rounds, each with one run of each contestant.
    pub(super) rounds: Vec<Round>,
}

/// Samples per second of runs that followed each other.
#[derive(Default)]
pub(super) struct Round {
    /// Our engine.
    pub(super) ours: f64,
    /// PyTorch with its default optimizers.
    pub(super) eager: f64,
    /// PyTorch with `fused=True`.
    pub(super) fused: f64,
    /// The share of a core's multiply-add peak that our matrix products reached; on one thread only.
    pub(super) share_of_peak: Option<f64>,
}

impl Measurements {
    /// Starts the peers and measures for some minutes, telling the terminal how far it is.
    pub(super) fn take(ours: &mut Command, pytorch: &mut Command, rounds: u32, seconds: f64) -> Result<Self> {
        let mut peers = Peers { ours: Peer::start(ours)?, pytorch: Peer::start(pytorch)?, seconds };
        let mut settings = Vec::new();
        for threads in [2, 1] {
            for optimizer in ["sgd", "adam"] {
                eprintln!("{optimizer}, threads {threads}: {rounds} rounds");
                settings.push(peers.setting(threads, optimizer, rounds)?);
            }
        }
        drop(peers);

        eprintln!("{STARTS} starts");
        let mut measurements = Self { settings, our_starts: Vec::new(), pytorch_starts: Vec::new() };
        let (ours, pytorch) = (ours.arg("--first-step"), pytorch.arg("--first-step"));
        for _ in 0..STARTS {
            measurements.our_starts.push(FirstStep::measure(ours)?);
            measurements.pytorch_starts.push(FirstStep::measure(pytorch)?);
        }
        Ok(measurements)
    }
}

struct Peers {
    ours: Peer,
    pytorch: Peer,
    seconds: f64,
}

#[derive(Clone, Copy)]
enum Contestant {
    Ours,
    Eager,
    Fused,
}

impl Peers {
    fn setting(&mut self, threads: u32, optimizer: &'static str, rounds: u32) -> Result<Setting> {
        const ALL: [Contestant; 3] = [Contestant::Ours, Contestant::Eager, Contestant::Fused];
        let request = |contestant, steps: u64| {
            let variant = if matches!(contestant, Contestant::Fused) { "fused" } else { "eager" };
            json!({
                "model": "mlp", "layers": LAYERS, "batch": BATCH, "optimizer": optimizer,
                "variant": variant, "threads": threads, "steps": steps,
            })
        };
        let mut steps = [0; 3];
        for contestant in ALL {
            // The second run is warm.
            self.rate(contestant, &request(contestant, 100))?;
            let rate = self.rate(contestant, &request(contestant, 100))?;
            steps[contestant as usize] = ((self.seconds * rate / f64::from(BATCH)) as u64).max(1);
        }
        let mut setting = Setting { threads, optimizer, rounds: Vec::new() };
        for number in 0..rounds {
            let mut order = ALL;
            if number % 2 == 1 {
                order.reverse();
            }
            let mut round = Round::default();
            for contestant in order {
                let rate = self.rate(contestant, &request(contestant, steps[contestant as usize]))?;
                match contestant {
                    Contestant::Ours => {
                        round.ours = rate;
                        round.share_of_peak = if threads == 1 { Some(self.share_of_peak(rate)?) } else { None };
                    }
                    Contestant::Eager => round.eager = rate,
                    Contestant::Fused => round.fused = rate,
                }
            }
            setting.rounds.push(round);
        }
        Ok(setting)
    }

    fn rate(&mut self, contestant: Contestant, request: &Value) -> Result<f64> {
        let peer = if matches!(contestant, Contestant::Ours) { &mut self.ours } else { &mut self.pytorch };
        peer.ask(request, "samples_per_second")
    }

    /// The peak is measured right after the run: a core's clock moves.
    fn share_of_peak(&mut self, rate: f64) -> Result<f64> {
        let gflops = self.ours.ask(&json!({"model": "fma", "threads": 1}), "gflops")?;
        Ok(rate * flops_per_sample(&LAYERS) / (gflops * 1e9))
    }
}

/// Floating-point operations of the matrix products alone, forward and backward. The first layer's input needs no
/// gradient.
fn flops_per_sample(layers: &[u32]) -> f64 {
    let products: Vec<f64> = layers.windows(2).map(|pair| 2.0 * f64::from(pair[0]) * f64::from(pair[1])).collect();
    3.0 * products.iter().sum::<f64>() - products.first().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_layer_has_two_products_and_the_others_three() {
        assert_eq!(flops_per_sample(&[3, 5]), 2.0 * 2.0 * 15.0);
        assert_eq!(flops_per_sample(&[3, 5, 2]), 2.0 * 2.0 * 15.0 + 3.0 * 2.0 * 10.0);
    }
}
