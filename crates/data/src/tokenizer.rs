//! Tokenizers of Hugging Face's format, `tokenizer.json`.

use std::{fs::File, io::Read, path::Path};

use outboard_core::error::{Error, IoContext, Result};
use outboard_protocol::Tokenizer;

/// Bytes of a tokenizer's file. It travels with the model.
const MOST_BYTES: u64 = 64 << 20;

/// Reads what a job names.
pub(crate) fn open(path: &Path) -> Result<Tokenizer> {
    let located = |e: Error| e.at("file", path.display()).at("key", "data.tokenizer");
    let mut json = String::new();
    let file = File::open(path).doing("read", path).map_err(located)?;
    let read = file.take(MOST_BYTES + 1).read_to_string(&mut json);
    if json.len() as u64 > MOST_BYTES {
        let what = format!("a tokenizer of more than {} MiB", MOST_BYTES >> 20);
        return Err(located(Error::invalid(what).hint("use a smaller vocabulary")));
    }
    match read {
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            return Err(located(unreadable("it is not UTF-8 text")));
        }
        read => read.doing("read", path).map_err(located)?,
    };
    let tokens = Encoder::parse(&json).map_err(located)?.tokens();
    Ok(Tokenizer { tokens, json })
}

fn unreadable(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("it is not a tokenizer that can be read: {}", crate::wording::cut(&why.to_string())))
        .hint("save it as `tokenizer.json` with the library `tokenizers`, or `tokenizer.save_pretrained(...)`")
}

#[cfg(feature = "tokenizers")]
pub(crate) use with::Encoder;
#[cfg(not(feature = "tokenizers"))]
pub(crate) use without::Encoder;

#[cfg(feature = "tokenizers")]
mod with {
    use outboard_core::error::{Error, Result};
    use serde::de::IgnoredAny;
    use tokenizers::{PostProcessor, TruncationParams};

    use super::unreadable;
    use crate::{guard, wording::cut};

    /// Makes tokens of texts.
    pub(crate) struct Encoder(tokenizers::Tokenizer);

    impl Encoder {
        /// Reads a tokenizer, without what it says of padding and truncation.
        pub(super) fn parse(json: &str) -> Result<Self> {
            // The library panics at some files that are no JSON.
            serde_json::from_str::<IgnoredAny>(json).map_err(unreadable)?;
            let mut tokenizer = guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(unreadable)?;
            tokenizer.with_padding(None).with_truncation(None).map_err(unreadable)?;
            Ok(Self(tokenizer))
        }

        /// A tokenizer that cuts texts to `length` tokens, its special ones among them.
        pub(crate) fn new(json: &str, length: usize) -> Result<Self> {
            let Self(mut tokenizer) = Self::parse(json)?;
            let added = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
            if length <= added {
                let what = format!("the tokenizer adds {added} tokens to each text, but `max_length` is {length}");
                return Err(Error::invalid(what)
                    .at("key", "data.max_length")
                    .hint(format!("set it to more than {added}, such as 256")));
            }
            let cut = TruncationParams { max_length: length, ..TruncationParams::default() };
            tokenizer.with_truncation(Some(cut)).map_err(unreadable)?;
            Ok(Self(tokenizer))
        }

        /// One more than its highest token.
        pub(super) fn tokens(&self) -> usize {
            self.0.get_vocab(true).values().max().map_or(0, |highest| *highest as usize + 1)
        }

        /// Adds the tokens of a text, each and 1; else what is wrong with it.
        pub(crate) fn append(&self, text: &str, to: &mut Vec<f32>) -> Result<(), String> {
            let tokens = guarded(|| self.0.encode_fast(text, true)).map_err(|e| format!("no tokens: {}", cut(&e)))?;
            to.extend(tokens.get_ids().iter().map(|id| *id as f32 + 1.0));
            Ok(())
        }
    }

    /// A file may hold what the library doesn't expect, and panics at.
    fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
        let done = guard::guarded(work).ok_or("its parts don't go together")?;
        done.map_err(|e| e.to_string())
    }
}

#[cfg(not(feature = "tokenizers"))]
mod without {
    use outboard_core::error::{Error, ErrorKind, Result};

    /// Tells how to build what makes tokens of texts.
    pub(crate) struct Encoder;

    impl Encoder {
        pub(super) fn parse(_: &str) -> Result<Self> {
            Err(Error::new(ErrorKind::Unsupported, "this program was built without tokenizers").hint(
                "build it with the feature: `cargo build --release --package outboard-cli --features tokenizers`",
            ))
        }

        pub(crate) fn new(json: &str, _: usize) -> Result<Self> {
            Self::parse(json)
        }

        pub(super) fn tokens(&self) -> usize {
            0
        }

        pub(crate) fn append(&self, _: &str, _: &mut Vec<f32>) -> Result<(), String> {
            Err("this program was built without tokenizers".into())
        }
    }
}
