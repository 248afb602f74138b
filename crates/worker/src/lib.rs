#![doc = include_str!("../README.md")]

pub mod courier;
pub mod inline;
pub mod options;
mod process;
pub mod server;
pub mod supervisor;
pub mod task;
pub mod token;
pub mod wire;

pub use courier::carry;
pub use options::{Options, main};
pub use server::{Server, ServerConfig, Tls, serve};
pub use supervisor::{Supervisor, TaskProgram};
pub use task::serve_stdio;
pub use token::Token;
