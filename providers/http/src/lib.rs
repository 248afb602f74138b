#![doc = include_str!("../README.md")]

mod choose;
pub mod config;
mod connection;
mod endpoint;
mod examine;
mod parse_error;
pub mod provider;
mod transport_error;
mod worker;

#[cfg(test)]
mod stand_in;
#[cfg(test)]
mod tests;

pub use config::{Config, WorkerConfig};
pub use examine::examine;
pub use provider::HttpProvider;
