#![doc = include_str!("../README.md")]

pub mod config;
pub mod provider;

pub use config::Config;
pub use provider::CpuProvider;
