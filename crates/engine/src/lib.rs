#![doc = include_str!("../README.md")]

pub mod execute;
pub mod loss;
#[allow(unsafe_code)] // Tiles of one matrix are written by several threads.
mod matmul;
pub mod network;
pub mod numerics;
mod ops;
pub mod optimizer;
mod parameters;
pub mod simd;
pub mod trainer;

pub use execute::{Blobs, execute};
pub use trainer::Trainer;

/// Layers that the engine knows, by `type`.
pub const LAYERS: [&str; 9] = ["linear", "relu", "gelu", "silu", "tanh", "sigmoid", "softmax", "flatten", "dropout"];
