use std::fs;

use figment::Jail;
use tempfile::TempDir;

use super::*;

/// Sources in a folder with this `outboard.toml`.
fn sources(file: &str) -> (TempDir, Sources) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("outboard.toml"), file).unwrap();
    let environment = vec![("HOME".into(), "/users/me".into()), ("PATH".into(), "/bin".into())];
    let sources = Sources { directory: folder.path().into(), environment, overrides: Vec::new() };
    (folder, sources)
}

/// What is said about a wrong file, with its path shortened.
fn file_refusal(file: &str) -> String {
    let (folder, sources) = sources(file);
    refusal(&sources).replace(&*folder.path().to_string_lossy(), "DIR")
}

fn variable_refusal(name: &str, value: &str) -> String {
    let (_folder, mut sources) = sources("");
    sources.environment.push((name.into(), value.into()));
    refusal(&sources)
}

fn flag_refusal(text: &str) -> String {
    let (_folder, mut sources) = sources("");
    sources.overrides.push(text.into());
    refusal(&sources)
}

fn refusal(sources: &Sources) -> String {
    let error = Config::load(sources).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    error.report()
}

/// None, as the defaults have it: TOML has no null.
fn no_bucket() -> BucketConfig {
    let empty = || Some(String::new());
    BucketConfig {
        endpoint: empty(),
        region: empty(),
        access_key_id: empty(),
        secret_access_key: empty(),
        session_token: empty(),
        ..BucketConfig::default()
    }
}

#[test]
fn defaults_need_no_file() {
    let (_folder, sources) = sources("");
    assert_eq!(
        Config::load(&sources).unwrap(),
        Config {
            home: "/users/me/.local/share/outboard".into(),
            ledger: LedgerPlace("/users/me/.local/share/outboard/ledger.db".into()),
            checkpoint: Checkpoint { every: Duration::from_secs(10) },
            store: no_bucket(),
            providers: Providers {
                http: HttpConfig::default(),
                aws_lambda: AwsLambdaConfig::default(),
                runpod: RunPodConfig::default(),
                cuda: CudaConfig::default(),
                cpu: CpuConfig { enabled: true, threads: 0 },
            },
            plugins: BTreeMap::new(),
            router: RouterConfig::default(),
            budget: BudgetConfig::default(),
        }
    );
}

#[test]
fn each_layer_overrides_those_before() {
    let (folder, mut sources) =
        sources("home = 'h'\ncheckpoint.every = '1m'\n[providers.cpu]\nthreads = 1\nenabled = false\n");
    sources.directory = folder.path().join("a/b");
    sources.environment.push(("OUTBOARD_PROVIDERS__CPU__THREADS".into(), "2".into()));
    sources.environment.push(("OUTBOARD_CHECKPOINT__EVERY".into(), "2m".into()));
    sources.environment.push(("OUTBOARD_LOG".into(), "debug".into()));
    sources.environment.push(("OUTBOARD_WORKER_DEVICE".into(), "cpu".into()));
    sources.environment.push(("OUTBOARD_HOME".into(), String::new()));
    sources.overrides = vec!["checkpoint.every=3s".into(), "checkpoint.every=3m".into()];
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.home, folder.path().join("h"), "relative to the file");
    assert_eq!(config.checkpoint.every, Duration::from_secs(180));
    assert_eq!(config.providers.cpu, CpuConfig { enabled: false, threads: 2 });

    let file = folder.path().join("outboard.toml").display().to_string();
    let mut settings: Vec<_> = explain(&sources).unwrap().into_iter().map(|s| (s.key, s.value, s.origin)).collect();
    let others = [
        "budget.",
        "ledger",
        "providers.aws-lambda.",
        "providers.cuda.",
        "providers.http.",
        "providers.runpod.",
        "router.",
        "store.",
    ];
    settings.retain(|(key, ..)| others.iter().all(|other| !key.starts_with(other)));
    assert_eq!(
        settings,
        [
            ("checkpoint.every", "\"3m\"", "--set"),
            ("home", &*format!("{:?}", folder.path().join("h")), &*file),
            ("providers.cpu.enabled", "false", &*file),
            ("providers.cpu.threads", "2", "environment OUTBOARD_PROVIDERS__CPU__THREADS"),
        ]
        .map(|(key, value, origin)| (key.to_string(), value.to_string(), origin.to_string()))
    );
}

#[test]
fn files_of_a_worker_lie_beside_the_file_that_names_them() {
    let worker = "{ url = 'https://a', token_file = 't/oken', ca_file = '/etc/ca.pem' }";
    let (folder, mut sources) = sources(&format!("[providers.http]\nworkers = [{worker}]\n"));
    sources.directory = folder.path().join("a/b");
    let config = Config::load(&sources).unwrap();
    let worker = &config.providers.http.workers[0];
    assert_eq!(worker.token_file.as_deref(), Some(&*folder.path().join("t/oken")));
    assert_eq!(worker.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
}

#[test]
#[expect(clippy::result_large_err, reason = "the type of the error is figment's")]
fn the_process_is_read() {
    Jail::expect_with(|jail| {
        jail.create_file("outboard.toml", "providers.cpu.threads = 3")?;
        jail.set_env("OUTBOARD_HOME", "7");
        jail.set_env("OUTBOARD_PROVIDERS__CPU__ENABLED", false);
        let sources = Sources::from_process(vec!["checkpoint.every=\"1h\"".into()]).map_err(|e| e.to_string())?;
        let config = Config::load(&sources).map_err(|e| e.report())?;
        assert_eq!(config.home, std::env::current_dir().unwrap().join("7"), "text, though it looks like a number");
        assert_eq!(config.providers.cpu, CpuConfig { enabled: false, threads: 3 });
        assert_eq!(config.checkpoint.every, Duration::from_secs(3600));

        jail.set_env("OUTBOARD_HOME", "~/here");
        jail.set_env("HOME", "/users/you");
        let sources = Sources::from_process(Vec::new()).map_err(|e| e.to_string())?;
        assert_eq!(Config::load(&sources).map_err(|e| e.report())?.home, Path::new("/users/you/here"));
        Ok(())
    });
}

#[test]
fn a_variable_reaches_a_key_with_a_hyphen() {
    let (_folder, mut sources) = sources("");
    let name = "OUTBOARD_PROVIDERS__AWS_LAMBDA__MEMORY_MB";
    sources.environment.push((name.into(), "512".into()));
    assert_eq!(Config::load(&sources).unwrap().providers.aws_lambda.memory_mb, 512);
    sources.environment = vec![("OUTBOARD_PROVIDERS__AWS_LAMBDA__MEMORY".into(), "512".into())];
    let report = Config::load(&sources).unwrap_err().report();
    assert!(report.ends_with(&format!("try: write `{name}`")), "{report}");
}

#[test]
fn a_wrong_key_is_refused_with_where_it_is_and_the_nearest_right_one() {
    assert_eq!(
        file_refusal("\n[providers.cpu]\nthread = 2\n"),
        "unknown key `providers.cpu.thread`\n  file: DIR/outboard.toml\n  line: 3\n  key: providers.cpu.thread\n  \
         try: write `providers.cpu.threads`"
    );
    assert_eq!(
        file_refusal("[checkpoints]\nevery = '10s'\n"),
        "unknown key `checkpoints`\n  file: DIR/outboard.toml\n  line: 1\n  key: checkpoints\n  try: write `checkpoint`"
    );
    assert_eq!(
        file_refusal("threads = 2\n").lines().last(),
        Some("  try: write `providers.cpu.threads`"),
        "known elsewhere"
    );
    assert_eq!(
        file_refusal("[providers.moon]\n").lines().last(),
        Some(
            "  try: the keys here are `providers.http`, `providers.aws-lambda`, `providers.runpod`, `providers.cuda`, \
             `providers.cpu`"
        )
    );
    assert_eq!(
        variable_refusal("OUTBOARD_PROVIDER__CPU__THREADS", "2"),
        "unknown key `provider.cpu.threads`\n  variable: OUTBOARD_PROVIDER__CPU__THREADS\n  \
         key: provider.cpu.threads\n  try: write `OUTBOARD_PROVIDERS__CPU__THREADS`"
    );
    assert_eq!(
        variable_refusal("OUTBOARD_CHECKPOINT_EVERY", "2s").lines().last(),
        Some("  try: write `OUTBOARD_CHECKPOINT__EVERY`")
    );
    assert_eq!(
        flag_refusal("checkpoint.evry=2s"),
        "unknown key `checkpoint.evry`\n  flag: --set checkpoint.evry\n  key: checkpoint.evry\n  \
         try: write `checkpoint.every`"
    );
    assert_eq!(flag_refusal("=2").lines().next(), Some("unknown key `\"\"`"));
    assert_eq!(
        flag_refusal("home"),
        "`--set home` has no value\n  flag: --set home\n  \
         try: write `--set KEY=VALUE`, such as `--set checkpoint.every=30s`"
    );
}

#[test]
fn a_wrong_value_is_refused_with_what_is_right() {
    assert_eq!(
        file_refusal("[providers.cpu]\nthreads = 'all'\n"),
        "`providers.cpu.threads` is \"all\", but must be a whole number\n  file: DIR/outboard.toml\n  line: 2\n  \
         key: providers.cpu.threads\n  try: write it as in `threads = 0`"
    );
    assert_eq!(
        variable_refusal("OUTBOARD_PROVIDERS__CPU__THREADS", "-1"),
        "`providers.cpu.threads` is -1, but must be a whole number of at least 0\n  \
         variable: OUTBOARD_PROVIDERS__CPU__THREADS\n  key: providers.cpu.threads\n  try: write it as in `threads = 0`"
    );
    assert_eq!(
        flag_refusal("checkpoint.every=0s"),
        "`checkpoint.every`: \"0s\" is not a time above zero, such as \"10s\" or \"2m\"\n  \
         flag: --set checkpoint.every\n  key: checkpoint.every\n  try: write it as in `every = \"10s\"`"
    );
    for (text, message) in [
        ("providers.cpu.enabled=yes", "`providers.cpu.enabled` is \"yes\", but must be true or false"),
        ("checkpoint=3", "`checkpoint` is 3, but must be a table"),
        ("home.x=3", "`home` is a table, but must be text in quotes"),
        ("home=", "`home` is empty, but must be a path"),
        ("home=~you/x", "`home` starts with the home folder of another user; write the path in full"),
    ] {
        assert_eq!(flag_refusal(text).lines().next(), Some(message));
    }
}

#[test]
fn broken_files_are_located() {
    assert_eq!(
        file_refusal("[checkpoint]\nevery = 10s\n"),
        "DIR/outboard.toml is not valid TOML: string values must be quoted, expected literal string\n  \
         file: DIR/outboard.toml\n  line: 2\n  column: 9\n  \
         try: correct it there: a table starts with `[name]`, a value is `key = value`, text is in quotes"
    );
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("outboard.toml")).unwrap();
    let sources = Sources { directory: folder.path().into(), ..Sources::default() };
    assert!(refusal(&sources).contains("outboard.toml: it is a folder, not a file"));
}

#[test]
fn secrets_are_not_repeated() {
    let secret = "rp_1234";
    let texts = [
        file_refusal(&format!("[providers.cpu]\napi_key = '{secret}'\n")),
        file_refusal(&format!("[providers.cpu]\napi_key = '{secret}\n")),
        variable_refusal("OUTBOARD_PROVIDERS__CPU__API_KEY", secret),
        flag_refusal(&format!("providers.cpu.api_key={secret}")),
        flag_refusal(&format!("providers.cpu.threads=https://me:{secret}@host")),
        format!("{:?}", Sources { overrides: vec![secret.into()], ..Sources::default() }),
    ];
    for text in texts {
        assert!(!text.contains(secret), "{text}");
    }
}

/// A table as providers have it, with a list of tables, secrets and free names.
#[test]
fn misfits_of_any_table_are_named() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Providers {
        #[serde(default)]
        workers: Vec<Worker>,
        #[serde(default)]
        plugins: std::collections::BTreeMap<String, Worker>,
    }
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Worker {
        url: String,
        #[serde(default)]
        token: Option<String>,
    }
    let message = |text: &str| fit::<Providers>(&toml::from_str(text).unwrap()).unwrap_err().message();
    assert_eq!(message("[[workers]]\nurl='a'\n[[workers]]\nurI='b'\n"), "unknown key `workers[1].urI`");
    assert_eq!(message("[[workers]]\n"), "`workers[0].url` is missing");
    assert_eq!(message("[plugins.mine]\nurl=3\n"), "`plugins.mine.url` is 3, but must be text in quotes");
    assert_eq!(message("[[workers]]\nurl='a'\ntoken=1234\n"), "`workers[0].token` is ***, but must be text in quotes");
}
