//! Immutable bytes, named by their digest.

use std::{fmt, str::FromStr};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::Result;

/// The BLAKE3 digest of a blob, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        blake3::hash(bytes).into()
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| format!("`{text}` is not a digest (64 hexadecimal digits)"))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// Where blobs lie. Each is verified against its digest when it is read.
#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// Whether the blob is there.
    async fn has(&self, digest: &Digest) -> Result<bool>;

    /// The blob's bytes.
    ///
    /// # Errors
    /// `NotFound`; `CorruptPayload` where the bytes don't match the digest.
    async fn get(&self, digest: &Digest) -> Result<Bytes>;

    /// Stores `bytes` durably, whole or not at all. Storing what is there already does nothing.
    async fn put(&self, bytes: Bytes) -> Result<Digest>;
}
