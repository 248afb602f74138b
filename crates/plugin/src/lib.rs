#![doc = include_str!("../README.md")]
// The boundary is C: what crosses it can't be checked by the compiler.
#![allow(unsafe_code)]

pub mod abi;
#[cfg(feature = "host")]
pub mod host;
pub mod message;
pub mod sdk;
pub mod tasks;

#[cfg(feature = "host")]
pub use host::{Isolation, Place, PluginConfig, PluginProvider, serve};
pub use sdk::{HostHandle, ProviderPlugin};
pub use tasks::{Running, Tasks};
