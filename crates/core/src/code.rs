//! Codes: a short name for each error that the program prints and each check that it makes, with its explanation.
//!
//! `outboard doctor --explain CODE` prints these texts, and `docs/troubleshooting.md` is made of them. A code, once given,
//! keeps its name.

mod checks;
mod errors;
mod preflight;
mod providers;

use std::fmt;

use serde::{Serialize, Serializer};

pub use self::{checks::*, errors::*, preflight::*, providers::*};

/// The beginning of every code.
const PREFIX: &str = "OB-";

/// A code and what it says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The code itself: `OB-DATA`, say.
    pub name: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// What it means.
    pub means: &'static str,
    /// How to see it.
    pub see: &'static str,
    /// What to do.
    pub fix: &'static str,
}

/// Some codes that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Chapter {
    /// What they have in common.
    pub title: &'static str,
    /// The codes.
    pub codes: &'static [Code],
}

/// Every code.
pub const CHAPTERS: [Chapter; 4] = [
    Chapter { title: "Errors", codes: errors::ALL },
    Chapter { title: "This machine and the configuration", codes: checks::ALL },
    Chapter { title: "Providers", codes: providers::ALL },
    Chapter { title: "Where a worker runs", codes: preflight::ALL },
];

impl Code {
    /// Every code.
    pub fn all() -> impl Iterator<Item = Self> {
        CHAPTERS.into_iter().flat_map(|chapter| chapter.codes).copied()
    }

    /// The code of this name, in whatever case; `OB-` may be left out.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.trim().to_uppercase();
        let short = name.strip_prefix(PREFIX).unwrap_or(&name);
        Self::all().find(|code| code.name.strip_prefix(PREFIX) == Some(short))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// As its name.
impl Serialize for Code {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name)
    }
}

/// Defines codes, and all of them as `ALL`.
macro_rules! codes {
    ($($code:ident = $name:literal: $title:literal; means $means:literal; see $see:literal; fix $fix:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $title, ".")]
            pub const $code: $crate::code::Code =
                $crate::code::Code { name: $name, title: $title, means: $means, see: $see, fix: $fix };
        )*
        pub(super) const ALL: &[$crate::code::Code] = &[$($code),*];
    };
}
use codes;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own_and_every_text() {
        let mut names: Vec<_> = Code::all().map(|code| code.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for Code { name, title, means, see, fix } in Code::all() {
            let short = name.strip_prefix(PREFIX).unwrap();
            assert!(
                short.split('-').all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase())),
                "{name}"
            );
            assert!(!title.is_empty() && !title.ends_with('.'), "{name}: {title}");
            for text in [means, see, fix] {
                assert!(text.ends_with('.') && !text.contains("  ") && !text.contains('\n'), "{name}: {text}");
            }
        }
    }

    #[test]
    fn a_code_is_found_however_it_is_written() {
        for name in ["OB-RUNPOD-KEY", "runpod-key", " ob-runpod-key"] {
            assert_eq!(Code::named(name), Some(RUNPOD_KEY), "{name}");
        }
        assert_eq!(Code::named("OB-NONE"), None);
        assert_eq!(
            (format!("{DATA:<8}|"), serde_json::to_value(DATA).unwrap()),
            ("OB-DATA |".into(), "OB-DATA".into())
        );
    }
}
