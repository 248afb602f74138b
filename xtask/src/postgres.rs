//! A PostgreSQL server for tests: found or installed, with its data under `target`, ended when it is dropped.

use std::{
    collections::hash_map::RandomState,
    env, fs,
    hash::{BuildHasher, Hasher},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{command, workspace::Workspace};

/// For a start and for an end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Another program may take the port that was free a moment ago.
const STARTS: usize = 3;

const PACKAGE: &str = "postgresql";

/// A running server, on loopback only.
pub(crate) struct Server {
    folder: PathBuf,
    child: Option<Child>,
    /// Where it is reached, with a password that nobody else knows.
    pub(crate) url: String,
}

impl Server {
    /// Starts one; none, with a word on what to install, where PostgreSQL is missing.
    pub(crate) fn start(workspace: &Workspace) -> Result<Option<Self>> {
        let Some(programs) = programs()? else {
            println!("PostgreSQL is not installed: install it (Debian, Ubuntu: {PACKAGE}), or name a server");
            return Ok(None);
        };
        let user = User::find()?;
        let folder = user.folder(workspace)?;
        let mut server = Self { folder, child: None, url: String::new() };
        let password = format!("{:016x}", RandomState::new().build_hasher().finish());
        let (data, word) = (server.folder.join("data"), server.folder.join("password"));
        fs::write(&word, &password)?;
        user.owns(&server.folder)?;
        let mut initdb = user.command(programs.join("initdb"));
        initdb.args(["--username=outboard", "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        initdb.arg("--pwfile").arg(&word).arg("--pgdata").arg(&data).current_dir(&server.folder);
        command::stdout(&mut initdb)?;
        for _ in 1..STARTS {
            if server.listen(&user, &programs, &password).is_ok() {
                return Ok(Some(server));
            }
        }
        server.listen(&user, &programs, &password)?;
        Ok(Some(server))
    }

    fn listen(&mut self, user: &User, programs: &Path, password: &str) -> Result<()> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (data, log) = (self.folder.join("data"), self.folder.join("log"));
        let output = fs::File::create(&log)?;
        let mut postgres = user.command(programs.join("postgres"));
        // What a test writes need not survive a power failure.
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=200"] {
            postgres.args(["-c", setting]);
        }
        postgres.args(["-p", &port.to_string()]).arg("-D").arg(&data).current_dir(&self.folder);
        postgres.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = self.child.insert(postgres.spawn().with_context(|| format!("cannot run {postgres:?}"))?);
        let start = Instant::now();
        // The server says in this file where it stands.
        let is_ready = || {
            let status = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            status.lines().nth(7).is_some_and(|line| line.trim() == "ready")
        };
        while !is_ready() {
            if child.try_wait()?.is_some() || start.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                bail!("the PostgreSQL server does not start:\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.url = format!("postgres://outboard:{password}@127.0.0.1:{port}/postgres");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Ends its connections and itself.
            let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
            let start = Instant::now();
            while matches!(child.try_wait(), Ok(None)) && start.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The folder with `initdb` and `postgres`. Where there is none, and this is root on Debian, it is installed.
fn programs() -> Result<Option<PathBuf>> {
    let can_install = || User::is_root() && command::stdout(Command::new("apt-get").arg("--version")).is_ok();
    let found = find();
    if found.is_some() || !can_install() {
        return Ok(found);
    }
    println!("installing {PACKAGE}");
    for arguments in [&["update"][..], &["install", "--yes", "--no-install-recommends", PACKAGE]] {
        let mut apt = Command::new("apt-get");
        apt.args(["--quiet=2", "-o", "DPkg::Lock::Timeout=60", "-o", "Acquire::http::Timeout=60"]).args(arguments);
        command::run(apt.env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    Ok(Some(find().with_context(|| format!("{PACKAGE} is installed, but has no initdb"))?))
}

fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    // Debian keeps its versions apart; the newest last.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    folders.into_iter().find(|folder| ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file()))
}

/// Who runs the server, which refuses to be run by root.
struct User {
    /// Ids of the user and its group, where we are root.
    other: Option<(String, String)>,
}

impl User {
    fn is_root() -> bool {
        id(&["-u"]).is_ok_and(|id| id == "0")
    }

    fn find() -> Result<Self> {
        if !Self::is_root() {
            return Ok(Self { other: None });
        }
        let name = if id(&["-u", "postgres"]).is_ok() { "postgres" } else { "nobody" };
        Ok(Self { other: Some((id(&["-u", name])?, id(&["-g", name])?)) })
    }

    /// A folder that it may reach: under `target`, or else among the system's temporary ones.
    fn folder(&self, workspace: &Workspace) -> Result<PathBuf> {
        fs::create_dir_all(&workspace.target)?;
        let may_reach = self.command("test").arg("-x").arg(&workspace.target).status()?.success();
        let parent = if may_reach { workspace.target.clone() } else { env::temp_dir() };
        let folder = parent.join(format!("xtask-postgres-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn owns(&self, folder: &Path) -> Result<()> {
        match &self.other {
            Some((user, group)) => {
                command::run(Command::new("chown").arg("-R").arg(format!("{user}:{group}")).arg(folder))
            }
            None => Ok(()),
        }
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        match &self.other {
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                // It ends with us, however we end.
                command.args(["--clear-groups", "--pdeathsig=INT", "--reuid", user, "--regid", group]);
                command.arg(program.as_ref());
                command
            }
            None => Command::new(program.as_ref()),
        }
    }
}

fn id(arguments: &[&str]) -> Result<String> {
    Ok(command::stdout(Command::new("id").args(arguments).stderr(Stdio::null()))?.trim().to_owned())
}
