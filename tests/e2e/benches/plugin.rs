//! What the boundary of a plugin costs: `cargo xtask bench plugin`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use outboard::{
    config::CpuConfig,
    plugin::{Isolation, PluginConfig, PluginProvider},
    plugin_place,
};
use outboard_core::{ComputeProvider, provider::Health};
use outboard_cpu::CpuProvider;
use outboard_e2e::{plugins::c_example, program};
use outboard_store::FolderStore;

const CALLS: u32 = 20_000;
const GOAL: Duration = Duration::from_micros(20);

#[tokio::main]
async fn main() {
    let folder = tempfile::Builder::new().prefix("plugin").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let library = c_example(folder.path(), &[]);
    let store = FolderStore::open(folder.path()).unwrap();
    let linked: Arc<dyn ComputeProvider> =
        Arc::new(CpuProvider::new(&CpuConfig { enabled: true, threads: 1 }, store.clone()).unwrap());
    let linked = each(&*linked).await;
    println!("health of a linked provider: {linked:?} a call");
    let other_thread = handed_over().await;
    println!("another thread, which a deadline needs, and back: {other_thread:?}");
    for (name, isolation, goal) in [("in this process", Isolation::None, true), ("isolated", Isolation::Process, false)]
    {
        let mut place = plugin_place(folder.path(), &store);
        place.server.program = program().into();
        let config = PluginConfig { isolation, ..PluginConfig::new(library.clone()) };
        let plugin = PluginProvider::load("beside", &config, &place).unwrap();
        let added = each(&plugin).await.saturating_sub(linked);
        let verdict = match (goal, added <= GOAL) {
            (false, _) => String::new(),
            (true, true) => format!("; the goal of {GOAL:?} is met"),
            (true, false) => format!("; the goal of {GOAL:?} is missed"),
        };
        println!("health of a plugin {name}: {added:?} more{verdict}");
    }
}

async fn each(provider: &dyn ComputeProvider) -> Duration {
    median(async || assert_eq!(provider.health().await.unwrap(), Health::Ready)).await
}

/// What waking another thread, and being woken by it, costs on this machine.
async fn handed_over() -> Duration {
    median(async || tokio::task::spawn_blocking(|| ()).await.unwrap()).await
}

async fn median(call: impl AsyncFn()) -> Duration {
    let mut rounds: Vec<_> = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        for _ in 0..CALLS / 5 {
            call().await;
        }
        rounds.push(began.elapsed() / (CALLS / 5));
    }
    rounds.sort();
    rounds[2]
}
