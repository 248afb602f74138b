//! The checks of `outboard doctor` for AWS Lambda.

use outboard_core::{code, finding::Finding};
use outboard_store::{reach_address, transport::Peer};

use crate::{Config, connection::Connection};

const LAMBDA: Peer = Peer {
    name: "Lambda API",
    address: "`region` and `endpoint_url`",
    start: "check `endpoint_url`",
    slow: "look at AWS's status page",
    log: "AWS's status page",
};

/// Looks whether Lambda can be reached, and whether the function is there and may be invoked. Nothing runs.
pub async fn examine(config: &Config) -> Vec<Finding> {
    const OF: &str = "aws-lambda";
    let made = config.check().and_then(|()| Connection::new(config));
    let connection = match made {
        Ok(connection) => connection,
        Err(error) => return vec![Finding::error(code::PROVIDER_CONFIG, OF, &error)],
    };
    let mut found = Vec::new();
    if let Some(url) = address(config, connection.region().await) {
        found = reach_address(&url, &LAMBDA).await;
        if found.iter().any(Finding::is_fail) {
            return found;
        }
    }
    let function = match config.qualifier.as_str() {
        "" => config.function.clone(),
        qualifier => format!("{}:{qualifier}", config.function),
    };
    found.push(match connection.probe().await {
        Ok(()) => Finding::pass(code::AWS_FUNCTION, OF, format!("`{function}` is there and may be invoked")),
        Err(error) => Finding::error(code::AWS_FUNCTION, OF, &error),
    });
    found
}

fn address(config: &Config, region: Option<String>) -> Option<String> {
    match &config.endpoint_url {
        Some(url) => Some(url.clone()),
        None => Some(format!("https://lambda.{}.amazonaws.com", region?)),
    }
}
