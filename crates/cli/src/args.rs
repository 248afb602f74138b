//! Every command and flag.

use std::{net::SocketAddr, path::PathBuf};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use outboard::NanoUsd;

/// Train models on the cheapest compute that fits, as if it were local.
#[derive(Debug, Parser)]
#[command(name = "outboard", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Flags of every command.
    #[command(flatten)]
    pub(crate) global: Global,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a bug in outboard; or a check of `outboard doctor` failed, or the task of `outboard doctor env`
  2  something in the job, its data, the configuration or the command line is wrong
  3  the job failed
  4  interrupted; the message says how to go on";

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Sets a configuration key, such as `--set providers.cpu.threads=2`.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Prints one JSON object per line (docs/json.md).
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Logs to standard error: error, warn, info, debug, trace, or a filter such as `outboard=debug`.
    #[arg(long, global = true, value_name = "LEVEL", env = "OUTBOARD_LOG", default_value = "warn")]
    pub(crate) log: String,
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Trains the model of a job file, or goes on with a job.
    Train(Train),
    /// Says where a job would run, what it would cost, and why; spends nothing.
    Plan {
        /// The job file.
        job: PathBuf,
    },
    /// Shows the providers: state, price, what was learned of them.
    Providers,
    /// Shows what was spent, and what is left of the budgets.
    Costs(Costs),
    /// Lists jobs, shows or stops one.
    Jobs(Jobs),
    /// Finds and stops what a client that died left running or reserved.
    Reap,
    /// Measures a model on labelled data.
    Evaluate(Evaluate),
    /// Writes what a model says of data, as CSV.
    Predict(Predict),
    /// Shows models.
    #[command(subcommand)]
    Model(Model),
    /// Runs the tasks of others: a machine of yours as a provider.
    Worker(Worker),
    /// Makes the function that runs tasks on AWS Lambda.
    #[command(subcommand)]
    Aws(Aws),
    /// Sets up what this machine's GPUs need.
    #[command(subcommand)]
    Cuda(Cuda),
    /// Checks whether what is configured works, and says what to do where it doesn't.
    Doctor(Doctor),
    /// Makes, shows or removes an endpoint of your own on RunPod.
    #[command(subcommand, name = "runpod")]
    RunPod(RunPod),
    /// Makes and checks providers of your own (docs/plugins.md).
    #[command(subcommand)]
    Plugin(Plugin),
    /// Removes data sets and checkpoints that no job needs any more.
    Gc,
    /// Shows the configuration.
    #[command(subcommand)]
    Config(Config),
    /// Writes a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// `outboard train`.
#[derive(Debug, Default, Args)]
pub(crate) struct Train {
    /// The job file.
    #[arg(required_unless_present = "resume")]
    pub(crate) job: Option<PathBuf>,
    /// Goes on with a job that was interrupted, killed or failed; a finished one gives its result again.
    #[arg(long, value_name = "JOB", conflicts_with_all = ["job", "output"])]
    pub(crate) resume: Option<String>,
    /// Runs only on this provider; may be given several times.
    #[arg(long, value_name = "PROVIDER", conflicts_with = "resume")]
    pub(crate) on: Vec<String>,
    /// What the job may cost at most, in US dollars.
    #[arg(long, value_name = "USD", conflicts_with = "resume")]
    pub(crate) max_cost: Option<NanoUsd>,
    /// Folder for the model, the metrics and a copy of the job; `runs/JOB` if neither this nor the job says.
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

/// `outboard plugin`.
#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    /// Writes the source of a plugin that works, to be changed.
    New {
        /// Its name, which is also its folder.
        name: String,
        /// In which language.
        #[arg(long, value_enum)]
        lang: Lang,
    },
    /// Runs the suite that every provider must pass.
    Check(PluginCheck),
    /// Answers for a plugin that has a process of its own.
    #[command(hide = true)]
    Serve {
        /// The folder of the store.
        #[arg(long, value_name = "DIR")]
        store: PathBuf,
    },
}

/// The language of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lang {
    /// Rust, with cargo.
    Rust,
    /// C, with make.
    C,
}

/// `outboard plugin check`.
#[derive(Debug, Args)]
pub(crate) struct PluginCheck {
    /// The library.
    pub(crate) path: PathBuf,
    /// Its `config`, as a JSON object.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) config: String,
    /// Runs it in a process of its own.
    #[arg(long)]
    pub(crate) isolated: bool,
    /// The numerics class of its engine, where its tasks run on another than this program's.
    #[arg(long, value_name = "CLASS")]
    pub(crate) numerics: Option<String>,
}

/// `outboard costs`.
#[derive(Debug, Args)]
pub(crate) struct Costs {
    /// By what they are summed up.
    #[arg(long, value_enum, default_value_t = By::Day)]
    pub(crate) by: By,
    /// First day, such as 2026-11-01; the last 30 days if unset.
    #[arg(long, value_name = "DAY")]
    pub(crate) from: Option<String>,
    /// Last day.
    #[arg(long, value_name = "DAY")]
    pub(crate) to: Option<String>,
    /// Prints comma-separated values.
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    /// First charges what providers have billed: what was a guess becomes what it cost.
    #[arg(long, conflicts_with = "csv")]
    pub(crate) reconcile: bool,
    /// Also reconciles days whose bill may still grow, today's too.
    #[arg(long, requires = "reconcile")]
    pub(crate) today: bool,
}

/// By what costs are summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// The day of the reservation, UTC.
    Day,
    /// The provider.
    Provider,
    /// The job.
    Job,
}

/// `outboard doctor`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Doctor {
    /// What else to examine.
    #[command(subcommand)]
    pub(crate) command: Option<Examine>,
    /// Checks only this provider; may be given several times.
    #[arg(long, value_name = "PROVIDER")]
    pub(crate) provider: Vec<String>,
    /// Also checks this job: its file, its data, its output folder, and whether each provider could take it.
    #[arg(long, value_name = "FILE")]
    pub(crate) job: Option<PathBuf>,
    /// Explains a code, such as OB-DATA, instead; lists them where none is given.
    #[arg(long, value_name = "CODE", num_args = 0..=1, default_missing_value = "",
          conflicts_with_all = ["provider", "live", "job"])]
    pub(crate) explain: Option<String>,
    /// Also runs one small task on each provider, which is paid for.
    #[arg(long)]
    pub(crate) live: bool,
    /// What that task may cost at most, in US dollars.
    #[arg(long, value_name = "USD", default_value = "0.05", requires = "live")]
    pub(crate) max_cost: NanoUsd,
    /// Also compares this machine's GPU with the CPU engine, in results and speed, for some minutes.
    #[arg(long)]
    pub(crate) bench: bool,
    /// Where the comparison is written, to be sent to us.
    #[arg(long, value_name = "FILE", default_value = "cuda-report.json", requires = "bench")]
    pub(crate) report: PathBuf,
}

/// What else the doctor examines.
#[derive(Debug, Subcommand)]
pub(crate) enum Examine {
    /// Compares this machine with the place where a provider's tasks run, by one tiny task there.
    Env(Env),
}

/// `outboard doctor env`.
#[derive(Debug, Args)]
pub(crate) struct Env {
    /// The provider whose place is compared.
    #[arg(long, value_name = "PROVIDER")]
    pub(crate) provider: String,
    /// The Python here whose libraries are compared; `python3` if unset.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) python: Option<PathBuf>,
    /// What the task may cost at most, in US dollars.
    #[arg(long, value_name = "USD", default_value = "0.05")]
    pub(crate) max_cost: NanoUsd,
    /// Also prints what is the same.
    #[arg(long)]
    pub(crate) all: bool,
}

/// `outboard cuda`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cuda {
    /// Fetches libtorch from PyPI, builds the worker against it, and puts it where it is looked for.
    Install {
        /// Folder with Outboard's source.
        #[arg(long, value_name = "DIR", default_value = ".")]
        source: PathBuf,
        /// Libtorch that is there already: the folder `torch` of a Python's site-packages.
        #[arg(long, value_name = "DIR")]
        libtorch: Option<PathBuf>,
        /// Builds all of it anew: after libtorch has changed.
        #[arg(long)]
        rebuild: bool,
    },
}

/// `outboard runpod`.
#[derive(Debug, Subcommand)]
pub(crate) enum RunPod {
    /// Makes the endpoint of `[providers.runpod.deploy]`, or changes it; tries it, and writes it into outboard.toml.
    Deploy {
        /// Only says what would change, and what idling costs.
        #[arg(long)]
        dry_run: bool,
        /// What the task that tries it may cost at most, in US dollars.
        #[arg(long, value_name = "USD", default_value = "0.05")]
        max_cost: NanoUsd,
    },
    /// Shows how it stands.
    Status,
    /// Removes it.
    Destroy {
        /// Really.
        #[arg(long)]
        yes: bool,
    },
}

/// `outboard jobs`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Jobs {
    /// How many; the newest first.
    #[arg(long, default_value_t = 20)]
    pub(crate) limit: u32,
    /// What to do with one.
    #[command(subcommand)]
    pub(crate) command: Option<OneJob>,
}

/// What to do with one job.
#[derive(Debug, Subcommand)]
pub(crate) enum OneJob {
    /// Shows every attempt, why it moved, what it cost.
    Show {
        /// The job's id.
        job: String,
    },
    /// Stops it, with a checkpoint.
    Cancel {
        /// The job's id.
        job: String,
    },
    /// Goes on with it, as `outboard train --resume` does.
    Resume {
        /// The job's id.
        job: String,
    },
}

/// `outboard evaluate`.
#[derive(Debug, Args)]
pub(crate) struct Evaluate {
    /// A model.safetensors that `outboard train` wrote.
    pub(crate) model: PathBuf,
    /// A file or folder of the form that the model was trained on, target included.
    pub(crate) data: PathBuf,
    /// File with the targets, where the data are a single array.
    #[arg(long, value_name = "FILE")]
    pub(crate) labels: Option<PathBuf>,
}

/// `outboard predict`.
#[derive(Debug, Args)]
pub(crate) struct Predict {
    /// A model.safetensors that `outboard train` wrote.
    pub(crate) model: PathBuf,
    /// A file or folder with the features that the model was trained on.
    pub(crate) data: PathBuf,
    /// Writes to a file instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Adds the probability of each class.
    #[arg(long)]
    pub(crate) probabilities: bool,
}

/// `outboard worker`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("how").required(true).args(["listen", "stdio"])))]
pub(crate) struct Worker {
    /// Serves HTTP on this address, such as `0.0.0.0:7878`.
    #[arg(long, value_name = "ADDRESS", requires = "token_file")]
    pub(crate) listen: Option<SocketAddr>,
    /// File with the token that clients must show; nobody else may read it.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file with the certificate, to speak HTTPS.
    #[arg(long, value_name = "FILE", requires_all = ["listen", "tls_key"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Runs envelopes from standard input, one JSON object per line.
    #[arg(long)]
    pub(crate) stdio: bool,
    /// Folder for blobs and results; `worker` in the home folder if unset.
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Threads of a task; 0 shares the cores among those that run at the same time.
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Tasks that run at the same time.
    #[arg(long, default_value_t = 1)]
    pub(crate) max_running: u32,
    /// Tasks that may wait; more are refused.
    #[arg(long, default_value_t = 16)]
    pub(crate) max_queued: u32,
}

/// `outboard aws`.
#[derive(Debug, Subcommand)]
pub(crate) enum Aws {
    /// Builds the worker, and packs it as Lambda wants it.
    Package(Package),
    /// Creates or changes the function of `[providers.aws-lambda]`, publishes a version, and leads the alias to it.
    Deploy(Deploy),
}

/// `outboard aws package`.
#[derive(Debug, Args)]
pub(crate) struct Package {
    /// Folder with Outboard's source.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) source: PathBuf,
    /// The function's architecture, x86_64 or arm64; that of `[providers.aws-lambda]` if unset.
    #[arg(long, value_name = "ARCHITECTURE")]
    pub(crate) architecture: Option<String>,
    /// The package.
    #[arg(long, short, value_name = "FILE", default_value = "function.zip")]
    pub(crate) output: PathBuf,
}

/// `outboard aws deploy`.
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// ARN of the role that the function runs as.
    #[arg(long, value_name = "ARN")]
    pub(crate) role: String,
    /// What `outboard aws package` wrote.
    #[arg(long, value_name = "FILE", default_value = "function.zip")]
    pub(crate) zip: PathBuf,
}

/// `outboard model`.
#[derive(Debug, Subcommand)]
pub(crate) enum Model {
    /// Layers, output shapes, parameters and FLOPs of a job file or a model file.
    Show {
        /// A job file, or a model.safetensors.
        file: PathBuf,
    },
}

/// `outboard config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Every key with its value and where that comes from.
    Show,
}
