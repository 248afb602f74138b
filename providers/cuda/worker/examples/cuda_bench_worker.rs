//! Libtorch's side of `cargo xtask bench cuda`; computes on the device that `TEST_DEVICE` names.

use std::env;

use outboard_cuda_worker::{CALLERS, Choice, Libtorch};

#[path = "../../../../crates/engine/examples/bench/mod.rs"]
mod bench;

fn main() -> bench::Result<()> {
    let device = env::var("TEST_DEVICE").map_or(Ok(Choice::Cpu), |device| device.parse())?;
    bench::serve(|threads| Ok(Libtorch::open(device, false, threads)?), |_| bench::pool(CALLERS))
}
