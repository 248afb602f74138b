#![doc = include_str!("../README.md")]

pub mod bench;
pub mod config;
pub mod diagnosis;
mod examine;
pub mod gpu;
mod price;
pub mod provider;

pub use bench::bench;
pub use config::{Config, Devices};
pub use examine::examine;
pub use provider::CudaProvider;
