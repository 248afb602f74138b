#![doc = include_str!("../README.md")]

mod config;
mod connection;
mod deploy;
mod examine;
mod follow;
mod invocation;
mod look;
mod parse_error;
mod price;
mod provider;
mod report;
mod submit;
mod task_name;
#[cfg(test)]
mod tests;

pub use config::{Architecture, Config};
pub use deploy::{Deployed, Deployment, deploy};
pub use examine::examine;
pub use provider::AwsLambdaProvider;
