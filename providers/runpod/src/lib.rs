#![doc = include_str!("../README.md")]

mod account;
mod api;
mod bucket;
mod catalogue;
mod config;
mod connection;
mod deploy;
mod diagnosis;
mod elsewhere;
mod endpoints;
mod examine;
mod follow;
mod job_id;
mod launches;
mod look;
mod parse_error;
mod price;
mod provider;
mod recording;
mod submit;
#[cfg(test)]
mod tests;
mod transport_error;

pub use account::{Account, Billed};
pub use config::{Config, EndpointConfig};
pub use deploy::{DeployConfig, Deployment};
pub use examine::examine;
pub use provider::RunPodProvider;
pub use recording::Recording;
