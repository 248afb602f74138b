#![doc = include_str!("../README.md")]

pub mod courier;
pub mod inline;
#[cfg(feature = "lambda")]
pub mod lambda;
mod memory;
pub mod options;
mod preflight;
mod process;
pub mod runner;
pub mod server;
pub mod supervisor;
pub mod task;
pub mod token;
pub mod wire;

pub use courier::carry;
pub use options::{Options, main};
pub use runner::Runner;
pub use server::{Server, ServerConfig, Tls, serve};
pub use supervisor::{Supervisor, TaskProgram};
pub use task::{serve_stdio, serve_stdio_on};
pub use token::Token;
