//! Runs the real program as a user does, each time with a home and a working directory of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};

use serde_json::Value;
use tempfile::TempDir;

mod home;
#[cfg(unix)]
pub mod plugins;
mod worker;

pub use home::{Home, named};
pub use worker::Worker;

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or(root)
}

/// The program: `TEST_OUTBOARD_BIN`, or a build of its own.
///
/// # Panics
/// Where it can't be built.
#[must_use]
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(program) = std::env::var_os("TEST_OUTBOARD_BIN") {
            return repository().join(program);
        }
        let built = Command::new(env!("CARGO"))
            .current_dir(repository())
            .args(["build", "--quiet", "--package", "outboard-cli", "--message-format=json-render-diagnostics"])
            .output();
        let output = built.unwrap_or_else(|e| panic!("cannot run cargo: {e}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let messages = String::from_utf8_lossy(&output.stdout).into_owned();
        let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let program = artifacts.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
        program.unwrap_or_else(|| panic!("cargo built no program"))
    })
}

/// A user with a home, a working directory, and the repository's examples in it.
#[derive(Debug)]
pub struct User {
    folder: TempDir,
}

impl Default for User {
    fn default() -> Self {
        Self::new()
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Done {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// Where it can't be started, or panicked.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        Self::new(&command.output().unwrap_or_else(|e| panic!("{e}")))
    }

    fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let done = Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
        let is_plain = ![&done.stdout, &done.stderr].iter().any(|text| text.contains('\u{1b}'));
        assert!(is_plain, "colours where no terminal is: {}{}", done.stdout, done.stderr);
        done
    }

    /// Standard error without its last line, which names a code and how to have it explained.
    ///
    /// # Panics
    /// Where the last line is none of these.
    #[must_use]
    pub fn failure(&self) -> String {
        let (failure, last) = self.stderr.trim_end_matches('\n').rsplit_once('\n').unwrap_or(("", &self.stderr));
        let named = last.strip_prefix("  code: OB-").and_then(|rest| rest.split_once(" ("));
        let is_code = |(name, how): (&str, &str)| {
            let command = how.strip_suffix(')').and_then(|how| how.strip_suffix(name));
            command.is_some_and(|command| command.ends_with("outboard doctor --explain OB-"))
        };
        assert!(named.is_some_and(is_code), "no code at the end: {}", self.stderr);
        format!("{failure}\n")
    }

    /// The lines of standard output as JSON.
    ///
    /// # Panics
    /// Where a line isn't JSON.
    #[must_use]
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// The last line of standard output as JSON.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn last(&self) -> Value {
        self.lines().pop().unwrap_or_else(|| panic!("no output; standard error: {}", self.stderr))
    }
}

impl User {
    /// A new user.
    ///
    /// # Panics
    /// Where the file system gives no folder.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let user = Self { folder };
        let examples = repository().join("examples");
        user.write(
            "digits.csv",
            &fs::read_to_string(examples.join("data/digits.csv")).unwrap_or_else(|e| panic!("{e}")),
        );
        user
    }

    /// The working directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into the working directory.
    ///
    /// # Panics
    /// Where that isn't possible.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// Writes `job.toml`: a model on the digits with `hidden` units, 20 epochs, each of `changes` applied to the text.
    ///
    /// # Panics
    /// Where a change finds nothing to change.
    pub fn job(&self, changes: &[(&str, &str)]) -> PathBuf {
        let mut text = JOB.to_string();
        for (from, to) in changes {
            assert!(text.contains(from), "the job has no `{from}`");
            text = text.replace(from, to);
        }
        self.write("job.toml", &text)
    }

    /// A command of this user, not yet started.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = clean_command();
        command
            .args(arguments)
            .current_dir(self.path())
            .env("OUTBOARD_HOME", self.path().join("home"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// Where the program can't be started, or panicked.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Done {
        Done::of(&mut self.command(arguments))
    }

    /// Starts a command.
    ///
    /// # Panics
    /// Where the program can't be started.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap_or_else(|e| panic!("{e}"))
    }

    /// Runs a command that must be refused; its standard error, with paths relative to the working directory.
    ///
    /// # Panics
    /// Where it has another exit code than 2, printed something else as well, or left something behind.
    #[must_use]
    pub fn refused(&self, arguments: &[&str]) -> String {
        self.refused_command(&mut self.command(arguments))
    }

    /// As [`User::refused`].
    ///
    /// # Panics
    /// As [`User::refused`].
    #[must_use]
    pub fn refused_command(&self, command: &mut Command) -> String {
        let before = self.tree();
        let done = Done::of(command);
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert_eq!(done.stdout, "", "{}", done.stderr);
        assert_eq!(self.tree(), before, "{}", done.stderr);
        self.shortened(&done.failure())
    }

    /// `text` with paths relative to the working directory.
    #[must_use]
    pub fn shortened(&self, text: &str) -> String {
        let real = self.path().canonicalize().unwrap_or_else(|_| self.path().to_path_buf());
        [&real, self.path()]
            .iter()
            .fold(text.to_string(), |text, path| text.replace(&format!("{}/", path.display()), ""))
    }

    /// Every file and folder below the working directory, but for the folders that every command makes.
    fn tree(&self) -> Vec<PathBuf> {
        let made = ["home", "home/blobs", "home/scratch", "home/ledger.db", "home/ledger.db-wal", "home/ledger.db-shm"]
            .map(|name| self.path().join(name));
        let mut all = vec![self.path().to_path_buf()];
        let mut next = 0;
        while let Some(folder) = all.get(next) {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            all.extend(entries.map(|entry| entry.path()).collect::<Vec<_>>());
            next += 1;
        }
        all.retain(|path| !made.contains(path));
        all.sort();
        all
    }

    /// Names of the files and folders in the working directory.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// The program, untouched by the variables of whoever runs the tests.
fn clean_command() -> Command {
    let mut command = Command::new(program());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OUTBOARD_")) {
        command.env_remove(name);
    }
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command
}

/// Whether drills run their full counts: `cargo xtask test --all` says so. Otherwise about a tenth.
#[must_use]
pub fn is_thorough() -> bool {
    std::env::var_os("TEST_THOROUGH").is_some()
}

/// Waits for the end of a command that was started.
///
/// # Panics
/// Where it panicked.
#[must_use]
pub fn wait(child: Child) -> Done {
    Done::new(&child.wait_with_output().unwrap_or_else(|e| panic!("{e}")))
}

const JOB: &str = r#"[model]
layers = [
  { type = "linear", out = 64 },
  { type = "relu" },
  { type = "linear", out = 10 },
]
[data]
train = "digits.csv"
target = "label"
validation = 0.2
[train]
loss = "cross_entropy"
optimizer = { type = "adam", lr = 1e-3 }
epochs = 20
batch_size = 64
seed = 7
"#;
