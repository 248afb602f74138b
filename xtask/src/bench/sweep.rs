//! How our throughput grows with the work of a step: no size should be much slower than its neighbours.

use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::{model::Model, peer::Peer, statistics::Summary};

/// A model at one size.
struct Size {
    request: Value,
    /// The number that grows.
    grows: u32,
    batch: u32,
    flops_per_sample: f64,
}

/// Sizes that follow each other.
struct Sweep {
    name: &'static str,
    sizes: Vec<Size>,
}

/// `depth` linear layers with as many outputs as inputs, and one to 10.
fn layers(batch: u32, width: u32, depth: u32) -> (Value, f64) {
    let (w, d) = (f64::from(width), f64::from(depth));
    // The first layer's input needs no gradient.
    let products = 3.0 * (d * w * w + 10.0 * w) - w * w;
    (json!({"model": "layers", "batch": batch, "width": width, "depth": depth}), 2.0 * products)
}

fn sweeps() -> Vec<Sweep> {
    let sweep = |name, numbers: &[u32], size: &dyn Fn(u32) -> (u32, (Value, f64))| Sweep {
        name,
        sizes: numbers
            .iter()
            .map(|&grows| {
                let (batch, (request, flops_per_sample)) = size(grows);
                Size { request, grows, batch, flops_per_sample }
            })
            .collect(),
    };
    let of =
        |model: Model| move |batch| (batch, (json!({"model": model.name(), "batch": batch}), model.flops_per_sample()));
    let batches = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
    vec![
        sweep("mlp, batch", &batches, &of(Model::Mlp)),
        sweep("cnn, batch", &batches[..10], &of(Model::Cnn)),
        sweep("transformer, batch", &batches[..10], &of(Model::Transformer)),
        sweep("lstm, batch", &batches[..10], &of(Model::Lstm)),
        sweep(
            "2 layers, batch 64, width",
            &[16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048],
            &|width| (64, layers(64, width, 2)),
        ),
        sweep("width 128, batch 64, depth", &[1, 2, 3, 4, 6, 8, 12, 16], &|depth| (64, layers(64, 128, depth))),
    ]
}

/// Measures all sizes in turn, `rounds` times, and prints medians.
pub(super) fn run(ours: &mut Command, rounds: u32, seconds: f64) -> Result<()> {
    let mut peer = Peer::start(ours)?;
    println!("samples per second and GFLOP/s on two threads, SGD; medians of {rounds} runs");
    for Sweep { name, sizes } in sweeps() {
        let mut rates = vec![Vec::new(); sizes.len()];
        for _ in 0..rounds {
            for (size, rates) in sizes.iter().zip(&mut rates) {
                rates.push(rate(&mut peer, size, seconds)?);
            }
        }
        let medians: Vec<f64> = rates.into_iter().map(|rates| Summary::of(rates).median).collect();
        let gflops: Vec<f64> =
            medians.iter().zip(&sizes).map(|(rate, size)| rate * size.flops_per_sample / 1e9).collect();
        println!("\n{name}");
        for (i, size) in sizes.iter().enumerate() {
            println!("{:>6} {:>12.0} {:>8.1}  {}", size.grows, medians[i], gflops[i], judged(&gflops, i));
        }
    }
    Ok(())
}

fn rate(peer: &mut Peer, size: &Size, seconds: f64) -> Result<f64> {
    let mut request = size.request.clone();
    request["steps"] = 2.into();
    let first = peer.ask(&request, "samples_per_second")?;
    request["steps"] = ((seconds * first / f64::from(size.batch)) as u64).max(2).into();
    peer.ask(&request, "samples_per_second")
}

/// What is odd about a size among its neighbours.
fn judged(gflops: &[f64], i: usize) -> String {
    let before = i.checked_sub(1).map(|before| gflops[before]);
    let after = gflops.get(i + 1).copied();
    let highest = before.into_iter().chain(after).fold(0.0, f64::max);
    match before {
        // Growing is what sizes are for: only the larger neighbour of a size may be twice as fast.
        Some(before) if gflops[i] < 0.9 * before => format!("falls to {:.2} of the one before", gflops[i] / before),
        Some(_) if gflops[i] < 0.5 * highest => "less than half of the next".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_fall_off_are_named() {
        let gflops = [1.0, 3.0, 2.0, 2.5, 6.0];
        let said: Vec<_> = (0..5).map(|i| judged(&gflops, i)).collect();
        assert_eq!(said, ["", "", "falls to 0.67 of the one before", "less than half of the next", ""]);
    }

    #[test]
    fn work_grows_within_each_sweep() {
        for Sweep { name, sizes } in sweeps() {
            let work: Vec<f64> = sizes.iter().map(|size| f64::from(size.batch) * size.flops_per_sample).collect();
            assert!(work.is_sorted(), "{name}");
        }
    }
}
