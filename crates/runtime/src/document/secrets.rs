//! What must not be shown.

use figment::value::Value;

use super::key::{Key, clipped};

/// A key is secret if one of its names ends in one of these, whatever its case: `runpod.api_key`,
/// `store.secret_access_key`, `workers[0].bearer_token`.
const SECRET_ENDINGS: [&str; 10] = [
    "api_key",
    "apikey",
    "access_key",
    "private_key",
    "secret_key",
    "password",
    "passphrase",
    "secret",
    "token",
    "credentials",
];

/// What is shown in the place of a secret.
const MASK: &str = "***";

/// Whether the value of `key` must not be shown.
pub(crate) fn is_secret(key: &Key) -> bool {
    // What only a plugin understands may be secret, whatever its name.
    let mut names = key.names();
    if (names.next(), names.nth(1)) == (Some("plugins"), Some("config")) {
        return true;
    }
    key.names().any(|name| {
        let name = name.to_lowercase();
        SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending))
    })
}

/// `text` with the `user:password` of each URL in it masked. What can't be told apart is masked too.
pub(crate) fn mask_urls(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(scheme) = rest.find("://") {
        let (head, tail) = rest.split_at(scheme + 3);
        masked += head;
        let end = tail.find(char::is_whitespace).unwrap_or(tail.len());
        // The last one: a password may hold an `@` of its own.
        rest = match tail[..end].rfind('@') {
            Some(at) => {
                masked += MASK;
                &tail[at..]
            }
            None => tail,
        };
    }
    masked + rest
}

/// The value of `key` as it would be written in TOML, without secrets.
pub(crate) fn displayed(key: &Key, value: &Value) -> String {
    match value {
        Value::String(_, text) if text.is_empty() => "\"\"".into(),
        _ if is_secret(key) => MASK.into(),
        Value::String(_, text) => toml::Value::String(mask_urls(text)).to_string(),
        _ => toml::Value::try_from(value).map(|value| mask_urls(&value.to_string())).unwrap_or_default(),
    }
}

/// The value of `key` in an error message: short, without secrets.
pub(super) fn mentioned(key: &Key, value: &Value) -> String {
    match value {
        Value::Dict(_, table) if table.contains_key("$__toml_private_datetime") => "a date".into(),
        Value::Dict(..) => "a table".into(),
        Value::Array(..) => "a list".into(),
        Value::String(tag, text) => displayed(key, &Value::String(*tag, clipped(&mask_urls(text)))),
        _ => displayed(key, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_keys_are_told_by_their_ending() {
        for key in ["providers.runpod.api_key", "store.secret_access_key", "w[0].TOKEN", "password", "secret.part"] {
            assert!(is_secret(&key.parse().unwrap()), "{key}");
        }
        for key in ["home", "providers.cpu.threads", "model.max_tokens", "token_bucket"] {
            assert!(!is_secret(&key.parse().unwrap()), "{key}");
        }
    }

    #[test]
    fn passwords_in_urls_are_masked() {
        for (text, shown) in [
            ("postgres://me:pa@ss/w@db:5432/x", "postgres://***@db:5432/x"),
            ("see http://a:b@c and https://t@d/e", "see http://***@c and https://***@d/e"),
            ("https://example.org/a", "https://example.org/a"),
            ("me@example.org", "me@example.org"),
            ("://", "://"),
        ] {
            assert_eq!(mask_urls(text), shown);
        }
    }

    #[test]
    fn values_are_shown_as_toml_without_secrets() {
        let value = |text: &str| toml::from_str::<figment::value::Dict>(&format!("v = {text}")).unwrap()["v"].clone();
        let shown = |key: &str, text: &str| displayed(&key.parse().unwrap(), &value(text));
        assert_eq!(shown("a", "\"x\""), "\"x\"");
        assert_eq!(shown("a", "[1, 2.5, true]"), "[1, 2.5, true]");
        assert_eq!(shown("url", "\"http://u:p@h\""), "\"http://***@h\"");
        assert_eq!(shown("urls", "[\"http://u:p@h\"]"), "[\"http://***@h\"]");
        assert_eq!(shown("api_key", "\"rp_1\""), "***");
        assert_eq!(shown("api_key", "17"), "***");
        assert_eq!(shown("api_key", "\"\""), "\"\"");
    }
}
