//! The client of Lambda's API. Its own retries are off: ours are the only layer of them.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, ConfigLoader, SdkConfig, timeout::TimeoutConfig};
use aws_sdk_lambda::{
    Client,
    config::{Credentials, Region, StalledStreamProtectionConfig, retry::RetryConfig},
    error::{ProvideErrorMetadata, SdkError},
    operation::invoke::{InvokeError, InvokeOutput},
    primitives::Blob,
    types::{InvocationType, LogType},
};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use outboard_core::error::{Error, ErrorKind, Result, Retry};
use outboard_store::transport::is_loopback;
use tokio::sync::OnceCell;

use crate::{
    Config,
    parse_error::{Refusal, is_function_error, parse_error},
};

/// A request takes as long as the function may, and this long beyond.
const SLACK: Duration = Duration::from_secs(30);

const CUT: &str = "the connection to Lambda was cut";

/// What came of an invocation.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// It has ended.
    Ended(Ended),
    /// It was not taken.
    Refused(Error),
    /// It may run.
    Lost(Error),
}

/// How a function is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) memory_mb: u32,
    pub(crate) timeout: Duration,
    /// Where it is told.
    pub(crate) architecture: Option<String>,
}

/// How an invocation ended.
#[derive(Clone)]
pub(crate) struct Ended {
    pub(crate) body: Arc<[u8]>,
    /// Whether the function failed; where no header says so, the body may.
    pub(crate) is_error: bool,
    /// The end of its log.
    pub(crate) log: Option<String>,
    /// From the request to the reply.
    pub(crate) took: Duration,
}

/// Without the body, which may hold URLs that are secrets.
impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { body, is_error, took, .. } = self;
        write!(f, "Ended({} bytes, is_error: {is_error}, {took:?})", body.len())
    }
}

/// Made at its first use: the usual chain of credentials reads files, and may ask the machine.
pub(crate) struct Connection {
    config: Config,
    loaded: OnceCell<(SdkConfig, Client)>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Connection {
    /// # Errors
    /// `InvalidConfig` where the address is wrong.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        if let Some(url) = &config.endpoint_url {
            check_endpoint(url)?;
        }
        Ok(Self { config: config.clone(), loaded: OnceCell::new() })
    }

    async fn loaded(&self) -> &(SdkConfig, Client) {
        self.loaded
            .get_or_init(|| async {
                let Config { region, profile, endpoint_url, timeout, connect_timeout, .. } = &self.config;
                let http = aws_smithy_http_client::Builder::new()
                    .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
                    .build_https();
                let times = TimeoutConfig::builder()
                    .connect_timeout(*connect_timeout)
                    .operation_attempt_timeout(*timeout + SLACK)
                    .build();
                let loader = ConfigLoader::default()
                    .behavior_version(BehaviorVersion::latest())
                    .http_client(http)
                    .retry_config(RetryConfig::disabled())
                    .timeout_config(times)
                    // A function that computes is silent for long.
                    .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
                let loader = match region {
                    Some(region) => loader.region(Region::new(region.clone())),
                    None => loader,
                };
                let loader = match profile {
                    Some(profile) => loader.profile_name(profile),
                    None => loader,
                };
                let loader = match endpoint_url {
                    Some(url) => loader.endpoint_url(url),
                    None => loader,
                };
                let loader = match (&self.config.access_key_id, &self.config.secret_access_key) {
                    (Some(id), Some(secret)) => {
                        let token = self.config.session_token.clone();
                        loader.credentials_provider(Credentials::new(id, secret, token, None, "configuration"))
                    }
                    _ => loader,
                };
                let loaded = loader.load().await;
                let client = Client::new(&loaded);
                (loaded, client)
            })
            .await
    }

    /// The SDK's client.
    pub(crate) async fn client(&self) -> &Client {
        &self.loaded().await.1
    }

    /// The region, if it is known.
    pub(crate) async fn region(&self) -> Option<String> {
        self.loaded().await.0.region().map(|region| region.as_ref().to_string())
    }

    /// Whether the function is there and may be invoked. Nothing runs.
    pub(crate) async fn probe(&self) -> Result<()> {
        match self.send(InvocationType::DryRun, b"{}".to_vec()).await {
            Answer::Ended(_) => Ok(()),
            Answer::Refused(error) | Answer::Lost(error) => Err(error),
        }
    }

    /// How the function is set.
    pub(crate) async fn setting(&self) -> Result<Setting> {
        let look = self.client().await.get_function_configuration().function_name(&self.config.function);
        let seen = look.set_qualifier(self.qualifier()).send().await.map_err(control_error)?;
        let number = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok());
        match (number(seen.memory_size()), number(seen.timeout())) {
            (Some(memory_mb), Some(seconds)) => Ok(Setting {
                memory_mb,
                timeout: Duration::from_secs(seconds.into()),
                architecture: seen.architectures().first().map(|architecture| architecture.as_str().to_string()),
            }),
            _ => Err(Error::new(ErrorKind::Unexpected, "Lambda doesn't tell the function's memory and time-out")),
        }
    }

    fn qualifier(&self) -> Option<String> {
        Some(self.config.qualifier.clone()).filter(|qualifier| !qualifier.is_empty())
    }

    /// Invokes the function, and waits for its end.
    pub(crate) async fn invoke(&self, body: Vec<u8>) -> Answer {
        self.send(InvocationType::RequestResponse, body).await
    }

    async fn send(&self, kind: InvocationType, body: Vec<u8>) -> Answer {
        let (_, client) = self.loaded().await;
        let is_real = kind == InvocationType::RequestResponse;
        let request = client
            .invoke()
            .function_name(&self.config.function)
            .set_qualifier(self.qualifier())
            .invocation_type(kind)
            .set_log_type(is_real.then_some(LogType::Tail))
            .payload(Blob::new(body));
        let began = tokio::time::Instant::now();
        let sent = request.send().await;
        let took = began.elapsed();
        match sent {
            Ok(InvokeOutput { function_error, log_result, payload, .. }) => Answer::Ended(Ended {
                body: payload.map(Blob::into_inner).unwrap_or_default().into(),
                is_error: function_error.is_some(),
                log: log_result,
                took,
            }),
            Err(error) => failed(error, took),
        }
    }
}

fn failed(error: SdkError<InvokeError>, took: Duration) -> Answer {
    let told = Told(describe(&error));
    match error {
        SdkError::ServiceError(service) => {
            let (error, reply) = (service.err(), service.raw());
            let body = reply.body().bytes().unwrap_or_default();
            // Emulators tell so that a function failed; Lambda itself does behind a success.
            if reply.headers().get("x-amzn-errortype").is_none() && is_function_error(body) {
                return Answer::Ended(Ended { body: body.into(), is_error: true, log: None, took });
            }
            let throttle = match error {
                InvokeError::TooManyRequestsException(throttle) => Some(throttle),
                _ => None,
            };
            let after = throttle.and_then(|throttle| throttle.retry_after_seconds());
            let refusal = Refusal {
                status: reply.status().as_u16(),
                code: code(error),
                message: error.message().map_or_else(|| String::from_utf8_lossy(body).into_owned(), Into::into),
                reason: throttle.and_then(|t| t.reason()).map(|reason| reason.as_str().into()).unwrap_or_default(),
                retry_after: after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs),
            };
            let error = parse_error(&refusal);
            if refusal.may_run() { Answer::Lost(error) } else { Answer::Refused(error) }
        }
        SdkError::TimeoutError(_) => {
            let error = Error::new(ErrorKind::Timeout, "Lambda did not answer within the function's time-out");
            Answer::Lost(error.because(told).hint("look at the function's log"))
        }
        SdkError::ResponseError(_) => {
            let error = Error::new(ErrorKind::Unavailable, "the reply of Lambda was cut or can't be read");
            Answer::Lost(error.because(told).hint("check the network"))
        }
        SdkError::DispatchFailure(failure) => {
            let is_timeout = failure.is_timeout();
            match failure.as_connector_error() {
                Some(error) => dispatch_error(error, is_timeout, told),
                None => Answer::Lost(Error::new(ErrorKind::Unavailable, CUT)),
            }
        }
        _ => {
            let wrong = Error::new(ErrorKind::InvalidConfig, "the request to Lambda can't be made");
            Answer::Refused(
                wrong.because(told).hint("check `region`, `function` and `endpoint_url` of `[providers.aws-lambda]`"),
            )
        }
    }
}

/// The error of a request that makes or changes a function.
pub(crate) fn control_error<E>(error: SdkError<E>) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let told = Told(describe(&error));
    match &error {
        SdkError::ServiceError(service) => parse_error(&Refusal {
            status: service.raw().status().as_u16(),
            code: code(service.err()),
            message: service.err().message().unwrap_or_default().into(),
            ..Refusal::default()
        }),
        SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
            Some(error) => match dispatch_error(error, failure.is_timeout(), told) {
                Answer::Refused(error) | Answer::Lost(error) => error,
                Answer::Ended(_) => Error::new(ErrorKind::Unavailable, CUT),
            },
            None => Error::new(ErrorKind::Unavailable, CUT).because(told),
        },
        _ => Error::new(ErrorKind::Unavailable, CUT).because(told).hint("check the network, then deploy again"),
    }
}

fn code(error: &impl ProvideErrorMetadata) -> String {
    error.code().map(|code| code.trim_end_matches("Exception").into()).unwrap_or_default()
}

/// Why a request got no reply.
fn dispatch_error(error: &(dyn StdError + 'static), is_timeout: bool, told: Told) -> Answer {
    if find::<aws_credential_types::provider::error::CredentialsError>(error).is_some() {
        let error = Error::new(ErrorKind::Unauthenticated, "there are no credentials for AWS").because(told);
        return Answer::Refused(
            error
                .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `profile`, or run where a role is attached"),
        );
    }
    // Only a connection has a time limit of its own.
    let is_connect = is_timeout || find::<hyper_util::client::legacy::Error>(error).is_some_and(|e| e.is_connect());
    if is_connect {
        let error = Error::new(ErrorKind::Unavailable, "Lambda can't be reached").because(told);
        return Answer::Refused(error.hint("check the network, `region` and `endpoint_url`"));
    }
    Answer::Lost(Error::new(ErrorKind::Unavailable, CUT).because(told))
}

/// The first cause of this type.
fn find<'e, T: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Causes in one line.
#[derive(Debug)]
struct Told(String);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Told {}

fn describe(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn check_endpoint(text: &str) -> Result<()> {
    let wrong = |message: &str, hint: &str| {
        Err(Error::new(ErrorKind::InvalidConfig, message)
            .with_provider("aws-lambda")
            .at("key", "providers.aws-lambda.endpoint_url")
            .hint(hint))
    };
    const REMOVE: &str = "remove the key: its default is AWS's address";
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let host = rest.split('/').next().unwrap_or_default();
    if rest.contains(['@', '?', '#']) {
        return wrong("it holds more than an address", "credentials come from the environment or a profile");
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    match scheme {
        _ if name.is_empty() => wrong("it is not a URL", REMOVE),
        "https" => Ok(()),
        "http" if is_loopback(name) => Ok(()),
        "http" => wrong("plain HTTP would show tasks to the network on the way", "use https"),
        _ => wrong("it starts with neither `https://` nor `http://`", REMOVE),
    }
}

/// The answer of whoever was not asked: the attempt may be running for `until`.
pub(crate) fn unknown(error: &Error, until: Duration) -> Error {
    error.clone().with_retry(Retry::Unknown { until }).hint(
        "wait until the function's time is over; with a store (`[store] url`) its result would be found by its key",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let with = |url: &str| Connection::new(&Config { endpoint_url: Some(url.into()), ..Config::default() });
        for good in ["http://127.0.0.1:9000", "https://a", "http://[::1]:9000/x", "http://localhost"] {
            with(good).unwrap();
        }
        for (url, message) in [
            ("http://far.away", "plain HTTP would show tasks to the network on the way"),
            ("https://me:s3cret@a", "it holds more than an address"),
            ("https://a?k=s3cret", "it holds more than an address"),
            ("ftp://a", "it starts with neither `https://` nor `http://`"),
            ("https://", "it is not a URL"),
            ("", "it is not a URL"),
        ] {
            let error = with(url).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidConfig, message));
            assert!(error.advice().is_some() && !error.report().contains("s3cret"), "{}", error.report());
        }
    }
}
