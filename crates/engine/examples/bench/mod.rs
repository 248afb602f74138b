//! Our side of `cargo xtask bench engine` and `bench cuda`: reads requests as JSON lines, answers each with what it
//! measured.

use std::{
    error::Error,
    io::{BufRead, Write},
    time::Instant,
};

use outboard_core::{Layer, job::Train, layer, task::Architecture};
use outboard_engine::{Kernels, Model, Trainer};
use outboard_protocol::{
    Checkpoint, Dataset, Position, Target, initial,
    random::{Domain, Stream},
};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::Deserialize;
use serde_json::json;

const ROWS: usize = 4096;

#[derive(Clone, PartialEq, Deserialize)]
struct Request {
    model: String,
    #[serde(default = "sgd")]
    optimizer: String,
    #[serde(default = "two")]
    threads: usize,
    #[serde(default = "batch")]
    batch: usize,
    #[serde(default)]
    steps: usize,
    /// Of `layers`: the inputs, and the outputs of each layer but the last.
    #[serde(default)]
    width: usize,
    /// Of `layers`: linear layers before the last.
    #[serde(default)]
    depth: usize,
}

fn sgd() -> String {
    "sgd".into()
}

fn two() -> usize {
    2
}

fn batch() -> usize {
    64
}

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The layers of a model, the shape of a row, and its classes.
fn model(request: &Request) -> Result<(Architecture, usize)> {
    let linear = |out: usize| json!({"type": "linear", "out": out});
    let conv = |out: usize| json!({"type": "conv2d", "out": out, "kernel": 3, "padding": 1});
    let pool = json!({"type": "max_pool2d", "kernel": 2});
    let encoder = json!({"type": "transformer_encoder", "heads": 4, "ff": 128, "dropout": 0.0});
    let (layers, input, classes) = match request.model.as_str() {
        "layers" => {
            let hidden = (0..request.depth).flat_map(|_| [linear(request.width), json!("relu")]);
            (hidden.chain([linear(10)]).collect(), vec![request.width], 10)
        }
        "mlp" => (json!([linear(256), "relu", linear(128), "relu", linear(10)]), vec![784], 10),
        "cnn" => {
            let head = [json!("flatten"), linear(128), json!("relu"), linear(10)];
            let body = [conv(32), json!("relu"), pool.clone(), conv(64), json!("relu"), pool];
            (json!([&body[..], &head[..]].concat()), vec![1, 28, 28], 10)
        }
        "transformer" => {
            let embedding = json!({"type": "embedding", "tokens": 1000, "out": 64});
            (json!([embedding, encoder, encoder, "mean_pool", linear(4)]), vec![32], 4)
        }
        "lstm" => (json!([{"type": "lstm", "out": 128}, "last_pool", linear(10)]), vec![32, 32], 10),
        other => return Err(format!("unknown model {other}").into()),
    };
    #[derive(Deserialize)]
    struct Model {
        #[serde(deserialize_with = "layer::list")]
        layers: Vec<Layer>,
    }
    let Model { layers } = serde_json::from_value(json!({"layers": layers}))?;
    Ok((Architecture { layers, input }, classes))
}

fn trainer<K: Kernels>(kernels: &K, request: &Request) -> Result<Trainer<K::Model>> {
    let (model, classes) = model(request)?;
    let lr = if request.optimizer == "sgd" { 0.01 } else { 1e-3 };
    let train: Train = serde_json::from_value(json!({
        "loss": "cross_entropy", "optimizer": {"type": request.optimizer, "lr": lr},
        "epochs": u32::MAX, "batch_size": request.batch,
    }))?;
    let stream = Stream::new(1, Domain::Weights, 99);
    let tokens = match model.layers[0] {
        Layer::Embedding { tokens, .. } => Some(tokens as u64),
        _ => None,
    };
    let number = |i: u64| match tokens {
        Some(tokens) => (stream.at(i) % tokens) as f32,
        None => stream.uniform(i) as f32 * 2.0 - 1.0,
    };
    let width: usize = model.input.iter().product();
    let x = (0..(ROWS * width) as u64).map(number).collect();
    let y = Target::Classes((0..ROWS as u64).map(|i| (stream.at(i << 32) % classes as u64) as i64).collect());
    let data = Dataset { shape: model.input.clone(), x, y, weights: None };
    let plan = layer::plan(&model.layers, &model.input)?;
    let tensors = initial::weights(&plan, 0).into_iter().map(|(name, t)| (format!("model.{name}"), t)).collect();
    let start = Checkpoint { position: Position::start("bench", 0), tensors };
    Ok(Trainer::on(kernels, &model, &train, data, None, &start)?)
}

/// Trains, and waits until the device is done.
fn steps<M: Model>(trainer: &mut Trainer<M>, count: usize) -> Result<()> {
    for _ in 0..count {
        trainer.step()?;
    }
    Ok(trainer.count()?)
}

fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Multiply-adds per second of one core, in GFLOP/s, measured with enough independent sums to hide their latency.
fn fma_peak() -> f64 {
    struct Loop;
    impl pulp::WithSimd for Loop {
        type Output = f64;
        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, simd: S) -> f64 {
            const SUMS: usize = 12;
            const ROUNDS: usize = 1 << 20;
            let mut best = f64::MAX;
            for _ in 0..20 {
                let factor = simd.splat_f32s(std::hint::black_box(0.999_999));
                let mut sums = [simd.splat_f32s(std::hint::black_box(1.0)); SUMS];
                let began = Instant::now();
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = simd.mul_add_f32s(*sum, factor, factor);
                    }
                }
                std::hint::black_box(sums);
                best = best.min(began.elapsed().as_secs_f64());
            }
            (2 * SUMS * ROUNDS * S::F32_LANES) as f64 / best / 1e9
        }
    }
    pulp::Arch::new().dispatch(Loop)
}

/// So many threads.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool> {
    Ok(ThreadPoolBuilder::new().num_threads(threads).build()?)
}

/// Answers requests until there is none any more. `kernels` gives what computes on so many threads, `pool` the threads
/// that call it.
pub(crate) fn serve<K: Kernels + Sync>(
    kernels: impl Fn(usize) -> Result<K>,
    pool: impl Fn(usize) -> Result<ThreadPool>,
) -> Result<()>
where
    K::Model: Send,
    <K::Model as Model>::Data: Send,
{
    let mut arguments = std::env::args().skip_while(|arg| arg != "--first-step").skip(1);
    if let Some(model) = arguments.next() {
        let request: Request = serde_json::from_value(json!({"model": model}))?;
        let kernels = kernels(request.threads)?;
        let first =
            || steps(&mut trainer(&kernels, &request).map_err(|e| e.to_string())?, 1).map_err(|e| e.to_string());
        pool(request.threads)?.install(first)?;
        println!("{}", json!({"done": true, "peak_rss_bytes": peak_rss()}));
        return Ok(());
    }
    let mut warm: Option<(Request, Trainer<K::Model>, ThreadPool)> = None;
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let answer = if request.model == "fma" {
            json!({"gflops": fma_peak()})
        } else {
            let (_, trainer, pool) = match &mut warm {
                Some(warm) if warm.0 == Request { steps: warm.0.steps, ..request.clone() } => warm,
                _ => {
                    warm = None;
                    let (kernels, pool) = (kernels(request.threads)?, pool(request.threads)?);
                    let fresh = pool.install(|| {
                        let mut fresh = trainer(&kernels, &request).map_err(|e| e.to_string())?;
                        steps(&mut fresh, 20).map_err(|e| e.to_string()).map(|()| fresh)
                    })?;
                    warm.insert((request.clone(), fresh, pool))
                }
            };
            let began = Instant::now();
            pool.install(|| steps(trainer, request.steps).map_err(|e| e.to_string()))?;
            let seconds = began.elapsed().as_secs_f64();
            json!({
                "samples_per_second": (request.steps * request.batch) as f64 / seconds,
                "seconds": seconds,
                "peak_rss_bytes": peak_rss(),
            })
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
