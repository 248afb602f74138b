//! `outboard plugin`.

use std::{fs, path::Path, process::ExitCode, sync::Arc};

use async_trait::async_trait;
use outboard::{
    Error, ErrorKind, Result,
    plugin::{Isolation, Place, PluginConfig, PluginProvider},
    plugin_place,
    provider::ComputeProvider,
};
use outboard_conformance::{Fixture, Possible, Verdict, run_all};
use outboard_store::FolderStore;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{
    args::{Global, Lang, PluginCheck},
    output::Printer,
};

/// The files of a new plugin: from the examples, which are tested.
const RUST: [(&str, &str); 2] = [
    ("Cargo.toml", include_str!("../../../examples/plugin-rust/Cargo.toml")),
    ("src/lib.rs", include_str!("../../../examples/plugin-rust/src/lib.rs")),
];
const C: [(&str, &str); 3] = [
    ("Makefile", include_str!("../../../examples/plugin-c/Makefile")),
    ("NAME.c", include_str!("../../../examples/plugin-c/beside.c")),
    ("outboard_plugin.h", include_str!("../../plugin/include/outboard_plugin.h")),
];

/// Writes a new plugin.
pub(crate) fn new(name: &str, lang: Lang, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(is_plain) {
        return Err(Error::invalid(format!("`{name}` is no name for a plugin"))
            .hint("begin with a lower-case letter, and go on with those, digits and `_`"));
    }
    let folder = Path::new(name);
    if folder.exists() {
        return Err(Error::new(ErrorKind::Conflict, format!("{name} is there already")).hint("choose another name"));
    }
    let (files, build, library): (&[_], _, _) = match lang {
        Lang::Rust => (&RUST, format!("cargo build --release --manifest-path {name}/Cargo.toml"), "target/release/"),
        Lang::C => (&C, format!("make -C {name}"), ""),
    };
    for (file, text) in files {
        let text = text
            .replace("libbeside", &format!("lib{name}"))
            .replace("beside.c", &format!("{name}.c"))
            .replace("\"beside\"", &format!("\"{name}\""))
            // The header comes along; the crates come from the repository.
            .replace("?= ../../crates/plugin/include", "?= .")
            .replace("path = \"../../crates/core\"", REPOSITORY)
            .replace("path = \"../../crates/plugin\"", REPOSITORY)
            .replace("path = \"../../crates/protocol\"", REPOSITORY);
        let path = folder.join(file.replace("NAME", name));
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.map_err(|e| Error::invalid(format!("cannot write {}: {e}", path.display())))?;
    }
    let extension = std::env::consts::DLL_EXTENSION;
    let check = format!("outboard plugin check {name}/{library}lib{name}.{extension}");
    if global.json {
        let files: Vec<_> = files.iter().map(|(file, _)| folder.join(file.replace("NAME", name))).collect();
        printer
            .line(json!({"event": "plugin", "schema": 1, "files": files, "build": build, "check": check}).to_string());
    } else {
        printer.line(format!(
            "{name} is a provider that works. Build it, check it, then change it:\n  {build}\n  {check}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

const REPOSITORY: &str = concat!("git = \"", env!("CARGO_PKG_REPOSITORY"), "\"");

/// Runs the suite on a plugin.
pub(crate) fn check(
    runtime: &Runtime,
    arguments: &PluginCheck,
    global: &Global,
    printer: &Printer,
) -> Result<ExitCode> {
    let config = serde_json::from_str(&arguments.config).map_err(|e| {
        Error::invalid(format!("`{}` is no JSON object: {e}", arguments.config))
            .at("flag", "--config")
            .hint("write it as `--config '{\"key\": \"value\"}'`")
    })?;
    let folder = std::env::current_dir().map_err(|e| Error::invalid("the working directory is gone").because(e))?;
    let home = tempfile::tempdir().map_err(|e| Error::invalid("no temporary folder can be made").because(e))?;
    let store = FolderStore::open(home.path())?;
    let isolation = if arguments.isolated { Isolation::Process } else { Isolation::None };
    let fixture = PluginFixture {
        config: PluginConfig { config, isolation, ..PluginConfig::new(arguments.path.clone()) },
        place: Place { folder, ..plugin_place(home.path(), &store) },
        numerics: arguments.numerics.clone().unwrap_or_else(|| outboard_engine::numerics::class().into()),
    };
    // What it says when it can't even be loaded is an error of its own, not of a case.
    fixture.load()?;
    let report = runtime.block_on(run_all(&fixture));
    for (name, verdict) in &report.cases {
        let (word, why) = match verdict {
            Verdict::Passed => ("passed", ""),
            Verdict::Failed(why) => ("FAILED", why.as_str()),
            Verdict::Unsupported(why) => ("skipped", why.as_str()),
        };
        if global.json {
            let verdict = word.to_lowercase();
            printer.line(
                json!({"event": "case", "schema": 1, "case": name, "verdict": verdict, "reason": why}).to_string(),
            );
        } else {
            printer
                .line(format!("{word:<8} {}", if why.is_empty() { (*name).into() } else { format!("{name}: {why}") }));
        }
    }
    let (passed, failed) = (report.passed(), report.failed().len());
    if global.json {
        printer.line(json!({"event": "cases", "schema": 1, "passed": passed, "failed": failed}).to_string());
    } else {
        printer.line(format!("{passed} passed, {failed} failed"));
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// Answers for an isolated plugin.
pub(crate) async fn serve(store: &Path) -> Result<ExitCode> {
    let folder = FolderStore::open(store)?;
    let Place { worker, .. } = plugin_place(store, &folder);
    outboard::plugin::serve(folder, worker).await?;
    Ok(ExitCode::SUCCESS)
}

struct PluginFixture {
    config: PluginConfig,
    place: Place,
    numerics: String,
}

impl PluginFixture {
    fn load(&self) -> Result<PluginProvider> {
        PluginProvider::load("plugin", &self.config, &self.place)
    }
}

#[async_trait]
impl Fixture for PluginFixture {
    async fn provider(&self) -> Arc<dyn ComputeProvider> {
        match self.load() {
            Ok(provider) => Arc::new(provider),
            Err(error) => unreachable!("it was loaded before: {error}"),
        }
    }

    fn store(&self) -> &FolderStore {
        &self.place.store
    }

    fn numerics(&self) -> String {
        self.numerics.clone()
    }

    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    fn remembers_tasks(&self) -> Possible<()> {
        Err("a plugin need not remember what an earlier provider of it was given")
    }

    fn corrupt(&self, blob: &outboard_conformance::Digest) -> Possible<()> {
        fs::write(self.place.store.path(blob), "damaged").map_err(|_| "the blob cannot be damaged")
    }

    async fn losing_a_reply(&self) -> Possible<Arc<dyn ComputeProvider>> {
        Err("there is no network to lose it on")
    }
}
