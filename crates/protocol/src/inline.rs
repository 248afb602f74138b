//! Blobs that travel beside an envelope or a result, where there is no store between client and worker
//! (`docs/protocol.md`, section 11).

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use outboard_core::{Digest, Event};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    Encoding, Envelope, TaskResult,
    grant::{MAX_BLOBS, bounded},
};

/// A worker that is one process, as on AWS Lambda, ends itself when a task has taken this much longer than its limit,
/// blobs included: what it bills is bounded.
pub const ALLOWANCE: Duration = Duration::from_secs(60);

/// A blob in a message; its bytes are base64 there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlineBlob {
    /// The blob.
    pub digest: Digest,
    /// How its bytes come.
    pub encoding: Encoding,
    /// The bytes.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub data: Vec<u8>,
}

impl fmt::Debug for InlineBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { digest, encoding, data } = self;
        write!(f, "InlineBlob({digest}, {encoding:?}, {} bytes)", data.len())
    }
}

/// What a worker is handed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InlineRequest {
    /// The task. With a grant in it no blobs come along.
    pub envelope: Envelope,
    /// What the task needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "bounded::<_, _, MAX_BLOBS>")]
    pub blobs: Vec<InlineBlob>,
}

/// What it hands back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InlineReply {
    /// The result.
    pub result: TaskResult,
    /// What happened; empty with a grant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// The blob that the outcome names; none with a grant.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "bounded::<_, _, MAX_BLOBS>")]
    pub blobs: Vec<InlineBlob>,
}

fn to_base64<S: Serializer>(data: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&STANDARD.encode(data))
}

fn from_base64<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(d)?;
    STANDARD.decode(text).map_err(|e| de::Error::custom(format!("the bytes of a blob are not base64: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_as_base64_and_come_back() {
        let blob = InlineBlob { digest: Digest::of(b"?>"), encoding: Encoding::Raw, data: b"?>\xff".to_vec() };
        let text = serde_json::to_string(&blob).unwrap();
        assert!(text.ends_with("\"encoding\":\"raw\",\"data\":\"Pz7/\"}"), "{text}");
        assert_eq!(serde_json::from_str::<InlineBlob>(&text).unwrap(), blob);
        assert!(!format!("{blob:?}").contains("Pz7"));
        let error = serde_json::from_str::<InlineBlob>(&text.replace("Pz7/", "P?")).unwrap_err();
        assert!(error.to_string().starts_with("the bytes of a blob are not base64"), "{error}");
    }
}
