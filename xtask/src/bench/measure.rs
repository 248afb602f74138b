//! What is asked of the peers, in turn: neighbours on the machine then disturb all of them alike.

use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    model::{Goals, Model},
    peer::{FirstStep, Peer},
};

/// How often each peer is started to measure its first step.
const STARTS: usize = 5;

/// Everything that was measured.
pub(super) struct Measurements {
    /// What was trained.
    pub(super) model: Model,
    /// What should be reached.
    pub(super) goals: Goals,
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
    pub(super) fn take(
        model: Model,
        goals: Goals,
        ours: &mut Command,
        pytorch: &mut Command,
        rounds: u32,
        seconds: f64,
    ) -> Result<Self> {
        let mut peers = Peers { model, ours: Peer::start(ours)?, pytorch: Peer::start(pytorch)?, seconds };
        let mut settings = Vec::new();
        for threads in [2, 1] {
            for optimizer in ["sgd", "adam"] {
                eprintln!("{optimizer}, threads {threads}: {rounds} rounds");
                settings.push(peers.setting(threads, optimizer, rounds)?);
            }
        }
        drop(peers);

        eprintln!("{STARTS} starts");
        let mut measurements = Self { model, goals, settings, our_starts: Vec::new(), pytorch_starts: Vec::new() };
        let [ours, pytorch] = [ours, pytorch].map(|peer| peer.args(["--first-step", model.name()]));
        for _ in 0..STARTS {
            measurements.our_starts.push(FirstStep::measure(ours)?);
            measurements.pytorch_starts.push(FirstStep::measure(pytorch)?);
        }
        Ok(measurements)
    }
}

struct Peers {
    model: Model,
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
        let model = self.model;
        let request = |contestant, steps: u64| {
            let variant = if matches!(contestant, Contestant::Fused) { "fused" } else { "eager" };
            json!({
                "model": model.name(), "batch": model.batch(), "optimizer": optimizer,
                "variant": variant, "threads": threads, "steps": steps,
            })
        };
        let mut steps = [0; 3];
        for contestant in ALL {
            // The second run is warm.
            self.rate(contestant, &request(contestant, 30))?;
            let rate = self.rate(contestant, &request(contestant, 30))?;
            steps[contestant as usize] = ((self.seconds * rate / f64::from(model.batch())) as u64).max(1);
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
        Ok(rate * self.model.flops_per_sample() / (gflops * 1e9))
    }
}
