//! The checks of `outboard doctor` for AWS Lambda.

use std::time::Duration;

use outboard_core::{
    code::{self, Code},
    finding::{Finding, Findings},
};
use outboard_store::{reach_address, transport::Peer};

use crate::{
    Config,
    connection::{Connection, Setting},
};

const LAMBDA: Peer = Peer {
    name: "Lambda API",
    address: "`region` and `endpoint_url`",
    start: "check `endpoint_url`",
    slow: "look at AWS's status page",
    log: "AWS's status page",
};

const OF: &str = "aws-lambda";

/// Looks whether Lambda can be reached, and whether the function is there, may be invoked, and is set as it is configured; tells
/// `found`. Nothing runs.
pub async fn examine(config: &Config, found: &Findings) {
    let made = config.check().and_then(|()| Connection::new(config));
    let connection = match made {
        Ok(connection) => connection,
        Err(error) => return found.push(Finding::error(code::PROVIDER_CONFIG, OF, &error)),
    };
    if let Some(url) = address(config, connection.region().await) {
        found.extend(reach_address(&url, &LAMBDA).await);
        if found.has_fail() {
            return;
        }
    }
    let function = match config.qualifier.as_str() {
        "" => config.function.clone(),
        qualifier => format!("{}:{qualifier}", config.function),
    };
    match connection.probe().await {
        Ok(()) => {
            found.push(Finding::pass(code::AWS_FUNCTION, OF, format!("`{function}` is there and may be invoked")));
        }
        Err(error) => return found.push(Finding::error(code::AWS_FUNCTION, OF, &error)),
    }
    match connection.setting().await {
        Ok(setting) => found.extend(compare(config, &setting)),
        Err(error) => {
            let remedy = "allow `lambda:GetFunctionConfiguration`, or compare them with the function's by hand";
            let evidence = format!("its memory and its time-out could not be seen: {error}");
            found.push(Finding::warn(code::AWS_LIMITS, OF, evidence, remedy));
        }
    }
}

/// What is reserved, and where tasks stop, goes by what is configured; what is billed, and where the function is cut off, by what is
/// set there.
fn compare(config: &Config, Setting { memory_mb, timeout, architecture }: &Setting) -> Vec<Finding> {
    const CODE: Code = code::AWS_LIMITS;
    const DEPLOY: &str = "`outboard aws deploy` sets it as it is configured";
    let Config { memory_mb: memory, timeout: limit, architecture: arch, .. } = config;
    let mut found = Vec::new();
    if memory != memory_mb {
        let what = format!("the function has {memory_mb} MB of memory, but {memory} MB are configured");
        let key = format!("set `providers.aws-lambda.memory_mb = {memory_mb}`; or {DEPLOY}");
        found.push(match memory < memory_mb {
            true => Finding::fail(CODE, OF, format!("{what}: it costs more than is reserved"), key),
            false => Finding::warn(CODE, OF, format!("{what}: it is slower, and more is reserved than it costs"), key),
        });
    }
    let key = format!("set `providers.aws-lambda.timeout = \"{}s\"`; or {DEPLOY}", timeout.as_secs());
    let what = format!("the function's time-out is {timeout:?}, but {limit:?} are configured");
    // Configured times may be finer than Lambda's seconds.
    match (*limit > *timeout, *limit + Duration::from_secs(1) <= *timeout) {
        (true, _) => {
            found.push(Finding::fail(CODE, OF, format!("{what}: Lambda cuts tasks off before they stop"), key))
        }
        (_, true) => found.push(Finding::warn(CODE, OF, format!("{what}: tasks are shorter than they could be"), key)),
        _ => {}
    }
    if let Some(is) = architecture.as_ref().filter(|is| **is != arch.to_string()) {
        let what = format!("the function runs on {is}, but {arch} is configured: its price is another one");
        let key = format!("set `providers.aws-lambda.architecture = \"{is}\"`; or {DEPLOY}");
        found.push(Finding::fail(CODE, OF, what, key));
    }
    if found.is_empty() {
        let evidence = format!("{memory} MB of memory, a time-out of {timeout:?} and {arch}, as configured");
        found.push(Finding::pass(CODE, OF, evidence));
    }
    found
}

fn address(config: &Config, region: Option<String>) -> Option<String> {
    match &config.endpoint_url {
        Some(url) => Some(url.clone()),
        None => Some(format!("https://lambda.{}.amazonaws.com", region?)),
    }
}

#[cfg(test)]
mod tests {
    use outboard_core::finding::Verdict;

    use super::*;

    fn said(memory_mb: u32, seconds: u64, architecture: &str) -> Vec<(Verdict, String)> {
        let setting =
            Setting { memory_mb, timeout: Duration::from_secs(seconds), architecture: Some(architecture.into()) };
        let config = Config { memory_mb: 1769, timeout: Duration::from_secs(300), ..Config::default() };
        let found = compare(&config, &setting).into_iter();
        found.map(|finding| (finding.verdict, finding.evidence + " / " + &finding.remedy.unwrap_or_default())).collect()
    }

    #[test]
    fn a_function_that_is_set_otherwise_is_told() {
        assert_eq!(
            said(1769, 300, "x86_64"),
            [(Verdict::Pass, "1769 MB of memory, a time-out of 300s and x86_64, as configured / ".into())]
        );
        let deploy = "or `outboard aws deploy` sets it as it is configured";
        assert_eq!(
            said(3008, 60, "arm64"),
            [
                (
                    Verdict::Fail,
                    format!(
                        "the function has 3008 MB of memory, but 1769 MB are configured: it costs more than is reserved / set \
                         `providers.aws-lambda.memory_mb = 3008`; {deploy}"
                    )
                ),
                (
                    Verdict::Fail,
                    format!(
                        "the function's time-out is 60s, but 300s are configured: Lambda cuts tasks off before they stop / set \
                         `providers.aws-lambda.timeout = \"60s\"`; {deploy}"
                    )
                ),
                (
                    Verdict::Fail,
                    format!(
                        "the function runs on arm64, but x86_64 is configured: its price is another one / set \
                         `providers.aws-lambda.architecture = \"arm64\"`; {deploy}"
                    )
                ),
            ]
        );
        let milder: Vec<_> = said(128, 900, "x86_64").into_iter().map(|(verdict, _)| verdict).collect();
        assert_eq!(milder, [Verdict::Warn, Verdict::Warn]);
    }
}
