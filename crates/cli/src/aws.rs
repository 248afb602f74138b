//! `outboard aws`.

use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use outboard::{Config, Error, ErrorKind, Result, config::AwsLambdaConfig};
use outboard_aws_lambda::{Architecture, Deployment, deploy};
use serde_json::json;
use tokio::{process::Command, time::timeout};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::{
    args::{Aws, Deploy, Global, Package},
    output::{Printer, text::grouped},
};

/// Lambda starts a program of this name.
const PROGRAM: &str = "bootstrap";
/// The minor version of the C library, 2.34, that Lambda's system provided.al2023 has.
const GLIBC_MINOR: u32 = 34;
/// What to do without cargo or rustc.
const RUST: &str = "install Rust: rustup.rs";
/// Longest build: from nothing it takes minutes.
const BUILD: Duration = Duration::from_secs(3600);

pub(crate) async fn aws(config: &Config, command: Aws, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let config = &config.providers.aws_lambda;
    match command {
        Aws::Package(asked) => package(config, &asked, global, printer).await,
        Aws::Deploy(asked) => deploy_function(config, &asked, global, printer).await,
    }
}

async fn package(config: &AwsLambdaConfig, asked: &Package, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let architecture = match asked.architecture.as_deref() {
        None => config.architecture,
        Some("x86_64") => Architecture::X86,
        Some("arm64") => Architecture::Arm,
        Some(other) => {
            return Err(Error::invalid(format!("`{other}` is not an architecture of Lambda's"))
                .at("flag", "--architecture")
                .hint("use x86_64 or arm64"));
        }
    };
    let program = build(&asked.source, architecture).await?;
    let bytes = fs::read(&program).map_err(|e| {
        Error::new(ErrorKind::Unexpected, format!("cargo left no program at {}", program.display())).because(e)
    })?;
    if let Some(minor) = glibc(&bytes).filter(|minor| *minor > GLIBC_MINOR) {
        let message = format!("the worker needs glibc 2.{minor}, but Lambda has 2.{GLIBC_MINOR}");
        return Err(Error::new(ErrorKind::Unsupported, message).hint("build it on an older system, such as Debian 12"));
    }
    let zip = pack(&bytes)?;
    outboard::write_file(&asked.output, &zip)?;
    let (size, shown) = (zip.len() as u64, asked.output.display());
    match global.json {
        true => {
            let path = std::path::absolute(&asked.output).unwrap_or_else(|_| asked.output.clone());
            let object = json!({
                "event": "packaged", "schema": 1, "path": path, "bytes": size,
                "architecture": architecture.to_string(),
            });
            printer.line(object.to_string());
        }
        false => printer.line(format!("{shown}: {} bytes, {architecture}", grouped(size))),
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the worker; its path.
async fn build(source: &Path, architecture: Architecture) -> Result<PathBuf> {
    if !source.join("crates/worker/src/bin/bootstrap.rs").is_file() {
        let message = format!("{} is not a folder with Outboard's source", source.display());
        return Err(Error::invalid(message).hint("run it in a checkout, or name one with --source"));
    }
    let target = match architecture {
        Architecture::X86 => "x86_64-unknown-linux-gnu",
        Architecture::Arm => "aarch64-unknown-linux-gnu",
    };
    if !is_installed(target).await? {
        return Err(Error::new(ErrorKind::Unsupported, format!("Rust's target {target} is not installed here"))
            .at("architecture", architecture)
            .hint(format!("rustup target add {target}, and a linker for it; or package on a machine of that kind")));
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--package", "outboard-worker", "--features", "lambda", "--bin", PROGRAM]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    if !host().await?.contains(target) {
        cargo.args(["--target", target]);
    }
    built(&run(cargo.current_dir(source), "cargo", RUST).await?)
}

/// The program that cargo built, by its messages.
pub(crate) fn built(messages: &str) -> Result<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let program = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    program.ok_or_else(|| Error::new(ErrorKind::Unexpected, "cargo built no program"))
}

async fn is_installed(target: &str) -> Result<bool> {
    let folder =
        run(Command::new("rustc").args(["--print", "target-libdir", "--target", target]), "rustc", RUST).await?;
    Ok(Path::new(folder.trim()).is_dir())
}

/// What Rust says of itself, its host among it.
async fn host() -> Result<String> {
    run(Command::new("rustc").arg("-vV"), "rustc", RUST).await
}

/// What it writes to standard output; what it says to standard error is shown. `missing` says what to do where it isn't
/// there.
pub(crate) async fn run(command: &mut Command, name: &str, missing: &str) -> Result<String> {
    let command = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = timeout(BUILD, command.output())
        .await
        .map_err(|_| Error::new(ErrorKind::Timeout, format!("{name} takes longer than {BUILD:?}")))?
        .map_err(|e| Error::new(ErrorKind::NotFound, format!("cannot run {name}")).because(e).hint(missing))?;
    if !output.status.success() {
        return Err(Error::invalid(format!("{name} failed: {}", output.status)).hint("see what it says above"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The newest minor version of glibc 2 that a program names.
fn glibc(program: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"GLIBC_2.";
    let named = program.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    let minor = |at: usize| {
        let digits = program[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit()).copied().collect();
        String::from_utf8(digits).ok()?.parse::<u32>().ok()
    };
    named.filter_map(|(at, _)| minor(at)).max()
}

/// A zip file with the program. The same program gives the same bytes.
fn pack(program: &[u8]) -> Result<Vec<u8>> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).unix_permissions(0o755);
    let written = || {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file(PROGRAM, options)?;
        zip.write_all(program)?;
        Ok::<_, zip::result::ZipError>(zip.finish()?.into_inner())
    };
    written().map_err(|e| Error::new(ErrorKind::Unexpected, "the package can't be written").because(e))
}

async fn deploy_function(
    config: &AwsLambdaConfig,
    asked: &Deploy,
    global: &Global,
    printer: &Printer,
) -> Result<ExitCode> {
    if !(asked.role.starts_with("arn:") && asked.role.contains(":role/")) {
        return Err(Error::invalid(format!("`{}` is not the ARN of a role", asked.role))
            .at("flag", "--role")
            .hint("write it as in arn:aws:iam::123456789012:role/outboard-function"));
    }
    let zip = fs::read(&asked.zip).map_err(|e| {
        Error::new(ErrorKind::NotFound, format!("cannot read the package {}", asked.zip.display()))
            .because(e)
            .hint("make it with `outboard aws package`, or name it with --zip")
    })?;
    let deployed = deploy(config, &Deployment { role: asked.role.clone(), zip }).await?;
    let alias = Some(config.qualifier.as_str()).filter(|alias| !alias.is_empty());
    match global.json {
        true => {
            let object = json!({
                "event": "deployed", "schema": 1, "function": deployed.function, "version": deployed.version,
                "alias": alias, "new": deployed.is_new,
            });
            printer.line(object.to_string());
        }
        false => {
            let done = if deployed.is_new { "created" } else { "changed" };
            let alias = alias.map(|alias| format!(", alias {alias}")).unwrap_or_default();
            printer.line(format!("{done} {}: version {}{alias}", deployed.function, deployed.version));
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_newest_version_of_the_library_counts() {
        assert_eq!(glibc(b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_2.\0"), Some(34));
        assert_eq!(glibc(b"static"), None);
    }

    #[test]
    fn a_package_holds_the_program_and_is_the_same_each_time() {
        let packed = pack(b"program").unwrap();
        assert_eq!(packed, pack(b"program").unwrap());
        let mut zip = zip::ZipArchive::new(Cursor::new(packed)).unwrap();
        let mut file = zip.by_name(PROGRAM).unwrap();
        assert_eq!(file.unix_mode().map(|mode| mode & 0o777), Some(0o755));
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"program");
    }
}
