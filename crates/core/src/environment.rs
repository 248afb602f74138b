//! What the place is like where tasks run.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// The most facts of an environment.
pub const MAX_FACTS: usize = 512;
/// Bytes of a fact's name.
pub const MAX_NAME_BYTES: usize = 80;
/// Bytes of a fact's value.
pub const MAX_VALUE_BYTES: usize = 4096;

/// Facts by name, such as `library.torch`; `docs/protocol.md`, section 11, lists them. A worker may be anybody's: what it
/// says is bounded, and holds nothing that a terminal would take for a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    #[serde(deserialize_with = "bounded")]
    facts: BTreeMap<String, String>,
}

impl Environment {
    /// States a fact. What has no good name, or is one too many, is left out; a value is one line, and cut where it is
    /// too long.
    pub fn state(&mut self, name: impl Into<String>, value: impl ToString) {
        let (name, value) = (name.into(), value.to_string());
        let is_full = self.facts.len() >= MAX_FACTS && !self.facts.contains_key(&name);
        if !is_name(&name) || is_full {
            return;
        }
        let line: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = line.trim();
        self.facts.insert(name, line[..line.floor_char_boundary(MAX_VALUE_BYTES)].to_string());
    }

    /// The value of a fact.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(String::as_str)
    }

    /// All facts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.facts.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
}

fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let facts = BTreeMap::<String, String>::deserialize(deserializer)?;
    if facts.len() > MAX_FACTS {
        return Err(D::Error::custom(format!("an environment of {} facts, but {MAX_FACTS} are the most", facts.len())));
    }
    for (name, value) in &facts {
        if !is_name(name) {
            let shown: String = name.chars().take(MAX_NAME_BYTES).collect();
            return Err(D::Error::custom(format!("{shown:?} is no name of a fact")));
        }
        if value.len() > MAX_VALUE_BYTES || value.chars().any(char::is_control) {
            let what = format!("the fact `{name}` is more than a line, or than {MAX_VALUE_BYTES} bytes");
            return Err(D::Error::custom(what));
        }
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stated_can_be_read_and_holds_no_command() {
        let mut here = Environment::default();
        here.state("library.torch", " 2.13.0\n");
        here.state("env.PATH", "/bin\u{1b}[2J:/usr\n/bin");
        here.state("env.LONG", "é".repeat(3000));
        here.state("", "no name");
        here.state("two words", "no name either");
        assert_eq!(here.get("library.torch"), Some("2.13.0"));
        assert_eq!(here.get("env.PATH"), Some("/bin [2J:/usr /bin"));
        assert_eq!(here.get("env.LONG").map(str::len), Some(MAX_VALUE_BYTES));
        (0..2 * MAX_FACTS).for_each(|i| here.state(format!("n{i}"), i));
        assert_eq!(here.iter().count(), MAX_FACTS);
        here.state("library.torch", "2.8.0");
        assert_eq!(here.get("library.torch"), Some("2.8.0"), "what is there may change");
        let json = serde_json::to_string(&here).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&json).unwrap(), here);
    }

    #[test]
    fn what_a_foreign_worker_says_is_bounded() {
        let refused = |facts: serde_json::Value| {
            serde_json::from_value::<Environment>(serde_json::json!({ "facts": facts })).unwrap_err().to_string()
        };
        let many: serde_json::Map<_, _> = (0..=MAX_FACTS).map(|i| (format!("n{i}"), "".into())).collect();
        assert_eq!(refused(many.into()), "an environment of 513 facts, but 512 are the most");
        assert_eq!(refused(serde_json::json!({ "a b": "" })), "\"a b\" is no name of a fact");
        assert!(refused(serde_json::json!({ ("a".repeat(81)): "" })).ends_with("is no name of a fact"));
        for value in ["a".repeat(MAX_VALUE_BYTES + 1), "\u{1b}[2J".into(), "two\nlines".into()] {
            assert_eq!(
                refused(serde_json::json!({ "a": value })),
                "the fact `a` is more than a line, or than 4096 bytes"
            );
        }
    }
}
