//! What a provider says of itself.

use std::{collections::BTreeSet, time::Duration};

use outboard_core::{
    ErrorKind, Layer,
    layer::{BatchNorm, EncoderActivation, Extent, GeluApproximation, Pool, Recurrent, plan},
    provider::Health,
    task::{Architecture, Ended, OperationKind, Revision},
};

use crate::{
    reference::{Reference, ensure_same_curve, epochs},
    sample::Job,
    suite::{Checked, Stop, Suite, ensure, unsupported},
    watch::{Watch, failure, run, trained},
};

pub(super) async fn identity_stays_the_same(suite: &Suite<'_>) -> Checked {
    let (one, two) = (suite.provider().await, suite.provider().await);
    let info = one.info();
    ensure!(!info.id.is_empty() && !info.kind.is_empty() && !info.device.is_empty(), "something is empty: {info:?}");
    ensure!(info == two.info(), "another client says {:?} instead of {info:?}", two.info());
    let claims = one.capabilities();
    ensure!(!claims.operations.is_empty() && !claims.layers.is_empty(), "it claims nothing: {claims:?}");
    let layers: BTreeSet<_> = claims.layers.iter().collect();
    ensure!(layers.len() == claims.layers.len(), "a layer is claimed twice: {:?}", claims.layers);
    Ok(())
}

pub(super) async fn price_is_known(suite: &Suite<'_>) -> Checked {
    let price = suite.provider().await.price().await?;
    ensure!(!price.source.is_empty(), "nobody knows where the price comes from: {price:?}");
    let is_free = price.cost(Duration::from_secs(3600)).0 == 0;
    ensure!(is_free || !price.as_of.is_empty(), "nobody knows how old the price is: {price:?}");
    Ok(())
}

pub(super) async fn health_is_ready(suite: &Suite<'_>) -> Checked {
    match suite.provider().await.health().await? {
        Health::Ready => Ok(()),
        Health::Unavailable(why) => Err(Stop::Failed(why)),
    }
}

/// Each layer at least once, in models that stay whole if some layers are left out, with the shape of a row of eight
/// numbers.
fn models() -> Vec<Architecture> {
    let dense = vec![
        Layer::Linear { out: 8, bias: true },
        Layer::Relu,
        Layer::Linear { out: 8, bias: false },
        Layer::BatchNorm1d(norm()),
        Layer::Gelu { approximate: GeluApproximation::None },
        Layer::Gelu { approximate: GeluApproximation::Tanh },
        Layer::LayerNorm { eps: 1e-5 },
        Layer::Silu,
        Layer::Residual { layers: vec![Layer::Tanh] },
        Layer::Tanh,
        Layer::Sigmoid,
        Layer::Softmax,
        Layer::Flatten,
        Layer::Dropout { p: 0.1 },
    ];
    let both = Extent::square;
    let windows = Pool { kernel: both(2), stride: Some(both(1)), padding: both(1) };
    let image = vec![
        Layer::Conv2d {
            out: 3,
            kernel: both(3),
            stride: both(1),
            padding: both(1),
            dilation: both(1),
            groups: 1,
            bias: true,
        },
        Layer::BatchNorm2d(norm()),
        Layer::MaxPool2d(windows.clone()),
        Layer::AvgPool2d(windows),
        Layer::AdaptiveAvgPool2d { out: both(2) },
    ];
    let windows = Pool { kernel: 2, stride: Some(1), padding: 1 };
    let series = vec![
        Layer::Conv1d { out: 3, kernel: 3, stride: 1, padding: 1, dilation: 1, groups: 1, bias: true },
        Layer::MaxPool1d(windows.clone()),
        Layer::AvgPool1d(windows),
        Layer::AdaptiveAvgPool1d { out: 2 },
    ];
    let encoder = Layer::TransformerEncoder {
        heads: 1,
        ff: 8,
        dropout: 0.1,
        activation: EncoderActivation::Relu,
        norm_first: false,
    };
    let sequence = vec![
        Layer::PositionalEmbedding,
        Layer::Lstm(Recurrent { out: 4, bias: true }),
        encoder,
        Layer::Gru(Recurrent { out: 4, bias: true }),
        Layer::MeanPool,
    ];
    let tokens = vec![Layer::Embedding { tokens: 9, out: 4, padding_index: Some(0) }, Layer::LastPool];
    [(dense, vec![8]), (image, vec![2, 2, 2]), (series, vec![2, 4]), (sequence, vec![4, 2]), (tokens, vec![8])]
        .map(|(layers, input)| Architecture { layers, input })
        .into()
}

fn norm() -> BatchNorm {
    BatchNorm { eps: 1e-5, momentum: 0.1 }
}

/// A job of the model with an output for each class behind it.
fn job_of(suite: &Suite<'_>, mut model: Architecture) -> Checked<Job> {
    if plan(&model.layers, &model.input)?.last().is_some_and(|last| last.output.len() > 1) {
        model.layers.push(Layer::Flatten);
    }
    model.layers.push(Layer::Linear { out: 3, bias: true });
    Ok(Job::with_model(suite.store(), suite.name(), 1, model)?)
}

pub(super) async fn claimed_layers_train(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    let claimed = &provider.capabilities().layers;
    let is_claimed = |layer: &Layer| claimed.iter().any(|name| name == layer.kind());
    let models: Vec<_> = models()
        .into_iter()
        .filter(|model| is_claimed(&model.layers[0]) || !matches!(model.layers[0], Layer::Embedding { .. }))
        .map(|model| Architecture { layers: model.layers.into_iter().filter(is_claimed).collect(), ..model })
        .filter(|model| !model.layers.is_empty())
        .collect();
    for name in claimed {
        let has_example = models.iter().flat_map(|model| &model.layers).any(|layer| layer.kind() == name);
        ensure!(has_example, "the suite has no example of the layer `{name}`");
    }
    for model in models {
        let job = job_of(suite, model)?;
        let (_, events) = run(&*provider, &suite.task(&job, job.train_to(1))).await?;
        let reference = Reference::run(suite.store(), &job.train_to(1)).await?;
        ensure_same_curve(&epochs(&events), &reference.epochs, suite.is_exact())?;
    }
    Ok(())
}

pub(super) async fn unclaimed_layers_are_refused(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    let claimed = &provider.capabilities().layers;
    let unclaimed: Vec<_> = models()
        .into_iter()
        .flat_map(|model| model.layers.into_iter().map(move |layer| (model.input.clone(), layer)))
        .filter(|(_, layer)| !claimed.iter().any(|c| c == layer.kind()))
        .collect();
    if unclaimed.is_empty() {
        return unsupported("it claims every layer");
    }
    for (input, layer) in unclaimed {
        let name = layer.kind();
        let job = job_of(suite, Architecture { layers: vec![layer], input })?;
        let error = failure(&*provider, &suite.task(&job, job.train_to(1))).await?;
        ensure!(error.kind() == ErrorKind::Unsupported, "the layer `{name}`: {error:?}");
    }
    Ok(())
}

pub(super) async fn unclaimed_operations_are_refused(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    let claimed = &provider.capabilities().operations;
    let job = suite.job(1)?;
    let all = [job.train_to(1), job.evaluate(job.start), job.predict(job.start)];
    let unclaimed: Vec<_> = all.into_iter().filter(|operation| !claimed.contains(&operation.kind())).collect();
    if unclaimed.is_empty() {
        return unsupported("it claims every operation");
    }
    for operation in unclaimed {
        let kind = operation.kind();
        let error = failure(&*provider, &suite.task(&job, operation)).await?;
        ensure!(error.kind() == ErrorKind::Unsupported, "{kind:?}: {error:?}");
    }
    Ok(())
}

pub(super) async fn list_shows_live_tasks_only(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    if !provider.capabilities().lists {
        return match provider.list().await {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
            other => Err(Stop::Failed(format!("it doesn't claim to list, but answers {other:?}"))),
        };
    }
    if !provider.capabilities().cancels {
        return unsupported("it doesn't claim to cancel, so that no task stays live for sure");
    }
    let (_, task, id) = suite.submit_endless(&*provider).await?;
    Watch::new(&*provider, &id).until_running().await?;
    let listed = provider.list().await?;
    let live = listed.iter().find(|summary| summary.id == id);
    ensure!(
        live.is_some_and(|live| live.running && live.key == task.key),
        "task {id} is running, but not in {listed:?}"
    );
    provider.cancel(&id).await?;
    Watch::new(&*provider, &id).until_end().await?;
    let listed = provider.list().await?;
    ensure!(listed.iter().all(|summary| summary.id != id), "task {id} has ended, but is in {listed:?}");
    Ok(())
}

pub(super) async fn progress_arrives_while_a_task_runs(suite: &Suite<'_>) -> Checked {
    let provider = suite.provider().await;
    let claims = provider.capabilities();
    if !claims.reports_progress || !claims.operations.contains(&OperationKind::Train) {
        return unsupported("it doesn't claim to report progress");
    }
    if !claims.cancels {
        return unsupported("it doesn't claim to cancel, so that no task runs for long enough for sure");
    }
    let (_, _, id) = suite.submit_endless(&*provider).await?;
    let watch = Watch::new(&*provider, &id).until_running().await?;
    ensure!(watch.revision != Revision::default(), "a state that was seen has the revision of nothing seen");
    provider.cancel(&id).await?;
    let (checkpoint, ended) = Watch::new(&*provider, &id).until_end().await?.trained()?;
    ensure!(ended == Ended::Cancelled, "{ended:?} at {checkpoint:?}");
    // Whoever has a task at all can run a short one to its end afterwards.
    let job = suite.job(1)?;
    let (outcome, _) = run(&*provider, &suite.task(&job, job.train_to(1))).await?;
    ensure!(trained(&outcome)?.1 == Ended::Complete, "{outcome:?}");
    Ok(())
}
