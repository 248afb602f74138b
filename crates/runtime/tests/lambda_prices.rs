//! When AWS Lambda is cheaper than RunPod: the table in its README, quoted by the router from what both bill and from what
//! it believes of them before it has seen them at work. `UPDATE=1 cargo test -p outboard --test lambda_prices` writes it anew.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeMap, env, fs, path::Path, sync::Arc, time::Duration};

use outboard_aws_lambda::AwsLambdaProvider;
use outboard_core::{
    ComputeProvider, Layer, NanoUsd,
    layer::{self, Planned},
    provider::Health,
    task::OperationKind,
};
use outboard_router::{Budget, Candidate, Demand, Plan, Policy, Quote, RouterConfig, Terms, decide, flops};
use outboard_runpod::{EndpointConfig, RunPodProvider};
use outboard_store::FolderStore;
use serde::Deserialize;

const BEGIN: &str = "<!-- written by `UPDATE=1 cargo test -p outboard --test lambda_prices` -->\n";
const END: &str = "<!-- until here -->";
const GPU: &str = "RTX 4090";

/// Rows of the data set.
const ROWS: u64 = 10_000;
const EPOCHS: [u32; 4] = [10, 100, 1000, 10_000];

/// The reference models of `cargo xtask bench engine`: their layers, and the shape of a row.
const MODELS: [(&str, &str, &[usize]); 4] = [
    (
        "MLP 784-256-128-10",
        r#"[{"type":"linear","out":256},"relu",{"type":"linear","out":128},"relu",{"type":"linear","out":10}]"#,
        &[784],
    ),
    (
        "CNN on 28 x 28",
        r#"[{"type":"conv2d","out":32,"kernel":3,"padding":1},"relu",{"type":"max_pool2d","kernel":2},
            {"type":"conv2d","out":64,"kernel":3,"padding":1},"relu",{"type":"max_pool2d","kernel":2},
            "flatten",{"type":"linear","out":128},"relu",{"type":"linear","out":10}]"#,
        &[1, 28, 28],
    ),
    (
        "transformer, 32 tokens",
        r#"[{"type":"embedding","tokens":1000,"out":64},{"type":"transformer_encoder","heads":4,"ff":128,"dropout":0.0},
            {"type":"transformer_encoder","heads":4,"ff":128,"dropout":0.0},"mean_pool",{"type":"linear","out":4}]"#,
        &[32],
    ),
    ("LSTM, 32 steps", r#"[{"type":"lstm","out":128},"last_pool",{"type":"linear","out":10}]"#, &[32, 32]),
];

/// What is left to do of a job with this model.
fn demand(layers: &[Layer], input: &[usize], epochs: u32) -> Demand {
    const BYTES: u64 = 4;
    let plan = layer::plan(layers, input).unwrap();
    let size = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let parameters = |layer: &Planned| layer.parameters.iter().map(|parameter| size(&parameter.shape)).sum::<u64>();
    // Weights and the two moments of Adam.
    let checkpoint = 3 * BYTES * plan.iter().map(parameters).sum::<u64>();
    let config = RouterConfig::default();
    Demand {
        operation: OperationKind::Train,
        layers: Vec::new(),
        epochs_left: epochs,
        flops_per_epoch: ROWS * flops(layers, input).unwrap().training,
        bytes_down: ROWS * BYTES * size(input) + checkpoint,
        bytes_there: BTreeMap::new(),
        bytes_up: checkpoint,
        // With a store nothing travels beside a task.
        largest_payload: 0,
        deadline_left: None,
        pins: Vec::new(),
        excluded: Vec::new(),
        poisoned: None,
        terms: Terms { policy: Policy::Cheapest, overhead_share: config.overhead_share, ..Terms::default() },
    }
}

/// Lambda with one core, and an endpoint of RunPod, by the price lists that are built in.
async fn candidates() -> Vec<Candidate> {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    let lambda = outboard::config::AwsLambdaConfig { region: Some("us-east-1".into()), ..Default::default() };
    // Nobody listens there: the catalogue of today isn't asked.
    let nobody = "http://127.0.0.1:9".to_string();
    let runpod = outboard::config::RunPodConfig {
        api_key: Some("rpa_none".into()),
        endpoints: vec![EndpointConfig { id: "e".into(), gpu: GPU.into(), weight: 1 }],
        base_url: nobody.clone(),
        rest_url: nobody.clone(),
        manage_url: nobody,
        ..Default::default()
    };
    let providers: [Arc<dyn ComputeProvider>; 2] = [
        Arc::new(AwsLambdaProvider::new(&lambda, store.clone(), None).unwrap()),
        Arc::new(RunPodProvider::new(&runpod, store, None).unwrap()),
    ];
    let mut candidates = Vec::new();
    for provider in providers {
        let price = provider.price().await.map_err(|error| error.report());
        candidates.push(Candidate::new(provider.info(), provider.capabilities(), price, Health::Ready));
    }
    candidates
}

fn quote<'a>(plan: &'a Plan, provider: &str) -> &'a Quote {
    plan.rows.iter().find(|row| row.provider == provider).unwrap().quote.as_ref().unwrap()
}

fn is_cheaper(candidates: &[Candidate], demand: &Demand) -> bool {
    let plan = decide(candidates, demand, &Budget::default(), 0);
    quote(&plan, "aws-lambda").expected_cost <= quote(&plan, "runpod").expected_cost
}

/// The most epochs for which Lambda is cheaper.
fn break_even(candidates: &[Candidate], layers: &[Layer], input: &[usize]) -> u32 {
    let (mut cheaper, mut dearer) = (0, 1 << 30);
    while dearer - cheaper > 1 {
        let epochs = u32::midpoint(cheaper, dearer);
        if is_cheaper(candidates, &demand(layers, input, epochs)) { cheaper = epochs } else { dearer = epochs }
    }
    cheaper
}

/// To two digits: more would claim more than is known.
fn two_digits(value: f64) -> f64 {
    if value == 0.0 {
        return value;
    }
    let step = 10f64.powf(value.abs().log10().floor() - 1.0);
    (value / step).round() * step
}

fn time(time: Duration) -> String {
    let seconds = two_digits(time.as_secs_f64());
    match seconds {
        ..90.0 => format!("{seconds:.0} s"),
        ..5400.0 => format!("{:.0} min", two_digits(seconds / 60.0)),
        ..36_000.0 => format!("{:.1} h", two_digits(seconds / 3600.0)),
        _ => format!("{:.0} h", two_digits(seconds / 3600.0)),
    }
}

fn usd(cost: NanoUsd) -> String {
    let usd = two_digits(cost.0 as f64 / 1e9);
    match usd {
        ..0.01 => format!("${usd:.4}"),
        ..0.1 => format!("${usd:.3}"),
        ..1.0 => format!("${usd:.2}"),
        ..10.0 => format!("${usd:.1}"),
        _ => format!("${usd:.0}"),
    }
}

fn rows(count: u64) -> String {
    let millions = two_digits(count as f64 / 1e6);
    match millions {
        ..1.0 => format!("{millions:.2} M"),
        ..10.0 => format!("{millions:.1} M"),
        _ => format!("{millions:.0} M"),
    }
}

async fn table() -> String {
    #[derive(Deserialize)]
    struct Model {
        #[serde(deserialize_with = "layer::list")]
        layers: Vec<Layer>,
    }
    let candidates = candidates().await;
    let price = |index: usize| candidates[index].price.clone().unwrap();
    let (lambda, runpod) = (price(0), price(1));
    let mut out = format!(
        "Prices: Lambda in us-east-1 with 1769 MB at {} an hour (of {}), an {GPU} of RunPod at {} an hour (of {}).\n\n\
         | model | rows trained | Lambda | | RunPod | | cheaper |\n| --- | --- | --- | --- | --- | --- | --- |\n",
        lambda.per_hour, lambda.as_of, runpod.per_hour, runpod.as_of
    );
    for (name, text, input) in MODELS {
        let Model { layers } = serde_json::from_str(&format!("{{\"layers\":{text}}}")).unwrap();
        for epochs in EPOCHS {
            let demand = demand(&layers, input, epochs);
            let plan = decide(&candidates, &demand, &Budget::default(), 0);
            let (lambda, runpod) = (quote(&plan, "aws-lambda"), quote(&plan, "runpod"));
            let cheaper = if is_cheaper(&candidates, &demand) { "Lambda" } else { "RunPod" };
            out += &format!(
                "| {name} | {} | {} | {} | {} | {} | {cheaper} |\n",
                rows(ROWS * u64::from(epochs)),
                usd(lambda.expected_cost),
                time(lambda.expected_time),
                usd(runpod.expected_cost),
                time(runpod.expected_time),
            );
        }
        let even = ROWS * u64::from(break_even(&candidates, &layers, input));
        out += &format!("| | **{}** | | | | | **as much** |\n", rows(even));
    }
    out
}

#[tokio::test]
async fn the_table_against_runpod_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../providers/aws-lambda/README.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (kept, after) = rest.split_once(END).unwrap();
    let made = format!("\n{}\n", table().await);
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(kept, made, "run `UPDATE=1 cargo test -p outboard --test lambda_prices`");
}
