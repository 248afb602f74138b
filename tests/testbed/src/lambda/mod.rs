//! AWS Lambda on loopback: the emulators of AWS and of cargo-lambda, with a program as their function; serverless-offline
//! with functions in JavaScript; and Lambda's own address before an emulator.

mod endpoint;

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

pub use self::endpoint::Endpoint;

/// The name that the function has.
pub const FUNCTION: &str = "function";
/// Longest time until an emulator listens.
const START: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A function.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its program, which speaks Lambda's runtime API.
    pub program: PathBuf,
    /// The folder for its files.
    pub folder: PathBuf,
    /// After this time it is ended.
    pub timeout: Duration,
    /// Environment beside Lambda's own.
    pub env: Vec<(String, String)>,
}

impl Function {
    fn start(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("TMPDIR", &self.folder)
            .env("AWS_LAMBDA_FUNCTION_TIMEOUT", self.timeout.as_secs().max(1).to_string())
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if std::env::var_os("TEST_LAMBDA_LOG").is_none() {
            command.stderr(Stdio::null());
        }
        command
    }
}

/// An emulator with one function; ended when dropped.
#[derive(Debug)]
pub struct Emulator {
    emulator: Child,
    machines: Vec<Child>,
    address: SocketAddr,
}

impl Emulator {
    /// AWS's own, the program `aws-lambda-rie`: one machine, which is started for the first invocation.
    ///
    /// # Errors
    /// Where it doesn't start.
    pub fn of_aws(emulator: &Path, function: &Function) -> io::Result<Self> {
        let [address, api] = [free()?, free()?];
        let mut command = function.start(emulator);
        command.arg("--runtime-interface-emulator-address").arg(address.to_string());
        command.arg("--runtime-api-address").arg(api.to_string()).arg(&function.program);
        Self { emulator: command.spawn()?, machines: Vec::new(), address }.listening()
    }

    /// cargo-lambda's, the program `cargo-lambda`, with this many machines. A request to a machine that has died hangs there.
    ///
    /// # Errors
    /// Where it doesn't start.
    pub fn of_cargo(emulator: &Path, function: &Function, machines: u32) -> io::Result<Self> {
        // It wants a package of the function's name.
        let package = function.folder.join("package");
        fs::create_dir_all(package.join("src"))?;
        let manifest =
            format!("[package]\nname = \"{FUNCTION}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n");
        fs::write(package.join("Cargo.toml"), manifest)?;
        fs::write(package.join("src/main.rs"), "fn main() {}\n")?;
        let address = free()?;
        let mut command = function.start(emulator);
        command.current_dir(package).args(["lambda", "watch", "--only-lambda-apis", "-A", "127.0.0.1", "-P"]);
        command.arg(address.port().to_string()).args(["--concurrency", &machines.to_string()]);
        let mut started = Self { emulator: command.spawn()?, machines: Vec::new(), address }.listening()?;
        for machine in 0..machines {
            let folder = function.folder.join(machine.to_string());
            fs::create_dir_all(&folder)?;
            let mut command = Function { folder, ..function.clone() }.start(&function.program);
            command.env("AWS_LAMBDA_RUNTIME_API", format!("http://{address}/.rt/{FUNCTION}"));
            command.env("AWS_LAMBDA_FUNCTION_NAME", FUNCTION).env("AWS_LAMBDA_FUNCTION_VERSION", "1");
            started.machines.push(command.spawn()?);
        }
        Ok(started)
    }

    /// serverless-offline, by the folder that npm has installed it into: the functions that `handlers` exports, a module in
    /// JavaScript, each with this time-out, under the names that [`offline_name`] gives.
    ///
    /// # Errors
    /// Where it doesn't start.
    #[cfg(unix)]
    pub fn of_serverless(
        installed: &Path,
        folder: &Path,
        handlers: &str,
        names: &[&str],
        timeout: Duration,
    ) -> io::Result<Self> {
        // It looks for its plugin beside its configuration.
        std::os::unix::fs::symlink(installed.join("node_modules"), folder.join("node_modules"))?;
        let function = |name: &&str| format!("  {name}: {{ handler: handlers.{name} }}\n");
        let functions: String = names.iter().map(function).collect();
        let service = format!(
            "service: outboard\nplugins: [serverless-offline]\nprovider:\n  name: aws\n  runtime: nodejs20.x\n  \
             region: us-east-1\n  timeout: {}\nfunctions:\n{functions}",
            timeout.as_secs().max(1)
        );
        fs::write(folder.join("serverless.yml"), service)?;
        fs::write(folder.join("handlers.js"), handlers)?;
        let [address, http] = [free()?, free()?];
        let mut command = Command::new("node");
        command.arg("node_modules/serverless/bin/serverless.js").args(["offline", "--host", "127.0.0.1"]);
        command.arg("--lambdaPort").arg(address.port().to_string()).arg("--httpPort").arg(http.port().to_string());
        command.current_dir(folder).env("SLS_TELEMETRY_DISABLED", "1").env("SLS_NOTIFICATIONS_MODE", "off");
        command.env("HOME", folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { emulator: command.spawn()?, machines: Vec::new(), address }.listening()
    }

    fn listening(self) -> io::Result<Self> {
        let began = Instant::now();
        loop {
            match TcpStream::connect(self.address) {
                Ok(_) => return Ok(self),
                Err(error) if began.elapsed() >= START => return Err(error),
                Err(_) => thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The processes of AWS's emulator that run the function.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        // Each of its threads may have started some.
        let threads = fs::read_dir(format!("/proc/{}/task", self.emulator.id())).into_iter().flatten().flatten();
        let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        children.flat_map(|ids| ids.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        for id in self.processes() {
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status();
        }
        for child in self.machines.iter_mut().chain([&mut self.emulator]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The name that serverless-offline gives to a function.
#[must_use]
pub fn offline_name(function: &str) -> String {
    format!("outboard-dev-{function}")
}

/// An address that nobody has just now.
fn free() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
