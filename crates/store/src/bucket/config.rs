//! The keys of a bucket, checked.

use std::fmt;

use outboard_core::error::{Error, ErrorKind, Result};
use rusty_s3::{Credentials, UrlStyle};
use serde::Deserialize;
use url::Url;

use crate::transport::is_loopback;

/// A bucket of any S3-compatible service.
///
/// What is left out or empty is taken from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION` or
/// `AWS_DEFAULT_REGION`, and `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketConfig {
    /// `s3://BUCKET/PREFIX`; the prefix may be left out. Empty where there is no bucket.
    pub url: String,
    /// Where the service listens; AWS where it is left out.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The bucket's region; `us-east-1` where it is left out and there is an endpoint.
    #[serde(default)]
    pub region: Option<String>,
    /// The name of the key.
    #[serde(default)]
    pub access_key_id: Option<String>,
    /// The key.
    #[serde(default)]
    pub secret_access_key: Option<String>,
    /// What temporary keys come with.
    #[serde(default)]
    pub session_token: Option<String>,
    /// Whether plain HTTP may leave this machine.
    #[serde(default)]
    pub allow_plain_http: bool,
}

/// Without secrets.
impl fmt::Debug for BucketConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address with a user or a query is refused later; until then it may hold a secret.
        let plain = |text: &str| if text.contains(['@', '?', '#']) { "***".into() } else { text.to_string() };
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "***");
        f.debug_struct("BucketConfig")
            .field("url", &plain(&self.url))
            .field("endpoint", &self.endpoint.as_deref().map(plain))
            .field("region", &self.region)
            .field("access_key_id", &hidden(&self.access_key_id))
            .field("secret_access_key", &hidden(&self.secret_access_key))
            .field("session_token", &hidden(&self.session_token))
            .field("allow_plain_http", &self.allow_plain_http)
            .finish()
    }
}

/// A bucket's address and credentials.
pub(super) struct Place {
    pub(super) bucket: rusty_s3::Bucket,
    pub(super) credentials: Credentials,
    /// Empty, or ends with a slash.
    pub(super) prefix: String,
}

impl BucketConfig {
    /// Checks the keys; what is left out comes from the environment, as `variable` tells it.
    pub(super) fn place(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Place> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let (name, prefix) = self.name_and_prefix()?;
        let endpoint = set(&self.endpoint);
        let endpoint = endpoint.or_else(|| variable("AWS_ENDPOINT_URL_S3")).or_else(|| variable("AWS_ENDPOINT_URL"));
        let region = set(&self.region).or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
        let region = match (region, &endpoint) {
            (Some(region), _) if is_name(&region) => region,
            (Some(_), _) => {
                return Err(wrong("the store's region is not one").hint("write it as in `region = \"us-east-1\"`"));
            }
            (None, Some(_)) => "us-east-1".into(),
            (None, None) => {
                return Err(wrong("the store has neither a region nor an endpoint")
                    .hint("set `region` for AWS, or `endpoint` for another service"));
            }
        };
        let (endpoint, style) = match &endpoint {
            Some(endpoint) => (self.check_endpoint(endpoint)?, UrlStyle::Path),
            // A certificate covers one label before the service's name.
            None if name.contains('.') => (aws(&region)?, UrlStyle::Path),
            None => (aws(&region)?, UrlStyle::VirtualHost),
        };
        let credentials = self.credentials(variable)?;
        let bucket = rusty_s3::Bucket::new(endpoint, style, name.to_string(), region)
            .map_err(|e| wrong("the store's address can't be made").because(e).hint("check `url` and `endpoint`"))?;
        Ok(Place { bucket, credentials, prefix })
    }

    fn name_and_prefix(&self) -> Result<(&str, String)> {
        let hint = "write it as in `url = \"s3://my-bucket/outboard\"`";
        let path =
            self.url.strip_prefix("s3://").ok_or_else(|| wrong("`url` does not start with `s3://`").hint(hint))?;
        let (name, prefix) = path.split_once('/').unwrap_or((path, ""));
        if !is_name(name) {
            return Err(wrong("`url` names no bucket: letters, digits, `.`, `-` and `_`").hint(hint));
        }
        let prefix = prefix.trim_end_matches('/');
        let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['?', '#', '\\', '%']);
        match prefix {
            "" => Ok((name, String::new())),
            _ if prefix.len() <= 512 && prefix.split('/').all(is_plain) => Ok((name, format!("{prefix}/"))),
            _ => Err(wrong("the prefix in `url` has an empty or odd part").hint(hint)),
        }
    }

    fn check_endpoint(&self, text: &str) -> Result<Url> {
        let hint = "write it as in `endpoint = \"https://s3.example.com\"`";
        let url = Url::parse(text).map_err(|e| wrong("`endpoint` is not a URL").because(e).hint(hint))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("`endpoint` starts with neither `http://` nor `https://`").hint(hint));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("`endpoint` holds more than an address")
                .hint("put the secret in `secret_access_key`, or AWS_SECRET_ACCESS_KEY"));
        }
        if url.scheme() == "http" && !url.host_str().is_some_and(is_loopback) && !self.allow_plain_http {
            return Err(wrong(
                "plain HTTP would show the data, and URLs that allow to replace it, to the network on the way",
            )
            .at("endpoint", text)
            .hint("use https, or set `allow_plain_http = true`"));
        }
        Ok(url)
    }

    /// From one place, whole: half of a pair would be refused by the store in words that don't help.
    fn credentials(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Credentials> {
        let (id, secret, token) = match (set(&self.access_key_id), set(&self.secret_access_key)) {
            (Some(id), Some(secret)) => (id, secret, set(&self.session_token)),
            (None, None) => match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
                (Some(id), Some(secret)) => (id, secret, variable("AWS_SESSION_TOKEN")),
                _ => {
                    return Err(Error::new(ErrorKind::Unauthenticated, "the store has no credentials").hint(
                        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `access_key_id` and `secret_access_key`",
                    ));
                }
            },
            _ => {
                return Err(
                    wrong("of `access_key_id` and `secret_access_key` only one is set").hint("set both or none")
                );
            }
        };
        Ok(match token {
            Some(token) => Credentials::new_with_token(id, secret, token),
            None => Credentials::new(id, secret),
        })
    }
}

/// A value, unless it is empty.
fn set(value: &Option<String>) -> Option<String> {
    value.clone().filter(|value| !value.trim().is_empty())
}

fn aws(region: &str) -> Result<Url> {
    Url::parse(&format!("https://s3.{region}.amazonaws.com"))
        .map_err(|e| wrong("the store's region is not one").because(e))
}

fn is_name(text: &str) -> bool {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    is_plain && (1..=255).contains(&text.len()) && !text.starts_with('.') && !text.contains("..")
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> BucketConfig {
        toml::from_str(text).unwrap()
    }

    fn place(text: &str) -> Result<Place> {
        config(text).place(|_| None)
    }

    const KEYS: &str = "access_key_id = 'k'\nsecret_access_key = 's3cret'\n";

    #[test]
    fn every_key_is_read_and_no_other() {
        let all = config(
            "url = 's3://b/p'\nendpoint = 'https://e'\nregion = 'r'\naccess_key_id = 'k'\nsecret_access_key = 's3cret'\n\
             session_token = 't0ken'\nallow_plain_http = true",
        );
        assert_eq!((all.url.as_str(), all.region.as_deref(), all.allow_plain_http), ("s3://b/p", Some("r"), true));
        let shown = format!("{all:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("t0ken"), "{shown}");
        let error = toml::from_str::<BucketConfig>("url = 's3://b'\nsecret = 'x'").unwrap_err();
        assert!(error.to_string().contains("unknown field `secret`"), "{error}");
    }

    #[test]
    fn addresses() {
        let url = |text: &str| {
            let place = place(&format!("{KEYS}{text}")).unwrap();
            (place.bucket.base_url().to_string(), place.prefix)
        };
        let aws = url("url = 's3://b'\nregion = 'eu-west-1'");
        assert_eq!(aws, ("https://b.s3.eu-west-1.amazonaws.com/".into(), String::new()));
        assert_eq!(url("url = 's3://b.c/x/'\nregion = 'us-east-1'").0, "https://s3.us-east-1.amazonaws.com/b.c/");
        let own = url("url = 's3://b/x/y/'\nendpoint = 'http://127.0.0.1:9000'");
        assert_eq!(own, ("http://127.0.0.1:9000/b/".into(), "x/y/".into()));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_would_be_right() {
        for (text, message) in [
            ("url = 'https://b'", "`url` does not start with `s3://`"),
            ("url = 's3://'", "`url` names no bucket: letters, digits, `.`, `-` and `_`"),
            ("url = 's3://b/../c'\nregion = 'r'", "the prefix in `url` has an empty or odd part"),
            ("url = 's3://b'", "the store has neither a region nor an endpoint"),
            ("url = 's3://b'\nregion = 'a/b'", "the store's region is not one"),
            ("url = 's3://b'\nendpoint = 'e'", "`endpoint` is not a URL"),
            ("url = 's3://b'\nendpoint = 'ftp://e'", "`endpoint` starts with neither `http://` nor `https://`"),
            ("url = 's3://b'\nendpoint = 'https://me:s3cret@e'", "`endpoint` holds more than an address"),
            (
                "url = 's3://b'\nendpoint = 'http://far.away'",
                "plain HTTP would show the data, and URLs that allow to replace it, to the network on the way",
            ),
        ] {
            let error = place(&format!("{KEYS}{text}")).map(|_| ()).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidConfig, message), "{text}");
            assert!(error.advice().is_some() && !error.report().contains("s3cret"), "{}", error.report());
        }
        assert!(place(&format!("{KEYS}url = 's3://b'\nendpoint = 'http://far.away'\nallow_plain_http = true")).is_ok());
        let half = place("url = 's3://b'\nregion = 'r'\naccess_key_id = 'k'").map(|_| ()).unwrap_err();
        assert_eq!(half.to_string(), "of `access_key_id` and `secret_access_key` only one is set");
        let none = place("url = 's3://b'\nregion = 'r'\naccess_key_id = ''").map(|_| ()).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::Unauthenticated);
    }

    #[test]
    fn the_environment_fills_in_what_is_left_out() {
        let variable = |name: &str| {
            Some(match name {
                "AWS_ACCESS_KEY_ID" => "from-env".to_string(),
                "AWS_SECRET_ACCESS_KEY" => "s3cret".into(),
                "AWS_ENDPOINT_URL" => "https://env.test".into(),
                "AWS_REGION" => "eu-west-2".into(),
                _ => return None,
            })
        };
        let place = config("url = 's3://b'").place(variable).map_err(|e| e.report()).unwrap();
        assert_eq!((place.credentials.key(), place.bucket.region()), ("from-env", "eu-west-2"));
        assert_eq!(place.bucket.base_url().as_str(), "https://env.test/b/");
        let own =
            config(&format!("{KEYS}url = 's3://b'\nregion = 'r'")).place(variable).map_err(|e| e.report()).unwrap();
        assert_eq!((own.credentials.key(), own.bucket.region()), ("k", "r"));
    }
}
