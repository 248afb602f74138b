//! One small task on one provider: to see whether it works and what it costs, or what the place is like.

use std::{future::pending, sync::Arc, time::Duration};

use outboard_core::{
    ComputeProvider, ComputeProviderExt, Error, ErrorKind, Layer, NanoUsd, Result, code,
    finding::Finding,
    job::Routing,
    layer,
    task::{Architecture, Operation, TaskState, TrainTask},
};
use outboard_protocol::{Checkpoint, Dataset, PROTOCOL_VERSION, Position, Target, initial};
use outboard_router::{Choice, Demand};
use outboard_store::{FolderStore, atomic};

use super::{
    Client,
    dispatch::{Dispatcher, START_PATIENCE, demand, never},
    new_id,
};
use crate::{
    Config,
    record::{Lock, Status},
    registry,
};

const ROWS: usize = 64;
const FEATURES: usize = 8;
const SEED: u64 = 7;

/// What a task came to, and what is charged for it.
pub(crate) struct Done {
    pub(crate) state: TaskState,
    pub(crate) cost: NanoUsd,
}

/// Why it would cost more than it may.
pub(crate) const DEARER: &str =
    "raise `--max-cost`, or lower what is reserved (`start_time`, `transfer_time`, `idle_timeout`)";

/// Trains a tiny model for one epoch, for at most `most`, and tells every phase. The exchange with the provider is saved,
/// without secrets.
pub(crate) async fn run(config: &Config, id: &str, store: &FolderStore, most: NanoUsd) -> Vec<Finding> {
    let made = registry::recorded(config, id, store);
    let (provider, recording) = match made {
        Ok(made) => made,
        Err(error) => return vec![Finding::error(code::LIVE_TASK, id, &error)],
    };
    let ran = one(config, store, provider, most, |job| operation(store, job)).await;
    let mut found = match ran {
        Ok(Done { state, cost }) => tell(id, state, cost, most),
        Err(error) if error.kind() == ErrorKind::BudgetExceeded => {
            vec![Finding { remedy: Some(DEARER.into()), ..Finding::error(code::LIVE_TASK, id, &error) }]
        }
        Err(error) => vec![Finding::error(code::LIVE_TASK, id, &error)],
    };
    if let Some(recording) = recording {
        let saved = recording().and_then(|bytes| {
            let folder = config.home.join("doctor");
            atomic::create_folder(&folder)?;
            let path = folder.join(format!("{}.json", new_id(id)));
            atomic::write(&path, &bytes).map(|()| path)
        });
        found.push(match saved {
            Ok(path) => Finding::pass(code::LIVE_RECORDING, id, format!("what was said is in {}", path.display())),
            Err(error) => Finding::error(code::LIVE_RECORDING, id, &error),
        });
    }
    found
}

fn tell(id: &str, state: TaskState, cost: NanoUsd, most: NanoUsd) -> Vec<Finding> {
    let usage = state.usage.unwrap_or_default();
    let timings = usage.timings;
    let phases = [
        ("waiting", timings.queue),
        ("start", timings.boot),
        ("download", timings.download),
        ("load", timings.load),
        ("compute", timings.compute),
        ("upload", timings.upload),
    ];
    let phases = phases.map(|(name, seconds)| format!("{name} {seconds:.2} s")).join(", ");
    let billed = usage.billed.map_or_else(String::new, |time| format!("; {:.2} s billed", time.as_secs_f64()));
    let told = format!("{phases}{billed}; charged {cost} of at most {most}");
    match state.outcome() {
        Ok(_) => vec![
            Finding::pass(code::LIVE_TASK, id, told),
            Finding::pass(code::LIVE_WORKER, id, format!("the worker speaks protocol {PROTOCOL_VERSION}")),
        ],
        Err(error) => vec![Finding::error(code::LIVE_TASK, id, &error), Finding::pass(code::LIVE_COST, id, told)],
    }
}

/// Runs one task on a provider, for at most `most`; `operation` makes it for the job of this name, and says how many bytes it
/// takes there.
///
/// # Errors
/// `BudgetExceeded`; why the provider can't take it; its own, where it was lost. What it came to is in the state.
pub(crate) async fn one(
    config: &Config,
    store: &FolderStore,
    provider: Arc<dyn ComputeProvider>,
    most: NanoUsd,
    operation: impl FnOnce(&str) -> Result<(Operation, u64)>,
) -> Result<Done> {
    let routing = Routing { providers: vec![provider.info().id.clone()], ..Routing::default() };
    let client = Client::with_providers(config.clone(), store.clone(), vec![provider])?;
    let job = new_id("doctor");
    let folder = config.home.join("scratch").join(&job);
    atomic::create_folder(&folder)?;
    let _lock = Lock::take(&folder, &job)?;
    let (operation, bytes) = operation(&job)?;
    let mut dispatcher = Dispatcher::new(&client, client.providers.clone(), &job, Some(most), routing).await?;
    // Whoever asks whether it works wants to hear of a pause, not to wait for its end.
    dispatcher.patience = START_PATIENCE;
    dispatcher.begin("doctor", &folder, Some(most)).await?;
    let demand = Demand { bytes_down: bytes, largest_payload: bytes, ..demand(operation.kind(), dispatcher.terms()) };
    let named = |_: &Choice| ("trial".to_string(), operation.clone());
    let done = attempt(&mut dispatcher, &demand, named).await;
    let status = if done.is_ok() { Status::Succeeded } else { Status::Failed };
    dispatcher.note(status.name()).await?;
    done
}

async fn attempt(
    dispatcher: &mut Dispatcher,
    demand: &Demand,
    operation: impl Fn(&Choice) -> (String, Operation) + Send,
) -> Result<Done> {
    let say = |text: String| tracing::warn!("{text}");
    let (mut flight, _) = dispatcher.dispatch(demand, operation, &never(), say).await?;
    let followed = match dispatcher.submit(&mut flight).await {
        Ok(id) => flight.provider.follow(&id, pending(), |_| {}).await,
        Err(error) => Err(error),
    };
    match followed {
        Ok(state) => {
            dispatcher.settle(&flight, &state, 0).await?;
            Ok(Done { state, cost: dispatcher.cost().await? })
        }
        Err(error) => {
            dispatcher.abandon(&flight, &error).await?;
            Err(error)
        }
    }
}

/// One epoch of a model with two layers, and how many bytes it takes there.
fn operation(store: &FolderStore, job: &str) -> Result<(Operation, u64)> {
    let layers = vec![Layer::Linear { out: 8, bias: true }, Layer::Relu, Layer::Linear { out: 2, bias: true }];
    let model = Architecture { layers, input: vec![FEATURES] };
    let x: outboard_protocol::Inputs = (0..ROWS * FEATURES).map(|i| (i % 13) as f32 / 13.0).collect();
    let y = Target::Classes((0..ROWS as i64).map(|i| i % 2).collect());
    let data = Dataset { shape: vec![FEATURES], x, y, weights: None }.encode()?;
    let plan = layer::plan(&model.layers, &model.input)?;
    let tensors = initial::weights(&plan, SEED).into_iter().map(|(name, t)| (format!("model.{name}"), t)).collect();
    let start = Checkpoint { position: Position::start(job, SEED), tensors }.encode()?;
    let train = serde_json::json!({
        "loss": "cross_entropy", "optimizer": { "type": "sgd", "lr": 0.1 }, "epochs": 1, "batch_size": 16, "seed": SEED,
    });
    let train = serde_json::from_value(train)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "the trial's hyperparameters can't be read").because(e))?;
    let bytes = (data.len() + start.len()) as u64;
    let task = TrainTask {
        model,
        train,
        data: store.write(&data)?,
        validation: None,
        checkpoint: store.write(&start)?,
        until_epoch: 1,
        checkpoint_every: Duration::from_secs(3600),
    };
    Ok((Operation::Train(Box::new(task)), bytes))
}
