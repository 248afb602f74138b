//! Every dependency may be used under one of the licences that we accept.

use std::iter::Peekable;

use anyhow::Result;
use serde_json::Value;

use super::outcome::Outcome;
use crate::{command, libtorch, workspace::Workspace};

/// The licences that we accept, by SPDX identifier; one with an exception is an entry of its own.
const ALLOWED: [&str; 10] = [
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    // Of a file: cbindgen, which makes a header in a test, and of which nothing is distributed.
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
];

/// Checks all dependencies, of all platforms, those of the worker on libtorch too.
pub(super) fn check(workspace: &Workspace) -> Result<Outcome> {
    let mut problems = Vec::new();
    for manifest in ["Cargo.toml", libtorch::MANIFEST] {
        let metadata = "metadata --quiet --format-version=1 --all-features --manifest-path";
        let metadata = command::stdout(workspace.cargo(metadata).arg(manifest))?;
        let metadata: Value = serde_json::from_str(&metadata)?;
        let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
        problems.extend(packages.iter().filter_map(problem));
        println!("{manifest}: {} packages", packages.len());
    }
    Ok(Outcome::problems(&problems))
}

/// What is wrong with a package of cargo's metadata, where it isn't our own.
fn problem(package: &Value) -> Option<String> {
    package["source"].as_str()?;
    let reason = match package["license"].as_str().map(|licence| (licence, is_allowed(licence))) {
        Some((_, Some(true))) => return None,
        Some((licence, Some(false))) => format!("{licence} is not accepted"),
        Some((licence, None)) => format!("cannot read the licence `{licence}`"),
        None => "states no licence".into(),
    };
    Some(format!("{}: {reason}", package["id"].as_str().unwrap_or_default()))
}

/// Whether an SPDX expression leaves a choice that we accept; none where it is malformed. The old `MIT/Apache-2.0` is
/// read as `OR`.
fn is_allowed(expression: &str) -> Option<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let allowed = any(&mut words)?;
    words.next().is_none().then_some(allowed)
}

fn any<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Option<bool> {
    let mut allowed = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all(words)?;
    }
    Some(allowed)
}

fn all<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Option<bool> {
    let mut allowed = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Option<bool> {
    match words.next()? {
        "(" => {
            let allowed = any(words)?;
            words.next_if_eq(&")")?;
            Some(allowed)
        }
        ")" | "OR" | "AND" | "WITH" => None,
        licence if words.next_if_eq(&"WITH").is_some() => {
            let exception = words.next()?;
            Some(ALLOWED.contains(&format!("{licence} WITH {exception}").as_str()))
        }
        licence => Some(ALLOWED.contains(&licence)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions() {
        for accepted in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "Unlicense OR MIT",
            "GPL-3.0 OR (MIT AND Zlib)",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MIT",
            "GPL-3.0 AND Zlib OR MIT",
        ] {
            assert_eq!(is_allowed(accepted), Some(true), "{accepted}");
        }
        for refused in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT AND (GPL-3.0 OR LGPL-2.1-or-later)",
            "Apache-2.0 WITH LLVM-exception",
            "mit",
        ] {
            assert_eq!(is_allowed(refused), Some(false), "{refused}");
        }
        for malformed in ["", "MIT OR", "AND MIT", "(MIT", "MIT)", "MIT Zlib", "MIT WITH", "MIT/"] {
            assert_eq!(is_allowed(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn a_package_must_state_its_licence() {
        assert_eq!(problem(&json!({"name": "a", "source": "registry", "license": "MIT"})), None);
        assert_eq!(problem(&json!({"name": "ours", "source": null, "license": null})), None);
        assert!(problem(&json!({"name": "a", "source": "registry", "license": null})).is_some());
        assert!(problem(&json!({"name": "a", "source": "registry", "license": "WTFPL"})).is_some());
    }
}
