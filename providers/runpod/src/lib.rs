#![doc = include_str!("../README.md")]

mod api;
mod bucket;
mod config;
mod connection;
mod diagnosis;
mod endpoints;
mod follow;
mod job_id;
mod look;
mod parse_error;
mod price;
mod provider;
mod submit;
#[cfg(test)]
mod tests;
mod transport_error;

pub use config::{Config, EndpointConfig};
pub use provider::RunPodProvider;
