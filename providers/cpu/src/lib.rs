#![doc = include_str!("../README.md")]

pub mod config;
pub mod provider;
pub mod tasks;

pub use config::Config;
pub use provider::CpuProvider;
