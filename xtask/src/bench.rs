//! Our engine against PyTorch, on the machine at hand.
//!
//! # Layout
//!
//! - [`model`]: what can be trained
//! - [`peer`]: a process that trains on request
//! - [`measure`]: what is asked of the peers, in turn
//! - [`statistics`]: medians and quartiles
//! - [`sweep`]: how our throughput grows with batch, width and depth
//! - [`report`]: the table, the JSON, the goals

mod measure;
mod model;
mod peer;
mod report;
mod statistics;
mod sweep;

use std::fs;

use anyhow::Result;
use clap::{Args, Subcommand};

use self::{measure::Measurements, model::Model};
use crate::{
    command, libtorch, python, tools,
    workspace::{WORKER, Workspace},
};

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Training on the CPU: our engine against PyTorch, eager and fused
    Engine(Engine),
    /// Training with the worker on libtorch, against PyTorch on the same device
    Cuda(Cuda),
    /// Handing tasks over: added time, tasks per second, bytes, memory
    Dispatch,
    /// RunPod, on its stand-in: added time per request, cold starts, transfers, polls, bytes
    Runpod,
    /// Decisions with 2 to 100 providers, the ledger's part of a task, a thousand tasks at once
    Router,
    /// What the boundary of a plugin costs
    Plugin,
    /// The Lambda function as users package it, in AWS's emulator: size, start, what the provider adds, many small jobs
    Aws,
}

/// How to measure the engine.
#[derive(Args)]
pub(crate) struct Engine {
    /// What is trained
    #[arg(long, value_enum, default_value_t = Model::Mlp)]
    model: Model,
    /// Rounds in which each contestant runs once; a shared machine needs at least 10
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// How long each run takes
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    seconds_per_run: f64,
    /// Measures our engine alone, over many sizes of batch, width and depth
    #[arg(long, conflicts_with_all = ["model", "json"])]
    sweep: bool,
    /// Prints JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// How to measure the worker on libtorch.
#[derive(Args)]
pub(crate) struct Cuda {
    /// What to compute on: cpu, or cuda:0
    #[arg(long, default_value = "cuda:0")]
    device: String,
    /// What is trained
    #[arg(long, value_enum, default_value_t = Model::Mlp)]
    model: Model,
    /// Rounds in which each contestant runs once; a shared machine needs at least 10
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// How long each run takes
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    seconds_per_run: f64,
    /// Prints JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub(crate) fn run(workspace: &Workspace, bench: &Bench) -> Result<()> {
    let engine = match bench {
        Bench::Engine(engine) => engine,
        Bench::Cuda(asked) => return cuda(workspace, asked),
        Bench::Dispatch => return dispatch(workspace),
        Bench::Runpod => return runpod(workspace),
        Bench::Router => return router(workspace),
        Bench::Aws => return aws(workspace),
        Bench::Plugin => {
            return command::run(&mut workspace.cargo("bench --quiet --package outboard-e2e --bench plugin"));
        }
    };
    let worker = workspace.release("--package outboard-engine --example bench_worker", "examples/bench_worker")?;
    let mut ours = workspace.command(worker);
    if engine.sweep {
        return sweep::run(&mut ours, engine.pairs, engine.seconds_per_run);
    }
    let mut pytorch = python::python(workspace)?;
    pytorch.arg("xtask/python/engine_peer.py");
    let (model, goals) = (engine.model, engine.model.goals());
    let taken = Measurements::take(model, goals, &mut ours, &mut pytorch, engine.pairs, engine.seconds_per_run)?;
    print(&taken, engine.json);
    Ok(())
}

fn print(measurements: &Measurements, json: bool) {
    match json {
        true => println!("{:#}", report::json(measurements)),
        false => print!("{}", report::table(measurements)),
    }
}

fn cuda(workspace: &Workspace, asked: &Cuda) -> Result<()> {
    const DEVICE: &str = "TEST_DEVICE";
    let worker = libtorch::release(workspace, "--example cuda_bench_worker", "examples/cuda_bench_worker")?;
    let mut ours = workspace.command(worker);
    ours.env(DEVICE, &asked.device);
    let mut pytorch = python::python(workspace)?;
    pytorch.arg("xtask/python/engine_peer.py").env(DEVICE, &asked.device);
    let (model, goals) = (asked.model, asked.model.libtorch_goals());
    let taken = Measurements::take(model, goals, &mut ours, &mut pytorch, asked.pairs, asked.seconds_per_run)?;
    print(&taken, asked.json);
    Ok(())
}

fn dispatch(workspace: &Workspace) -> Result<()> {
    let program = workspace.program()?;
    command::run(
        workspace.cargo("bench --quiet --package outboard-e2e --bench dispatch").env("TEST_OUTBOARD_BIN", program),
    )
}

fn runpod(workspace: &Workspace) -> Result<()> {
    command::run(&mut workspace.cargo("bench --quiet --package outboard-runpod"))?;
    let (server, python) = (tools::S3_SERVER.install(workspace)?, python::interpreter(workspace)?);
    let mut bench = workspace.cargo("bench --quiet --package outboard-e2e --bench runpod --bench runpod_torch");
    bench
        .env("TEST_S3_SERVER", server)
        .env("TEST_RUNPOD_PYTHON", python)
        .env("TEST_RUNPOD_WORKER", workspace.root.join(WORKER).join("src"))
        .env("TEST_OUTBOARD_BIN", workspace.program()?);
    command::run(&mut bench)
}

fn aws(workspace: &Workspace) -> Result<()> {
    const ZIP_GOAL_MB: f64 = 15.0;
    let program = workspace.program()?;
    let folder = workspace.target.join("xtask-aws");
    let (zip, bootstrap) = (folder.join("function.zip"), folder.join("bootstrap"));
    fs::create_dir_all(&folder)?;
    command::run(workspace.command(&program).args(["aws", "package", "--output"]).arg(&zip))?;
    let mb = fs::metadata(&zip)?.len() as f64 / 1e6;
    let verdict = if mb <= ZIP_GOAL_MB { "met" } else { "missed" };
    println!("the function's zip has {mb:.1} MB; the goal of {ZIP_GOAL_MB} MB is {verdict}");
    command::run(python::python(workspace)?.args(["-m", "zipfile", "-e"]).args([&zip, &folder]))?;
    tools::executable(&bootstrap)?;
    let mut bench = workspace.cargo("bench --quiet --package outboard-e2e --bench aws");
    bench
        .env("TEST_LAMBDA_BOOTSTRAP", bootstrap)
        .env("TEST_LAMBDA_RIE", tools::LAMBDA_RIE.install(workspace)?)
        .env("TEST_CARGO_LAMBDA", tools::CARGO_LAMBDA.install(workspace)?)
        .env("TEST_LAMBDA_PYTHON", python::interpreter(workspace)?)
        .env("TEST_S3_SERVER", tools::S3_SERVER.install(workspace)?);
    command::run(&mut bench)
}

fn router(workspace: &Workspace) -> Result<()> {
    command::run(&mut workspace.cargo("bench --quiet --package outboard-router"))?;
    command::run(&mut workspace.cargo("bench --quiet --package outboard-e2e --bench router"))
}
