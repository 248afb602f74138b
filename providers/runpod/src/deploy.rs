//! An endpoint of one's own: made, changed and removed over version 1 of the REST API.

use std::time::Duration;

use outboard_core::{
    Digest, NanoUsd,
    error::{Error, ErrorKind, Result},
};
use outboard_store::FolderStore;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Config, EndpointConfig,
    account::Account,
    api::HealthBody,
    catalogue::{Catalogue, Prices},
    price::{plain, price},
};

/// RunPod's most for any account; documentation of 2026-08-20.
const MOST_WORKERS: u32 = 60;

/// `[providers.runpod.deploy]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeployConfig {
    /// Its name, by which it is found again.
    pub name: String,
    /// The worker's image, with a tag that stays what it is.
    pub image: String,
    /// What its workers may have, the first that is free: as RunPod's catalogue names GPUs.
    pub gpus: Vec<String>,
    /// Workers at most.
    pub max_workers: u32,
    /// Disk of a worker in GB.
    pub disk_gb: u32,
}

impl Default for DeployConfig {
    fn default() -> Self {
        Self { name: "outboard".into(), image: String::new(), gpus: Vec::new(), max_workers: 3, disk_gb: 20 }
    }
}

/// What is there, and what is to be.
#[derive(Debug)]
pub struct Deployment {
    account: Account,
    config: Config,
    /// As RunPod names them.
    gpus: Vec<String>,
    endpoint: Option<Endpoint>,
    templates: Vec<Template>,
}

/// An endpoint, as RunPod has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    id: String,
    name: String,
    template_id: String,
    gpu_type_ids: Vec<String>,
    workers_min: u32,
    workers_max: u32,
    idle_timeout: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Template {
    id: String,
    name: String,
}

impl Deployment {
    /// Checks what is to be, and looks at what is there. Nothing is changed.
    ///
    /// # Errors
    /// `InvalidConfig` for what is wrong in `[providers.runpod.deploy]`; those of the network.
    pub async fn look(config: &Config, store: &FolderStore) -> Result<Self> {
        check(&config.deploy)?;
        let account = Account::new(config)?;
        let catalogue = Prices::new(store).current(&account.connection).await;
        let gpus = config.deploy.gpus.iter().map(|gpu| known(gpu, catalogue.as_ref())).collect::<Result<Vec<_>>>()?;
        let (endpoint, templates) = Self::find(&account, &config.deploy.name).await?;
        Ok(Self { account, config: config.clone(), gpus, endpoint, templates })
    }

    /// What is there, whatever is to be.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn existing(config: &Config) -> Result<Self> {
        let account = Account::new(config)?;
        let (endpoint, templates) = Self::find(&account, &config.deploy.name).await?;
        Ok(Self { account, config: config.clone(), gpus: Vec::new(), endpoint, templates })
    }

    async fn find(account: &Account, name: &str) -> Result<(Option<Endpoint>, Vec<Template>)> {
        let endpoints: Vec<Endpoint> = account.connection.manage(&["endpoints"], &[]).await?;
        let templates: Vec<Template> = account.connection.manage(&["templates"], &[]).await?;
        // RunPod adds a word to the name of an endpoint with FlashBoot.
        let named = |endpoint: &Endpoint| endpoint.name == name || endpoint.name == format!("{name} -fb");
        let prefix = format!("{name}-");
        let ours = |template: &Template| template.name.strip_prefix(&prefix).is_some_and(is_hash);
        Ok((endpoints.into_iter().find(named), templates.into_iter().filter(ours).collect()))
    }

    /// The id of the endpoint that is there.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_ref().map(|endpoint| endpoint.id.as_str())
    }

    /// One template for each image: what an endpoint runs doesn't change under it.
    fn template_name(&self) -> String {
        let hash = Digest::of(self.config.deploy.image.as_bytes()).to_string();
        format!("{}-{}", self.config.deploy.name, &hash[..12])
    }

    /// What would change, in words. Nothing where all is as it is to be.
    #[must_use]
    pub fn changes(&self) -> Vec<String> {
        let DeployConfig { name, image, max_workers, .. } = &self.config.deploy;
        let mut changes = Vec::new();
        let template = self.templates.iter().find(|template| template.name == self.template_name());
        if template.is_none() {
            changes.push(format!("make the template {} with the image {image}", self.template_name()));
        }
        let idle = self.config.idle_timeout.as_secs();
        let Some(is) = &self.endpoint else {
            let gpus = self.gpus.join(" or ");
            changes.push(format!(
                "make the endpoint {name}: up to {max_workers} workers with {gpus}, idle time-out {idle} s"
            ));
            return changes;
        };
        let mut change = |what: &str, from: String, to: String| {
            if from != to {
                changes.push(format!("change the {what} of the endpoint {} from {from} to {to}", is.id));
            }
        };
        let id_of =
            |template: Option<&Template>| template.map_or_else(|| "the new one".into(), |found| found.id.clone());
        change("template", is.template_id.clone(), id_of(template));
        change("GPUs", is.gpu_type_ids.join(", "), self.gpus.join(", "));
        change("most workers", is.workers_max.to_string(), max_workers.to_string());
        change("least workers", is.workers_min.to_string(), "0".into());
        change("idle time-out in seconds", is.idle_timeout.to_string(), idle.to_string());
        changes
    }

    /// What it costs while no task runs, in words.
    ///
    /// # Errors
    /// `InvalidConfig` where the price isn't known.
    pub async fn idling(&self, store: &FolderStore) -> Result<String> {
        let endpoints = self.config.deploy.gpus.iter();
        let endpoints = endpoints.map(|gpu| EndpointConfig { id: "new".into(), gpu: gpu.clone(), weight: 1 }).collect();
        let catalogue = Prices::new(store).current(&self.account.connection).await;
        let price = price(&Config { endpoints, ..self.config.clone() }, catalogue.as_ref())?;
        let idle = self.config.idle_timeout;
        let tail: NanoUsd = price.cost(idle);
        Ok(format!(
            "idling costs nothing; after its last task a worker is kept for {idle:?}, which costs up to {tail} (at most {} an \
             hour, {})",
            price.per_hour, price.source
        ))
    }

    /// Makes it so. The endpoint.
    ///
    /// # Errors
    /// Those of RunPod and of the network. Doing so again goes on where it stopped.
    pub async fn apply(&self) -> Result<EndpointConfig> {
        let DeployConfig { name, image, max_workers, disk_gb, gpus } = &self.config.deploy;
        let wanted = self.template_name();
        let template = match self.templates.iter().find(|template| template.name == wanted) {
            Some(template) => template.id.clone(),
            None => {
                let body = json!({
                    "name": wanted, "imageName": image, "isServerless": true, "containerDiskInGb": disk_gb,
                });
                self.write::<Template>(Method::POST, &["templates"], Some(body)).await?.id
            }
        };
        let mut body = json!({
            "templateId": template, "name": name, "gpuTypeIds": self.gpus, "workersMin": 0, "workersMax": max_workers,
            "idleTimeout": self.config.idle_timeout.as_secs(),
        });
        let endpoint: Endpoint = match &self.endpoint {
            Some(endpoint) => self.write(Method::PATCH, &["endpoints", &endpoint.id], Some(body)).await?,
            None => {
                body["computeType"] = "GPU".into();
                self.write(Method::POST, &["endpoints"], Some(body)).await?
            }
        };
        for old in self.templates.iter().filter(|template| template.name != wanted) {
            self.remove(&["templates", &old.id]).await?;
        }
        let gpu = gpus.first().cloned().unwrap_or_default();
        Ok(EndpointConfig { id: endpoint.id, gpu, weight: 1 })
    }

    /// How it stands, in words; none where it isn't there.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn status(&self) -> Result<Option<Vec<String>>> {
        let Some(Endpoint { id, gpu_type_ids, workers_max, idle_timeout, template_id, .. }) = &self.endpoint else {
            return Ok(None);
        };
        let HealthBody { workers, jobs } = self.account.connection.health(id).await?;
        let template = self.templates.iter().find(|template| template.id == *template_id);
        Ok(Some(vec![
            format!("endpoint {id}: up to {workers_max} workers with {}", gpu_type_ids.join(" or ")),
            format!("template {}", template.map_or(template_id, |template| &template.name)),
            format!("idle time-out {:?}", Duration::from_secs(*idle_timeout)),
            format!(
                "workers: {} running, {} idle, {} initializing, {} throttled, {} unhealthy; {} jobs wait",
                workers.running,
                workers.idle,
                workers.initializing,
                workers.throttled,
                workers.unhealthy,
                jobs.in_queue
            ),
        ]))
    }

    /// What would be removed, in words.
    #[must_use]
    pub fn remains(&self) -> Vec<String> {
        let endpoint = self.endpoint.iter().map(|endpoint| format!("the endpoint {}", endpoint.id));
        endpoint.chain(self.templates.iter().map(|template| format!("the template {}", template.name))).collect()
    }

    /// Removes the endpoint and its templates. Jobs that wait there are lost.
    ///
    /// # Errors
    /// Those of RunPod and of the network. Doing so again goes on where it stopped.
    pub async fn destroy(&self) -> Result<()> {
        if let Some(Endpoint { id, .. }) = &self.endpoint {
            // RunPod removes none that may have workers.
            let body = json!({ "workersMin": 0, "workersMax": 0 });
            self.write::<Value>(Method::PATCH, &["endpoints", id], Some(body)).await?;
            self.remove(&["endpoints", id]).await?;
        }
        for template in &self.templates {
            self.remove(&["templates", &template.id]).await?;
        }
        Ok(())
    }

    async fn remove(&self, segments: &[&str]) -> Result<()> {
        match self.account.connection.change(Method::DELETE, segments, None).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map(drop),
        }
    }

    async fn write<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        segments: &[&str],
        body: Option<Value>,
    ) -> Result<T> {
        let reply = self.account.connection.change(method, segments, body).await?;
        serde_json::from_slice(&reply).map_err(|e| {
            Error::new(ErrorKind::CorruptPayload, format!("RunPod's reply can't be read: {e}"))
                .hint("look at the endpoints in RunPod's console, then run the command again")
        })
    }
}

/// What can be known to be wrong beforehand.
fn check(config: &DeployConfig) -> Result<()> {
    let wrong = |key: &str, message: &str, hint: &str| {
        Err(Error::new(ErrorKind::InvalidConfig, message)
            .with_provider("runpod")
            .at("key", format!("providers.runpod.deploy.{key}"))
            .hint(hint))
    };
    let DeployConfig { name, image, gpus, max_workers, .. } = config;
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return wrong(
            "name",
            "the name of an endpoint has letters, digits, `-` and `_`",
            "such as `name = \"outboard\"`",
        );
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once([':', '@']) {
        _ if image.is_empty() => {
            return wrong(
                "image",
                "no image is set",
                "set it to that of Outboard's worker, such as `you/outboard-worker:0.1.0`",
            );
        }
        None | Some((_, "" | "latest")) => {
            return wrong(
                "image",
                "the image has no tag that stays what it is",
                "write its version, as in `you/outboard-worker:0.1.0`: workers of one endpoint must run one version",
            );
        }
        Some(_) => {}
    }
    if gpus.is_empty() {
        return wrong("gpus", "no GPU is named", "such as `gpus = [\"RTX 4090\", \"L4\"]`");
    }
    if !(1..=MOST_WORKERS).contains(max_workers) {
        return wrong("max_workers", "an endpoint has between 1 and 60 workers at most", "such as `max_workers = 3`");
    }
    Ok(())
}

/// The name that RunPod wants, where its catalogue is known.
fn known(gpu: &str, catalogue: Option<&Catalogue>) -> Result<String> {
    let Some(catalogue) = catalogue else { return Ok(gpu.into()) };
    catalogue.id(gpu, plain).ok_or_else(|| {
        Error::new(ErrorKind::InvalidConfig, format!("RunPod's catalogue has no GPU `{gpu}`"))
            .with_provider("runpod")
            .at("key", "providers.runpod.deploy.gpus")
            .hint(format!("use some of {}", catalogue.names().join(", ")))
    })
}

fn is_hash(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_before_anything_is_made() {
        let right = DeployConfig { image: "me/worker:1.0".into(), gpus: vec!["L4".into()], ..DeployConfig::default() };
        check(&right).unwrap();
        check(&DeployConfig { image: "host:5000/me/worker@sha256:ab".into(), ..right.clone() }).unwrap();
        for (config, message) in [
            (DeployConfig { image: String::new(), ..right.clone() }, "no image is set"),
            (DeployConfig { image: "me/worker".into(), ..right.clone() }, "the image has no tag that stays what it is"),
            (
                DeployConfig { image: "host:5000/worker".into(), ..right.clone() },
                "the image has no tag that stays what it is",
            ),
            (
                DeployConfig { image: "me/worker:latest".into(), ..right.clone() },
                "the image has no tag that stays what it is",
            ),
            (DeployConfig { gpus: Vec::new(), ..right.clone() }, "no GPU is named"),
            (DeployConfig { max_workers: 0, ..right.clone() }, "an endpoint has between 1 and 60 workers at most"),
            (DeployConfig { name: "a b".into(), ..right }, "the name of an endpoint has letters, digits, `-` and `_`"),
        ] {
            let error = check(&config).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidConfig, message));
            assert!(error.advice().is_some());
        }
    }
}
