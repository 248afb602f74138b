//! The engine's side of `cargo xtask bench engine`.

use outboard_engine::Cpu;

mod bench;

fn main() -> bench::Result<()> {
    bench::serve(|_| Ok(Cpu), bench::pool)
}
