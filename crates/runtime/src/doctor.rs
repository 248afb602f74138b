//! `outboard doctor`: whether what is configured works, check by check.
//!
//! A provider adds its checks in [`examine`], which knows nothing of them but their findings.

use outboard_core::{
    Error, NanoUsd, Result,
    finding::{Finding, Verdict},
    provider::Health,
};
use outboard_store::FolderStore;

use crate::{
    Config,
    client::{Client, trial},
    registry::{self, Known},
};

/// Examines the store and the providers that are set up, or only those named. With `live`, each provider that is paid for
/// runs one small task that costs at most that much.
///
/// # Errors
/// `InvalidRequest` for a provider that there isn't. What doesn't work is a finding.
pub async fn examine(config: &Config, only: &[String], live: Option<NanoUsd>) -> Result<Vec<Finding>> {
    let all = registry::known(config);
    if let Some(unknown) = only.iter().find(|id| all.iter().all(|known| known.id != **id)) {
        let ids: Vec<_> = all.iter().map(|known| known.id.as_str()).collect();
        return Err(Error::invalid(format!("there is no provider `{unknown}`"))
            .at("flag", "--provider")
            .hint(format!("use one of {}", ids.join(", "))));
    }
    let store = FolderStore::open(&config.home)?;
    let mut found = Vec::new();
    for Known { id, key, is_used } in all {
        let is_asked = only.contains(&id);
        if !is_asked && (!only.is_empty() || !is_used) {
            continue;
        }
        // Its own checks say why it isn't used.
        let is_examined = is_used || (id == "cuda" && config.providers.cuda.enabled);
        if !is_examined {
            found.push(Finding::fail("not-set-up", id.as_str(), "it is not set up, or not enabled", how(&key)));
            continue;
        }
        match id.as_str() {
            "cuda" => found.extend(outboard_cuda::examine(&config.providers.cuda, &config.home).await),
            "runpod" => {
                found.push(bucket(config).await);
                found.extend(outboard_runpod::examine(&config.providers.runpod, &store).await);
                found.extend(warm(config, &id, &store).await);
            }
            _ => found.extend(any(config, &id, &store).await),
        }
        let is_broken = found.iter().any(|finding| finding.verdict == Verdict::Fail);
        match live {
            Some(_) if is_broken => {
                let evidence = "no task was run: mend what fails first";
                found.push(Finding::warn("live-task", id, evidence, "then run the command again"));
            }
            Some(most) => found.extend(trial::run(config, &id, &store, most).await),
            None => {}
        }
    }
    Ok(found)
}

fn how(key: &str) -> String {
    match key {
        "providers.runpod" => "set OUTBOARD_PROVIDERS__RUNPOD__API_KEY, and `providers.runpod.endpoints`".into(),
        _ => format!("set {key}.enabled = true"),
    }
}

/// The bucket, by which workers elsewhere get what they need.
async fn bucket(config: &Config) -> Finding {
    const CODE: &str = "store";
    let url = &config.store.url;
    let probed = async {
        match registry::bucket(config)? {
            Some(bucket) => bucket.probe().await.map(Some),
            None => Ok(None),
        }
    };
    match probed.await {
        Ok(Some(probe)) if probe.holds_conditions => Finding::pass(CODE, "store", format!("{url}: {probe}")),
        Ok(Some(probe)) => {
            Finding::warn(CODE, "store", format!("{url}: {probe}"), "use a store that holds conditional puts")
        }
        Ok(None) => Finding::warn(
            CODE,
            "store",
            registry::notes(config).join("; "),
            "set `store.url`; without one it works for small tasks",
        ),
        Err(error) => Finding::error(CODE, "store", &error),
    }
}

/// Whether workers are cheaper kept warm. Nothing where that isn't known.
async fn warm(config: &Config, id: &str, store: &FolderStore) -> Option<Finding> {
    // What is wrong with it was told.
    let provider = registry::provider(config, id, store).ok()?;
    let told = async {
        let client = Client::with_providers(config.clone(), store.clone(), vec![provider])?;
        client.warmth(id, config.providers.runpod.idle_timeout).await
    };
    told.await.unwrap_or_else(|error| Some(Finding::error("ledger", id, &error)))
}

/// What can be asked of any provider.
async fn any(config: &Config, id: &str, store: &FolderStore) -> Vec<Finding> {
    let provider = match registry::provider(config, id, store) {
        Ok(provider) => provider,
        Err(error) => return vec![Finding::error("provider-config", id, &error)],
    };
    let health = match provider.health().await {
        Ok(Health::Ready) => Finding::pass("provider-ready", id, format!("ready ({})", provider.info().device)),
        Ok(Health::Unavailable(why)) => Finding::fail("provider-ready", id, why, "mend that, or disable the provider"),
        Err(error) => Finding::error("provider-ready", id, &error),
    };
    let price = match provider.price().await {
        Ok(price) if price.is_free() => Finding::pass("provider-price", id, format!("free ({})", price.source)),
        Ok(price) => Finding::pass("provider-price", id, format!("{} an hour ({})", price.per_hour, price.source)),
        Err(error) => Finding::error("provider-price", id, &error),
    };
    vec![health, price]
}
