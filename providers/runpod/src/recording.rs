//! What was said to RunPod and what it answered, without secrets.

use std::sync::{Arc, Mutex, PoisonError};

use outboard_core::error::{Error, ErrorKind, Result};
use reqwest::Url;
use serde::Serialize;
use serde_json::Value;

/// Longer texts are told by their length: data, mostly.
const LONGEST: usize = 300;

/// Exchanges with RunPod, in their order.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    exchanges: Arc<Mutex<Vec<Exchange>>>,
    secrets: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Exchange {
    method: String,
    url: String,
    request: Value,
    /// None where no reply came.
    status: Option<u16>,
    reply: Value,
}

impl Recording {
    pub(crate) fn new(secrets: Vec<String>) -> Self {
        Self { exchanges: Arc::default(), secrets }
    }

    pub(crate) fn note(&self, method: &str, url: &Url, request: &[u8], status: Option<u16>, reply: &[u8]) {
        let exchange = Exchange {
            method: method.into(),
            url: self.plain(url.as_str()),
            request: self.body(request),
            status,
            reply: self.body(reply),
        };
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).push(exchange);
    }

    /// As JSON.
    ///
    /// # Errors
    /// None but bugs.
    pub fn json(&self) -> Result<Vec<u8>> {
        let exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_vec_pretty(&*exchanges)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "a recording cannot be encoded").because(e))
    }

    fn body(&self, bytes: &[u8]) -> Value {
        match serde_json::from_slice(bytes) {
            Ok(value) => self.masked(value),
            Err(_) if bytes.is_empty() => Value::Null,
            Err(_) => Value::String(self.plain(&String::from_utf8_lossy(bytes))),
        }
    }

    fn masked(&self, value: Value) -> Value {
        match value {
            // A signed URL is as good as a key.
            Value::Object(fields) => {
                let mask = |(name, value): (String, Value)| {
                    let value = if name == "headers" { Value::String("***".into()) } else { self.masked(value) };
                    (name, value)
                };
                Value::Object(fields.into_iter().map(mask).collect())
            }
            Value::Array(values) => Value::Array(values.into_iter().map(|value| self.masked(value)).collect()),
            Value::String(text) => Value::String(self.plain(&text)),
            other => other,
        }
    }

    fn plain(&self, text: &str) -> String {
        let text = match text.split_once('?') {
            Some((url, query)) if url.contains("://") && query.to_lowercase().contains("signature") => {
                format!("{url}?***")
            }
            _ => text.to_string(),
        };
        let text = self.secrets.iter().fold(text, |text, secret| text.replace(secret, "***"));
        match text.chars().count() {
            length if length > LONGEST => format!("({length} characters)"),
            _ => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_kept() {
        let recording = Recording::new(vec!["rpa_s3cret".into()]);
        let request = serde_json::json!({
            "input": { "envelope": { "store": { "get": "https://b.test/x?X-Amz-Signature=s3cret", "headers": { "a": "s3cret" } } },
                       "blobs": [{ "data": "A".repeat(500) }] },
        });
        let url = Url::parse("https://api.test/v2/ep1/run").unwrap();
        recording.note("POST", &url, request.to_string().as_bytes(), Some(500), b"key rpa_s3cret is wrong");
        let text = String::from_utf8(recording.json().unwrap()).unwrap();
        assert!(!text.contains("s3cret") && text.contains("https://b.test/x?***"), "{text}");
        assert!(text.contains("(500 characters)") && text.contains("key *** is wrong"), "{text}");
    }
}
