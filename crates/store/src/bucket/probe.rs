//! What a store can do, found out by trying.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use outboard_core::{
    Digest,
    error::{Error, ErrorKind, Result},
    finding::Finding,
};

use super::Bucket;

/// What came of a probe. Writing, reading, listing and removing worked, or there would be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whether an object that is there already is kept when a put asks for that.
    pub holds_conditions: bool,
}

/// The promise that follows.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.holds_conditions {
            "a task runs at most once, and its result is found by its key"
        } else {
            "the store ignores conditional puts: after a lost reply a task may run, and be paid for, twice"
        })
    }
}

impl Bucket {
    /// What the store can do, as its first use finds out by [`probe`](Self::probe).
    ///
    /// # Errors
    /// Those of [`probe`](Self::probe), which is tried again then.
    pub async fn probed(&self) -> Result<Probe> {
        let probe = async {
            let probe = self.probe().await?;
            if !probe.holds_conditions {
                tracing::warn!(store = %self.bucket.base_url(), "{probe}");
            }
            Ok(probe)
        };
        self.probed.get_or_try_init(|| probe).await.copied()
    }

    /// Whether the store answers at its address. Nothing is asked of it.
    pub async fn reach(&self) -> Vec<Finding> {
        self.transfer.reach(self.bucket.base_url()).await
    }

    /// Writes a scratch object twice, reads it, lists it and removes it. Whether conditions hold in a race can't be seen
    /// from here: that is the store's word.
    ///
    /// # Errors
    /// What the store refuses; `Unexpected` where it doesn't give back what it was given.
    pub async fn probe(&self) -> Result<Probe> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = Digest::of(format!("{} {}", std::process::id(), now.as_nanos()).as_bytes());
        let object = format!("{}probe/{name}", self.prefix);
        // What is wrong with the address or the keys is found before anything is written.
        self.list(&object).await?;
        let first = self.create(&object, Bytes::from_static(b"first")).await?;
        let probed = self.probe_object(&object).await;
        self.delete(&object).await?;
        let holds_conditions = probed?;
        if !first || self.exists(&object).await? {
            return Err(self.forgets("it takes an object for another, or doesn't remove it"));
        }
        Ok(Probe { holds_conditions })
    }

    async fn probe_object(&self, object: &str) -> Result<bool> {
        let replaced = self.create(object, Bytes::from_static(b"second")).await?;
        let read = self.read(object).await?;
        if !self.list(object).await?.iter().any(|entry| entry.name == object) {
            return Err(self.forgets("what was written isn't listed"));
        }
        match read.as_deref() {
            Some(b"first") => Ok(!replaced),
            Some(b"second") => Ok(false),
            _ => Err(self.forgets("what was written isn't what is read")),
        }
    }

    fn forgets(&self, why: &str) -> Error {
        self.located(Error::new(ErrorKind::Unexpected, format!("the store can't be used: {why}")))
            .hint("use another store")
    }
}
