//! Puts the worker into a function: creates or changes it, publishes a version, and leads the alias to it.

use std::time::Duration;

use aws_sdk_lambda::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::get_function_configuration::GetFunctionConfigurationOutput,
    primitives::Blob,
    types::{self, FunctionCode, LastUpdateStatus, Runtime, State},
};
use outboard_core::error::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep};

use crate::{
    Architecture, Config,
    connection::{Connection, control_error},
};

/// What a request may have; larger packages would have to lie in a bucket. AWS's documentation of 2026-08.
const MAX_ZIP: usize = 50 << 20;
/// Longest time for a change to come into effect, and the time between two looks.
const READY: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Lambda looks for a program of this name; it needs a handler all the same.
const HANDLER: &str = "bootstrap";

/// What a function is made of, beside its [`Config`].
#[derive(Clone)]
pub struct Deployment {
    /// The ARN of the role that the function runs as.
    pub role: String,
    /// A zip file with the program `bootstrap`.
    pub zip: Vec<u8>,
}

/// What a deployment came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The function's ARN.
    pub function: String,
    /// The version that was published.
    pub version: String,
    /// Whether there was no such function before.
    pub is_new: bool,
}

/// Creates the function of `config`, or changes it, with its memory, time-out and architecture; publishes a version; and
/// leads the alias `qualifier` there, unless that is empty. Invocations that run go on with the version they have.
///
/// # Errors
/// What AWS refuses; `PayloadTooLarge`; `Timeout` where a change doesn't come into effect.
pub async fn deploy(config: &Config, deployment: &Deployment) -> Result<Deployed> {
    let located =
        |error: Error| error.with_provider("aws-lambda").with_operation("deploy").at("function", &config.function);
    config.check()?;
    let connection = Connection::new(config)?;
    Deployer { config, client: connection.client().await }.run(deployment).await.map_err(located)
}

struct Deployer<'a> {
    config: &'a Config,
    client: &'a Client,
}

impl Deployer<'_> {
    async fn run(&self, deployment: &Deployment) -> Result<Deployed> {
        if deployment.zip.len() > MAX_ZIP {
            let message = format!("the package has {} bytes, but Lambda takes {MAX_ZIP}", deployment.zip.len());
            return Err(Error::new(ErrorKind::PayloadTooLarge, message).hint("package it with `outboard aws package`"));
        }
        let is_new = match self.look().await {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if is_new {
            self.create(deployment).await?;
        } else {
            self.change(deployment).await?;
        }
        self.ready().await?;
        let published = self.client.publish_version().function_name(&self.config.function).send().await;
        let published = published.map_err(control_error)?;
        let version = published.version().unwrap_or_default().to_string();
        if !self.config.qualifier.is_empty() {
            self.lead(&version).await?;
        }
        let function = published.function_arn().unwrap_or_default();
        // The ARN of a version has it at its end.
        let function = function.strip_suffix(&format!(":{version}")).unwrap_or(function).to_string();
        Ok(Deployed { function, version, is_new })
    }

    async fn look(&self) -> Result<GetFunctionConfigurationOutput> {
        let look = self.client.get_function_configuration().function_name(&self.config.function);
        look.send().await.map_err(control_error)
    }

    fn architecture(&self) -> types::Architecture {
        match self.config.architecture {
            Architecture::X86 => types::Architecture::X8664,
            Architecture::Arm => types::Architecture::Arm64,
        }
    }

    fn memory_mb(&self) -> i32 {
        i32::try_from(self.config.memory_mb).unwrap_or(i32::MAX)
    }

    fn timeout_seconds(&self) -> i32 {
        i32::try_from(self.config.timeout.as_secs().max(1)).unwrap_or(i32::MAX)
    }

    async fn create(&self, deployment: &Deployment) -> Result<()> {
        let code = FunctionCode::builder().zip_file(Blob::new(deployment.zip.clone())).build();
        let create = self
            .client
            .create_function()
            .function_name(&self.config.function)
            .runtime(Runtime::Providedal2023)
            .handler(HANDLER)
            .role(&deployment.role)
            .architectures(self.architecture())
            .memory_size(self.memory_mb())
            .timeout(self.timeout_seconds())
            .code(code)
            .send();
        create.await.map(drop).map_err(of_role)
    }

    async fn change(&self, deployment: &Deployment) -> Result<()> {
        // What was begun before must be over.
        self.ready().await?;
        let code = self
            .client
            .update_function_code()
            .function_name(&self.config.function)
            .architectures(self.architecture())
            .zip_file(Blob::new(deployment.zip.clone()))
            .send();
        code.await.map_err(control_error)?;
        self.ready().await?;
        let change = self
            .client
            .update_function_configuration()
            .function_name(&self.config.function)
            .runtime(Runtime::Providedal2023)
            .handler(HANDLER)
            .role(&deployment.role)
            .memory_size(self.memory_mb())
            .timeout(self.timeout_seconds())
            .send();
        change.await.map(drop).map_err(of_role)
    }

    /// Waits until the function is as it should be.
    async fn ready(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let seen = self.look().await?;
            let reason = seen.state_reason().or(seen.last_update_status_reason()).unwrap_or("AWS doesn't say why");
            match (seen.state(), seen.last_update_status()) {
                (Some(State::Failed), _) | (_, Some(LastUpdateStatus::Failed)) => {
                    let error = Error::new(ErrorKind::WorkerUnhealthy, "the function could not be changed");
                    return Err(error.at("reason", reason).hint("look at the function in the console"));
                }
                (Some(State::Pending), _) | (_, Some(LastUpdateStatus::InProgress)) => {}
                _ => return Ok(()),
            }
            if began.elapsed() >= READY {
                let message = format!("the function isn't ready after {READY:?}");
                return Err(Error::new(ErrorKind::Timeout, message).at("reason", reason).hint("deploy again later"));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Leads the alias to a version.
    async fn lead(&self, version: &str) -> Result<()> {
        let Config { function, qualifier, .. } = self.config;
        let update = self.client.update_alias().function_name(function).name(qualifier).function_version(version);
        match update.send().await.map_err(control_error) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let create = self.client.create_alias().function_name(function).name(qualifier);
                create.function_version(version).send().await.map(drop).map_err(control_error)
            }
            Err(error) => Err(error),
        }
    }
}

/// What Lambda refuses of a function is its role, mostly.
fn of_role<E>(error: SdkError<E>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let error = control_error(error);
    match error.kind() {
        ErrorKind::Unexpected => error.hint(
            "check the role: its trust policy must name lambda.amazonaws.com; see providers/aws-lambda/README.md",
        ),
        _ => error,
    }
}
