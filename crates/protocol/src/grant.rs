//! What a worker without credentials is given, and what it leaves in the store (`docs/protocol.md`, section 11).

use std::{fmt, marker::PhantomData};

use outboard_core::{
    Digest, Event,
    error::{Error, ErrorKind, Result},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, SeqAccess, Visitor},
};

use crate::{
    TaskResult,
    envelope::{MAX_MESSAGE_BYTES, decode, encode},
};

/// Blobs that a grant may name.
pub const MAX_BLOBS: usize = 64;
/// Slots that a grant may have.
pub const MAX_SLOTS: usize = 1024;
/// Longest URL, in bytes: one that was signed with a session token has a few thousand.
pub const MAX_URL_BYTES: usize = 8192;

/// How the bytes of a blob are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As they are.
    Raw,
    /// One zstd frame.
    Zstd,
}

impl Encoding {
    /// What is added to a blob's name.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Raw => "",
            Self::Zstd => ".zst",
        }
    }
}

/// A URL that allows one kind of request for a while, to whoever knows it. `Debug` hides what makes it so.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SignedUrl(String);

impl SignedUrl {
    /// Takes a URL of `http` or `https`.
    ///
    /// # Errors
    /// `InvalidRequest` for anything else, and for one that is too long. The URL isn't repeated.
    pub fn new(url: impl Into<String>) -> Result<Self> {
        let url = url.into();
        if url.len() > MAX_URL_BYTES {
            return Err(Error::invalid(format!(
                "a URL of the grant has {} bytes, but may have {MAX_URL_BYTES}",
                url.len()
            )));
        }
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return Err(Error::invalid("a URL of the grant starts with neither `http://` nor `https://`"));
        }
        Ok(Self(url))
    }

    /// The whole URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The query holds the signature; a password may stand before the host.
        let address = self.0.split(['?', '#']).next().unwrap_or_default();
        f.write_str(if address.contains('@') { "" } else { address })?;
        f.write_str("?***")
    }
}

impl<'de> Deserialize<'de> for SignedUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(de::Error::custom)
    }
}

/// Everything that a worker may do in a bucket for one task, as URLs that were signed beforehand: it needs no credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Until when the URLs are good: milliseconds since 1970, UTC.
    pub until: u64,
    /// `GET` for each blob that the task needs.
    #[serde(deserialize_with = "bounded::<_, _, MAX_BLOBS>")]
    pub blobs: Vec<GrantedBlob>,
    /// `PUT` with `If-None-Match: *`.
    pub lease: SignedUrl,
    /// `PUT`, again and again.
    pub progress: SignedUrl,
    /// `PUT` with `If-None-Match: *`.
    pub result: SignedUrl,
    /// `PUT` for blobs whose digest isn't known yet. The last slot is for the outcome.
    #[serde(deserialize_with = "bounded::<_, _, MAX_SLOTS>")]
    pub out: Vec<SignedUrl>,
}

/// A blob that a worker may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedBlob {
    /// The blob.
    pub digest: Digest,
    /// How its bytes come.
    pub encoding: Encoding,
    /// `GET`, also for a part.
    pub url: SignedUrl,
}

/// A blob that a worker has put into a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The blob.
    pub digest: Digest,
    /// The slot.
    pub slot: u32,
    /// How its bytes lie there.
    pub encoding: Encoding,
    /// Bytes in the slot.
    pub bytes: u64,
}

/// A result, and where its blobs are: what a worker leaves as `result`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The result. Its fields are the record's own.
    #[serde(flatten)]
    pub result: TaskResult,
    /// The outcome's blob; or the last checkpoint, where there is no outcome.
    #[serde(default, deserialize_with = "bounded::<_, _, MAX_BLOBS>")]
    pub stored: Vec<Stored>,
}

/// The first line of `progress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressHeader {
    /// Version of this encoding.
    pub protocol: u32,
    /// The attempt that runs.
    pub attempt: String,
    /// Notes that were left out for want of room, the oldest first.
    pub dropped: u64,
}

/// Each further line of `progress`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// What happened.
    pub event: Event,
    /// Where a checkpoint is, once it is in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
}

/// What a worker says while a task runs.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskProgress {
    /// Whose progress it is.
    pub header: ProgressHeader,
    /// What happened, oldest first.
    pub notes: Vec<Note>,
}

impl TaskProgress {
    /// Reads `progress`. Events that a newer worker may know are left out.
    ///
    /// # Errors
    /// `PayloadTooLarge`; `CorruptPayload` where the first line can't be read; `Unsupported` for another version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            let message = format!("a progress of {} bytes is larger than {MAX_MESSAGE_BYTES}", bytes.len());
            return Err(Error::new(ErrorKind::PayloadTooLarge, message));
        }
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let header = decode(lines.next().unwrap_or_default())?;
        Ok(Self { header, notes: lines.filter_map(|line| serde_json::from_slice(line).ok()).collect() })
    }

    /// Its bytes.
    ///
    /// # Errors
    /// `Unexpected` where it can't be encoded.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = encode(&self.header)?;
        for note in &self.notes {
            bytes.push(b'\n');
            bytes.extend(encode(note)?);
        }
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The newest checkpoint that is in the store.
    #[must_use]
    pub fn last_stored(&self) -> Option<Stored> {
        self.notes.iter().rev().find_map(|note| note.stored)
    }
}

/// A list of at most `MAX` entries.
pub(crate) fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    d: D,
) -> Result<Vec<T>, D::Error> {
    struct Few<T, const MAX: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Few<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX} entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(entry) = entries.next_element()? {
                if list.len() == MAX {
                    return Err(de::Error::custom(format!("a list has more than {MAX} entries")));
                }
                list.push(entry);
            }
            Ok(list)
        }
    }
    d.deserialize_seq(Few::<T, MAX>(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PROTOCOL_VERSION, envelope::Ending};
    use outboard_core::task::Timings;
    use outboard_core::task::{Checkpoint, Ended, Outcome};
    use proptest::prelude::*;

    fn url(name: &str) -> SignedUrl {
        SignedUrl::new(format!("https://store.test/{name}?X-Amz-Signature=s3cret")).unwrap()
    }

    fn grant(slots: usize) -> Grant {
        Grant {
            until: 7,
            blobs: vec![GrantedBlob { digest: Digest::of(b"d"), encoding: Encoding::Zstd, url: url("d") }],
            lease: url("lease"),
            progress: url("progress"),
            result: url("result"),
            out: (0..slots).map(|slot| url(&format!("out/{slot}"))).collect(),
        }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { digest: Digest::of(b"c"), epoch: 3, step_in_epoch: 1 }
    }

    fn stored() -> Stored {
        Stored { digest: Digest::of(b"c"), slot: 2, encoding: Encoding::Raw, bytes: 1 }
    }

    fn progress() -> TaskProgress {
        let header = ProgressHeader { protocol: PROTOCOL_VERSION, attempt: "k#1".into(), dropped: 0 };
        let warning = Note { event: Event::Warning { message: "a\nb".into() }, stored: None };
        let checkpoint = Note { event: Event::Checkpoint(checkpoint()), stored: Some(stored()) };
        TaskProgress { header, notes: vec![warning.clone(), checkpoint, warning] }
    }

    #[test]
    fn a_grant_reads_back_and_shows_no_signature() {
        let bytes = encode(&grant(3)).unwrap();
        let read: Grant = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read, grant(3));
        let shown = format!("{read:?}");
        assert!(shown.contains("https://store.test/out/2?***") && !shown.contains("s3cret"), "{shown}");
        let with_password = SignedUrl::new("http://me:s3cret@store.test/a?b").unwrap();
        assert_eq!(format!("{with_password:?}"), "?***");
        let mut newer: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        newer["programs"] = serde_json::json!([]);
        assert_eq!(serde_json::from_value::<Grant>(newer).unwrap(), read);
    }

    #[test]
    fn a_grant_that_is_too_large_is_refused_saying_how_large_it_may_be() {
        let refusal = |grant: &Grant| serde_json::from_slice::<Grant>(&encode(grant).unwrap()).unwrap_err().to_string();
        assert!(refusal(&grant(MAX_SLOTS + 1)).starts_with("a list has more than 1024 entries"));
        let mut many = grant(1);
        many.blobs = vec![many.blobs[0].clone(); MAX_BLOBS + 1];
        assert!(refusal(&many).starts_with("a list has more than 64 entries"));
        let mut long = grant(1);
        long.lease = SignedUrl(format!("https://{}", "a".repeat(MAX_URL_BYTES)));
        assert!(refusal(&long).starts_with("a URL of the grant has 8200 bytes, but may have 8192"));
        for wrong in ["file:///etc/passwd", "", "s3cret"] {
            let error = SignedUrl::new(wrong).unwrap_err();
            assert_eq!(error.to_string(), "a URL of the grant starts with neither `http://` nor `https://`");
        }
    }

    #[test]
    fn records_read_back() {
        assert_eq!(TaskProgress::decode(&progress().encode().unwrap()).unwrap(), progress());
        assert_eq!(progress().last_stored(), Some(stored()));
        let outcome = Outcome::Train { checkpoint: checkpoint(), ended: Ended::Complete };
        let result = TaskResult {
            protocol: PROTOCOL_VERSION,
            key: "k".into(),
            attempt: "k#1".into(),
            ended: Ending::Finished(outcome),
            timings: Timings { compute: 0.1 + 0.2, ..Timings::default() },
        };
        let record = TaskRecord { result: result.clone(), stored: vec![stored()] };
        let bytes = encode(&record).unwrap();
        assert_eq!(decode::<TaskRecord>(&bytes).unwrap(), record);
        // Whoever knows nothing of slots reads a result.
        assert_eq!(decode::<TaskResult>(&bytes).unwrap(), result);
        assert_eq!(decode::<TaskRecord>(&encode(&result).unwrap()).unwrap().stored, []);
    }

    #[test]
    fn a_torn_or_newer_line_of_progress_is_left_out() {
        let mut bytes = progress().encode().unwrap();
        bytes.extend(
            b"{\"event\":{\"event\":\"colour\"}}\n{\"event\":{\"event\":\"warning\",\"message\":\"c\"}}\n{\"ev",
        );
        assert_eq!(TaskProgress::decode(&bytes).unwrap().notes.len(), 4);
        let newer = b"{\"protocol\":2,\"attempt\":\"a\",\"dropped\":0}";
        assert_eq!(TaskProgress::decode(newer).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(TaskProgress::decode(b"").unwrap_err().kind(), ErrorKind::CorruptPayload);
        let large = vec![b' '; MAX_MESSAGE_BYTES + 1];
        assert_eq!(TaskProgress::decode(&large).unwrap_err().kind(), ErrorKind::PayloadTooLarge);
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_read_and_never_a_panic(at in 0usize..4000, byte: u8, cut in 0usize..4000) {
            for bytes in [encode(&grant(3)).unwrap(), progress().encode().unwrap()] {
                let n = bytes.len();
                let mut damaged = bytes.clone();
                damaged[at % n] = byte;
                for bytes in [&damaged, &bytes[..cut % n]] {
                    let read = serde_json::from_slice::<Grant>(bytes);
                    prop_assert!(read.is_err() || read.is_ok_and(|grant| grant.out.len() <= MAX_SLOTS));
                    if let Ok(progress) = TaskProgress::decode(bytes) {
                        prop_assert!(progress.notes.len() <= bytes.len());
                    }
                    let _ = decode::<TaskRecord>(bytes);
                }
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = serde_json::from_slice::<Grant>(&bytes);
            let _ = TaskProgress::decode(&bytes);
            let _ = decode::<TaskRecord>(&bytes);
        }
    }
}
