#![doc = include_str!("../README.md")]

pub mod proxy;
pub mod weather;

pub use proxy::Proxy;
pub use weather::{Fault, Weather};
