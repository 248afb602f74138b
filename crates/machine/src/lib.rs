#![doc = include_str!("../README.md")]

pub mod checks;
pub mod devices;
pub mod disk;
pub mod environment;
mod libraries;
pub mod memory;
pub mod variables;

pub use environment::environment;
