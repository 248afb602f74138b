//! An endpoint of one's own on RunPod, and its entry in `outboard.toml`.

use std::{fs, path::Path};

use outboard_core::{Error, ErrorKind, NanoUsd, Result, error::IoContext, finding::Finding};
pub use outboard_runpod::{Deployment, EndpointConfig};
use outboard_store::{FolderStore, atomic};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value, value};

use crate::{Config, client::trial};

/// Checks `[providers.runpod.deploy]` against what is there; what would change, and what idling would cost. Nothing is
/// changed.
///
/// # Errors
/// `InvalidConfig` for what is wrong; those of RunPod and of the network.
pub async fn plan(config: &Config) -> Result<(Deployment, Vec<String>, String)> {
    let store = FolderStore::open(&config.home)?;
    let deployment = Deployment::look(&config.providers.runpod, &store).await?;
    let (changes, idling) = (deployment.changes(), deployment.idling(&store).await?);
    Ok((deployment, changes, idling))
}

/// What is there, whatever is configured.
///
/// # Errors
/// Those of RunPod and of the network.
pub async fn existing(config: &Config) -> Result<Deployment> {
    Deployment::existing(&config.providers.runpod).await
}

/// Runs one small task on an endpoint, for at most `most`, and waits for its end: an image that is new takes its time.
///
/// # Errors
/// Where there is no home folder. What doesn't work is a finding.
pub async fn try_out(config: &Config, endpoint: &EndpointConfig, most: NanoUsd) -> Result<Vec<Finding>> {
    let store = FolderStore::open(&config.home)?;
    let mut config = config.clone();
    config.providers.runpod.endpoints = vec![endpoint.clone()];
    Ok(trial::run(&config, "runpod", &store, most).await)
}

/// Writes an endpoint into a configuration file, which is made where it is missing, and leaves the rest as it is. Whether
/// that changed anything.
///
/// # Errors
/// `InvalidConfig` where the file isn't TOML, or has something else in that place; where it can't be written.
pub fn add(file: &Path, endpoint: &EndpointConfig) -> Result<bool> {
    edit(file, |document| {
        let endpoints = endpoints(document, file)?;
        let has = |id: Option<&str>| id == Some(endpoint.id.as_str());
        match endpoints {
            Item::ArrayOfTables(tables) => {
                if tables.iter().any(|table| has(table.get("id").and_then(Item::as_str))) {
                    return Ok(false);
                }
                let mut table = Table::new();
                table.insert("id", value(&endpoint.id));
                table.insert("gpu", value(&endpoint.gpu));
                tables.push(table);
            }
            Item::Value(Value::Array(array)) => {
                let id = |value: &Value| {
                    value.as_inline_table().and_then(|table| table.get("id")?.as_str().map(String::from))
                };
                if array.iter().any(|value| has(id(value).as_deref())) {
                    return Ok(false);
                }
                let mut table = InlineTable::new();
                table.insert("id", endpoint.id.as_str().into());
                table.insert("gpu", endpoint.gpu.as_str().into());
                array.push(table);
            }
            _ => return Err(odd(file)),
        }
        Ok(true)
    })
}

/// Removes an endpoint from a configuration file. Whether it was there.
///
/// # Errors
/// As [`add`].
pub fn remove(file: &Path, id: &str) -> Result<bool> {
    if !file.exists() {
        return Ok(false);
    }
    edit(file, |document| {
        let endpoints = endpoints(document, file)?;
        Ok(match endpoints {
            Item::ArrayOfTables(tables) => {
                let before = tables.len();
                tables.retain(|table| table.get("id").and_then(Item::as_str) != Some(id));
                tables.len() != before
            }
            Item::Value(Value::Array(array)) => {
                let before = array.len();
                array.retain(|value| {
                    value.as_inline_table().and_then(|table| table.get("id")).and_then(Value::as_str) != Some(id)
                });
                array.len() != before
            }
            _ => return Err(odd(file)),
        })
    })
}

/// The list of endpoints, made where it is missing.
fn endpoints<'d>(document: &'d mut DocumentMut, file: &Path) -> Result<&'d mut Item> {
    let mut table = document.as_table_mut();
    for name in ["providers", "runpod"] {
        let mut implicit = Table::new();
        // Its heading appears only if it holds something itself.
        implicit.set_implicit(true);
        table = table.entry(name).or_insert(Item::Table(implicit)).as_table_mut().ok_or_else(|| odd(file))?;
    }
    Ok(table.entry("endpoints").or_insert(value(Array::new())))
}

fn edit(file: &Path, change: impl FnOnce(&mut DocumentMut) -> Result<bool>) -> Result<bool> {
    let text = if file.exists() { fs::read_to_string(file).doing("read", file)? } else { String::new() };
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| {
        Error::new(ErrorKind::InvalidConfig, format!("{} is not valid TOML: {}", file.display(), e.message()))
            .at("file", file.display())
            .hint("correct it there, then run the command again")
    })?;
    let changed = change(&mut document)?;
    if changed {
        atomic::write(file, document.to_string().as_bytes())?;
    }
    Ok(changed)
}

fn odd(file: &Path) -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        "the endpoint can't be written into the configuration: something else is in its place",
    )
    .at("file", file.display())
    .at("key", "providers.runpod.endpoints")
    .hint("write it as in `endpoints = [{ id = \"...\", gpu = \"RTX 4090\" }]` under `[providers.runpod]`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_keeps_what_else_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("outboard.toml");
        let endpoint = |id: &str| EndpointConfig { id: id.into(), gpu: "L4".into(), weight: 1 };
        for (before, after) in [
            ("", "[providers.runpod]\nendpoints = [{ id = \"a\", gpu = \"L4\" }]\n"),
            (
                "# mine\n[providers.runpod]\nidle_timeout = \"9s\" # long\nendpoints = [{ id = \"x\", gpu = \"H100\" }]\n",
                "# mine\n[providers.runpod]\nidle_timeout = \"9s\" # long\nendpoints = [{ id = \"x\", gpu = \"H100\" }, \
                 { id = \"a\", gpu = \"L4\" }]\n",
            ),
            (
                "[[providers.runpod.endpoints]]\nid = \"x\"\ngpu = \"H100\"\n",
                "[[providers.runpod.endpoints]]\nid = \"x\"\ngpu = \"H100\"\n\n[[providers.runpod.endpoints]]\nid = \"a\"\ngpu = \"L4\"\n",
            ),
        ] {
            fs::write(&file, before).unwrap();
            assert!(add(&file, &endpoint("a")).unwrap());
            assert_eq!(fs::read_to_string(&file).unwrap(), after);
            assert!(!add(&file, &endpoint("a")).unwrap(), "it is there");
            assert!(remove(&file, "a").unwrap() && !remove(&file, "a").unwrap());
        }
        fs::write(&file, "providers = 3\n").unwrap();
        let error = add(&file, &endpoint("a")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the endpoint can't be written into the configuration: something else is in its place"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "providers = 3\n");
    }
}
