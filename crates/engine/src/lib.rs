#![doc = include_str!("../README.md")]

mod cpu;
pub mod execute;
pub mod kernels;
pub mod loss;
#[allow(unsafe_code)] // Tiles of one matrix are written by several threads.
mod matmul;
pub mod network;
pub mod numerics;
mod ops;
pub mod optimizer;
mod parameters;
pub mod simd;
#[allow(unsafe_code)] // Tiles of one matrix lie in registers.
mod tiles;
pub mod trainer;

pub use cpu::{Cpu, CpuModel};
pub use execute::{Blobs, describe, execute, execute_on};
pub use kernels::{Kernels, Model};
pub use trainer::Trainer;

/// Layers that the engine knows, by `type`.
pub const LAYERS: [&str; 28] = [
    "linear",
    "relu",
    "gelu",
    "silu",
    "tanh",
    "sigmoid",
    "softmax",
    "flatten",
    "dropout",
    "conv1d",
    "conv2d",
    "max_pool1d",
    "max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "batch_norm1d",
    "batch_norm2d",
    "layer_norm",
    "embedding",
    "positional_embedding",
    "residual",
    "transformer_encoder",
    "lstm",
    "gru",
    "mean_pool",
    "last_pool",
];
