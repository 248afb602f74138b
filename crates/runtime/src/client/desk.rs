//! Has one task done that is no training: evaluation, prediction.

use std::{fs, future::pending, path::PathBuf};

use outboard_core::{
    ComputeProviderExt, Digest, Error, ErrorKind, Result,
    job::Routing,
    task::{Architecture, Operation, Outcome, PredictTask},
};
use outboard_protocol::{Dataset, ModelFile, Tensor, envelope::now, tensors};
use outboard_router::{Choice, Demand, Failure, Next, Origin, flops};
use outboard_store::atomic;

use super::{
    Client,
    dispatch::{Dispatcher, demand, never},
    new_id,
};
use crate::record::{Lock, Status};

/// Where one task is done. Its blobs stay in the store until `gc`: the same data may be asked about again.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) id: String,
    name: &'static str,
    client: Client,
    folder: PathBuf,
    /// Tells others that its process lives.
    _lock: Lock,
}

impl Desk {
    pub(super) fn new(client: &Client, name: &'static str) -> Result<Self> {
        let id = new_id(name);
        let folder = client.config.home.join("scratch").join(&id);
        atomic::create_folder(&folder)?;
        let lock = Lock::take(&folder, &id)?;
        Ok(Self { id, name, client: client.clone(), folder, _lock: lock })
    }

    /// Where the model ran, and what it gives for the rows.
    pub(super) async fn outputs(&self, file: &ModelFile, data: &Dataset) -> Result<(String, Tensor)> {
        let operation = |model, weights, data| Operation::Predict(PredictTask { model, weights, data });
        let (provider, outcome) = self.apply(file, data, operation).await?;
        let Outcome::Predict { outputs } = outcome else {
            let what = format!("the provider answered a prediction with {outcome:?}");
            return Err(Error::new(ErrorKind::Unexpected, what));
        };
        let corrupt = |what: &str| Error::new(ErrorKind::CorruptPayload, what);
        let outputs = tensors::decode(&self.client.store.read(&outputs)?)?
            .remove("outputs")
            .ok_or_else(|| corrupt("the provider's answer has no tensor `outputs`"))?;
        match outputs.shape[..] == [data.rows(), file.facts.schema.target.outputs()] {
            true => Ok((provider, outputs)),
            false => Err(corrupt("the provider's answer has another shape than the targets")),
        }
    }

    async fn apply(
        &self,
        file: &ModelFile,
        data: &Dataset,
        operation: impl FnOnce(Architecture, Digest, Digest) -> Operation,
    ) -> Result<(String, Outcome)> {
        let store = &self.client.store;
        let weights = file.encode()?;
        let (rows, size) = self.client.keep(data)?;
        let model = Architecture { layers: file.facts.layers.clone(), input: file.facts.input.clone() };
        let work = flops(&model.layers, &model.input)?.forward.saturating_mul(data.rows() as u64);
        let sizes = (weights.len() as u64, size);
        let operation = operation(model, store.write(&weights)?, rows);
        let providers = self.client.providers.clone();
        let mut dispatcher = Dispatcher::new(&self.client, providers, &self.id, None, Routing::default()).await?;
        dispatcher.begin(self.name, &self.folder, None).await?;
        let demand = Demand {
            layers: file.facts.layers.iter().map(|layer| layer.kind().to_string()).collect(),
            flops_per_epoch: work,
            bytes_down: sizes.0 + sizes.1,
            largest_payload: sizes.0.max(sizes.1),
            ..demand(operation.kind(), dispatcher.terms())
        };
        let applied = self.attempts(&mut dispatcher, &demand, &operation).await;
        let status = if applied.is_ok() { Status::Succeeded } else { Status::Failed };
        dispatcher.note(status.name()).await?;
        applied
    }

    /// Tries one provider after the other.
    async fn attempts(
        &self,
        dispatcher: &mut Dispatcher,
        demand: &Demand,
        operation: &Operation,
    ) -> Result<(String, Outcome)> {
        let operation = |_: &Choice| (self.name.to_string(), operation.clone());
        loop {
            let say = |text: String| tracing::warn!("{text}");
            let (mut flight, _) = dispatcher.dispatch(demand, operation, &never(), say).await?;
            let provider = flight.provider.info().id.clone();
            let followed = match dispatcher.submit(&mut flight).await {
                Ok(id) => flight.provider.follow(&id, pending(), |_| {}).await,
                Err(error) => Err(error),
            };
            let (error, of) = match followed {
                Ok(state) => {
                    dispatcher.settle(&flight, &state, demand.flops_per_epoch).await?;
                    match state.outcome() {
                        Ok(outcome) => return Ok((provider, outcome)),
                        Err(error) => (error, Origin::Task),
                    }
                }
                Err(error) => (error, Origin::Call),
            };
            let failure = Failure {
                provider: provider.clone(),
                attempt: flight.task.attempt.clone(),
                at: now(),
                died: of == Origin::Task && error.is_death(),
                error: error.clone(),
                of,
                step: (0, 0),
            };
            let next = dispatcher.history.after(failure, &self.client.config.router.patience);
            if of == Origin::Call {
                dispatcher.abandon(&flight, &error).await?;
            }
            match next {
                Next::Stop(error) => return Err(error),
                Next::Same { after } => tokio::time::sleep(after).await,
                // Nothing of it is kept, so another attempt elsewhere does no harm but its cost, which is reserved.
                Next::Other | Next::LookAgain { .. } => tracing::warn!(provider, %error, "moving on"),
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot remove what a task needed");
        }
    }
}
