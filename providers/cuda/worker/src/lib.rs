#![doc = include_str!("../README.md")]

mod data;
mod device;
mod dropout;
mod encoder;
mod error;
mod layers;
mod loss;
mod model;
mod optimizer;
mod parameters;

pub use data::Data;
pub use device::{CALLERS, Choice, LIBTORCH, Libtorch};
pub use model::TorchModel;
