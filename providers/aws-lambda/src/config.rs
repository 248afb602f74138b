//! The keys of `[providers.aws-lambda]`.

use std::{fmt, time::Duration};

use outboard_core::{
    NanoUsd,
    duration::time_above_zero,
    error::{Error, ErrorKind, Result},
    money::deserialize_usd,
};
use serde::{Deserialize, Deserializer};

/// What Lambda allows; AWS's documentation of 2026-08.
const MEMORY_MB: std::ops::RangeInclusive<u32> = 128..=10_240;
const LONGEST: Duration = Duration::from_secs(900);
/// A task's checkpoint and result need this long before the function's time is up.
const CLOSING: Duration = Duration::from_secs(30);
/// Its share of a function that has less time.
const CLOSING_SHARE: u32 = 4;

/// `[providers.aws-lambda]`. Credentials that are left out come from the environment, a profile, or the machine's role.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether it may be used.
    pub enabled: bool,
    /// The function's region; `AWS_REGION`, `AWS_DEFAULT_REGION` or the profile's where it is left out.
    #[serde(deserialize_with = "unless_empty")]
    pub region: Option<String>,
    /// The profile of `~/.aws/config`; `AWS_PROFILE` where it is left out.
    #[serde(deserialize_with = "unless_empty")]
    pub profile: Option<String>,
    /// The name of a key, where the usual places don't have one.
    #[serde(deserialize_with = "unless_empty")]
    pub access_key_id: Option<String>,
    /// The key.
    #[serde(deserialize_with = "unless_empty")]
    pub secret_access_key: Option<String>,
    /// What temporary keys come with.
    #[serde(deserialize_with = "unless_empty")]
    pub session_token: Option<String>,
    /// The function's name or ARN.
    pub function: String,
    /// Its alias or version; none where it is empty.
    pub qualifier: String,
    /// The function's memory, as it is set there: price and cores go by it.
    pub memory_mb: u32,
    /// The function's architecture, as it is set there.
    pub architecture: Architecture,
    /// The function's time-out, as it is set there; 15 minutes at most.
    #[serde(deserialize_with = "time_above_zero")]
    pub timeout: Duration,
    /// Where the service listens; AWS where it is left out.
    #[serde(deserialize_with = "unless_empty")]
    pub endpoint_url: Option<String>,
    /// Tasks that run at the same time; more wait here.
    pub concurrency: u32,
    /// What a GB-second costs, where the built-in price list doesn't say or is wrong; `"list"` is that list.
    #[serde(deserialize_with = "usd_unless_list")]
    pub usd_per_gb_second: Option<NanoUsd>,
    /// How long a task may wait for its turn; and a worker that would start it later than that refuses it.
    #[serde(deserialize_with = "time_above_zero")]
    pub start_within: Duration,
    /// A task without an event or a finished batch for this long counts as hung.
    #[serde(deserialize_with = "time_above_zero")]
    pub patience: Duration,
    /// Longest time to connect.
    #[serde(deserialize_with = "time_above_zero")]
    pub connect_timeout: Duration,
}

/// What a function's machines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Intel or AMD.
    #[serde(rename = "x86_64")]
    X86,
    /// Graviton.
    #[serde(rename = "arm64")]
    Arm,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86 => "x86_64",
            Self::Arm => "arm64",
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            enabled: false,
            region: None,
            profile: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            function: "outboard".into(),
            qualifier: "live".into(),
            memory_mb: 1769,
            architecture: Architecture::X86,
            timeout: LONGEST,
            endpoint_url: None,
            concurrency: 10,
            usd_per_gb_second: None,
            start_within: seconds(900),
            patience: seconds(120),
            connect_timeout: seconds(10),
        }
    }
}

/// Without secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address with a user or a query is refused later; until then it may hold a secret.
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "***");
        let plain = |url: &String| if url.contains(['@', '?', '#']) { "***".into() } else { url.clone() };
        f.debug_struct("Config")
            .field("enabled", &self.enabled)
            .field("region", &self.region)
            .field("profile", &self.profile)
            .field("access_key_id", &hidden(&self.access_key_id))
            .field("secret_access_key", &hidden(&self.secret_access_key))
            .field("session_token", &hidden(&self.session_token))
            .field("function", &self.function)
            .field("qualifier", &self.qualifier)
            .field("memory_mb", &self.memory_mb)
            .field("architecture", &self.architecture)
            .field("endpoint_url", &self.endpoint_url.as_ref().map(plain))
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Refuses what Lambda would refuse later, in words that don't help.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |key: &str, message: String| {
            Error::new(ErrorKind::InvalidConfig, message)
                .with_provider("aws-lambda")
                .at("key", format!("providers.aws-lambda.{key}"))
        };
        if !MEMORY_MB.contains(&self.memory_mb) {
            let (least, most) = (MEMORY_MB.start(), MEMORY_MB.end());
            let message = format!("a function has between {least} and {most} MB, not {}", self.memory_mb);
            return Err(wrong("memory_mb", message).hint("write what the function has"));
        }
        if self.timeout > LONGEST {
            let message = format!("a function's time-out is at most {LONGEST:?}, not {:?}", self.timeout);
            return Err(wrong("timeout", message).hint("write what the function has"));
        }
        if self.concurrency == 0 {
            return Err(wrong("concurrency", "no task could ever run".into()).hint("write 1 or more"));
        }
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            let message = "of `access_key_id` and `secret_access_key` only one is set".into();
            return Err(wrong("access_key_id", message).hint("set both or none"));
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:$".contains(&byte);
        if self.function.is_empty() || !self.function.bytes().all(is_name) {
            return Err(wrong("function", format!("`{}` is not the name of a function", self.function))
                .hint("write its name or its ARN, as the console shows it"));
        }
        Ok(())
    }

    /// The longest task.
    pub(crate) fn longest_task(&self) -> Duration {
        self.timeout - CLOSING.min(self.timeout / CLOSING_SHARE)
    }

    /// The time after which an invocation that was sent now is over, whatever became of it.
    pub(crate) fn longest_invocation(&self) -> Duration {
        self.start_within + self.timeout
    }
}

/// An empty text says as much as none.
fn unless_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Some(String::deserialize(d)?).filter(|text| !text.trim().is_empty()))
}

fn usd_unless_list<'de, D: Deserializer<'de>>(d: D) -> Result<Option<NanoUsd>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an amount in US dollars, such as 0.0000166667, or \"list\"")]
    enum Usd {
        List(List),
        Amount(#[serde(deserialize_with = "deserialize_usd")] Option<NanoUsd>),
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum List {
        List,
    }
    match Usd::deserialize(d)? {
        Usd::List(List::List) => Ok(None),
        Usd::Amount(amount) => Ok(amount),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_and_no_other() {
        let times: String =
            ["timeout", "start_within", "patience", "connect_timeout"].map(|key| format!("{key} = '7s'\n")).concat();
        let text = times
            + "access_key_id = 'i'\nsecret_access_key = 'k'\nsession_token = 't'\n\
               enabled = true\nregion = 'r'\nprofile = 'p'\nfunction = 'f'\nqualifier = ''\nmemory_mb = 512\n\
               architecture = 'arm64'\nendpoint_url = 'http://a'\nconcurrency = 3\nusd_per_gb_second = 0.0000133334";
        let seven = Duration::from_secs(7);
        let expected = Config {
            enabled: true,
            region: Some("r".into()),
            profile: Some("p".into()),
            access_key_id: Some("i".into()),
            secret_access_key: Some("k".into()),
            session_token: Some("t".into()),
            function: "f".into(),
            qualifier: String::new(),
            memory_mb: 512,
            architecture: Architecture::Arm,
            timeout: seven,
            endpoint_url: Some("http://a".into()),
            concurrency: 3,
            // Rounded up.
            usd_per_gb_second: Some(NanoUsd(13_334)),
            start_within: seven,
            patience: seven,
            connect_timeout: seven,
        };
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), expected);
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        let unset = "region = ''\nprofile = ''\naccess_key_id = ''\nsecret_access_key = ''\nsession_token = ''\n\
                     endpoint_url = ''\nusd_per_gb_second = 'list'";
        assert_eq!(toml::from_str::<Config>(unset).unwrap(), Config::default());
        for wrong in ["key = 'x'", "architecture = 'mips'", "patience = '0s'", "usd_per_gb_second = -1"] {
            assert!(toml::from_str::<Config>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_lambda_would_refuse_is_refused_with_the_numbers() {
        type Change = fn(&mut Config);
        let cases: [(Change, &str); 6] = [
            (
                |config| config.access_key_id = Some("i".into()),
                "of `access_key_id` and `secret_access_key` only one is set",
            ),
            (|config| config.memory_mb = 64, "a function has between 128 and 10240 MB, not 64"),
            (|config| config.timeout = Duration::from_secs(901), "a function's time-out is at most 900s, not 901s"),
            (|config| config.concurrency = 0, "no task could ever run"),
            (|config| config.function = "a/b".into(), "`a/b` is not the name of a function"),
            (|config| config.function.clear(), "`` is not the name of a function"),
        ];
        Config::default().check().unwrap();
        for (change, message) in cases {
            let mut config = Config::default();
            change(&mut config);
            let error = config.check().unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidConfig, message));
            assert!(error.advice().is_some() && error.report().contains("key: providers.aws-lambda."));
        }
        let secret = Some("s3cret".to_string());
        let mut config = Config {
            endpoint_url: Some("http://me:s3cret@a".into()),
            access_key_id: secret.clone(),
            secret_access_key: secret.clone(),
            session_token: secret,
            ..Config::default()
        };
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(config.longest_task(), Duration::from_secs(870));
        config.timeout = Duration::from_secs(4);
        assert_eq!(config.longest_task(), Duration::from_secs(3));
    }
}
