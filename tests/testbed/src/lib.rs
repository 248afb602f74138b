#![doc = include_str!("../README.md")]

pub mod lambda;
pub mod proxy;
pub mod runpod;
pub mod weather;

pub use proxy::{Link, Proxy};
pub use runpod::RunPod;
pub use weather::{Fault, Weather};
