//! Providers, plugins and the store. A provider's own checks are one function of its crate.

use std::sync::Arc;

use outboard_core::{
    ComputeProvider,
    code::{self, Code},
    finding::{Finding, Findings},
    provider::Health,
};
use outboard_store::FolderStore;

use super::apart;
use crate::{
    Config,
    client::Client,
    registry::{self, Known},
};

/// Tells `found` what is to be said of one provider.
pub(super) async fn examine(config: &Arc<Config>, known: &Known, store: &FolderStore, found: &Findings) {
    let id = known.id.as_str();
    // The checks of `cuda` say why it isn't used.
    let is_examined = known.is_used || (id == "cuda" && config.providers.cuda.enabled);
    if !is_examined {
        return found.push(Finding::fail(code::NOT_SET_UP, id, "it is not set up, or not enabled", how(&known.key)));
    }
    let providers = &config.providers;
    let mut has_own = true;
    match id {
        "runpod" => {
            outboard_runpod::examine(&providers.runpod, store, found).await;
            return found.extend(warm(config, id, store).await);
        }
        "http" => outboard_http::examine(&providers.http, found).await,
        "cuda" => outboard_cuda::examine(&providers.cuda, &config.home, found).await,
        "aws-lambda" => outboard_aws_lambda::examine(&providers.aws_lambda, found).await,
        _ => has_own = false,
    }
    // A plugin may block while it is loaded.
    let (of, all, folder) = (known.id.clone(), config.clone(), store.clone());
    match apart(move || registry::provider(&all, &of, &folder)).await {
        Ok(provider) => {
            if known.is_plugin() {
                let path = config.plugins.get(id).map(|plugin| plugin.path.display().to_string()).unwrap_or_default();
                found.push(Finding::pass(code::PLUGIN, id, format!("{path} is trusted, and loads")));
            }
            if !has_own {
                found.push(ready(&*provider, id).await);
            }
            found.push(price(&*provider, id).await);
        }
        Err(error) if known.is_plugin() => found.push(Finding::error(code::PLUGIN, id, &error)),
        // Its own checks have told it.
        Err(_) if found.has_fail() => {}
        Err(error) => found.push(Finding::error(code::PROVIDER_CONFIG, id, &error)),
    }
}

/// How a provider would be used.
pub(super) fn how(key: &str) -> String {
    match key {
        "providers.runpod" => "set OUTBOARD_PROVIDERS__RUNPOD__API_KEY, and `providers.runpod.endpoints`".into(),
        _ => format!("set {key}.enabled = true"),
    }
}

async fn ready(provider: &dyn ComputeProvider, id: &str) -> Finding {
    match provider.health().await {
        Ok(Health::Ready) => Finding::pass(code::PROVIDER_READY, id, format!("ready ({})", provider.info().device)),
        Ok(Health::Unavailable(why)) => {
            Finding::fail(code::PROVIDER_READY, id, why, "mend that, or disable the provider")
        }
        Err(error) => Finding::error(code::PROVIDER_READY, id, &error),
    }
}

async fn price(provider: &dyn ComputeProvider, id: &str) -> Finding {
    match provider.price().await {
        Ok(price) if price.is_free() => Finding::pass(code::PRICE, id, format!("free ({})", price.source)),
        Ok(price) => Finding::pass(code::PRICE, id, format!("{} an hour ({})", price.per_hour, price.source)),
        Err(error) => Finding::error(code::PRICE, id, &error),
    }
}

/// The bucket, by which workers elsewhere get what they need.
pub(super) async fn bucket(config: &Config) -> Vec<Finding> {
    const CODE: Code = code::STORE;
    let url = &config.store.url;
    let bucket = match registry::bucket(config) {
        Ok(Some(bucket)) => bucket,
        Ok(None) => {
            let remedy = "set `store.url`; without one it works for small tasks";
            return vec![Finding::warn(CODE, "store", registry::notes(config).join("; "), remedy)];
        }
        Err(error) => return vec![Finding::error(CODE, "store", &error)],
    };
    let mut found = bucket.reach().await;
    if found.iter().any(Finding::is_fail) {
        return found;
    }
    found.push(match bucket.probe().await {
        Ok(probe) if probe.holds_conditions => Finding::pass(CODE, "store", format!("{url}: {probe}")),
        Ok(probe) => Finding::warn(CODE, "store", format!("{url}: {probe}"), "use a store that holds conditional puts"),
        Err(error) => Finding::error(CODE, "store", &error),
    });
    found
}

/// Whether workers are cheaper kept warm. Nothing where that isn't known.
async fn warm(config: &Config, id: &str, store: &FolderStore) -> Option<Finding> {
    // What is wrong with it was told.
    let provider = registry::provider(config, id, store).ok()?;
    let told = async {
        let client = Client::with_providers(config.clone(), store.clone(), vec![provider])?;
        client.warmth(id).await
    };
    told.await.unwrap_or_else(|error| Some(Finding::error(code::LEDGER, id, &error)))
}
