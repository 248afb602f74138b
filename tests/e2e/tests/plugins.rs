//! Plugins as their authors and users meet them: made, built, checked, refused, trained on.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use outboard_e2e::{
    Done, User,
    plugins::{c_example, make, rust_example},
    repository,
};

/// A C plugin, compiled from its source.
fn compile(user: &User, name: &str, source: &str) -> PathBuf {
    let (file, library) = (user.path().join(format!("{name}.c")), user.path().join(format!("lib{name}.so")));
    fs::write(&file, source).unwrap();
    let header = repository().join("crates/plugin/include");
    let Output { status, stderr, .. } = Command::new("cc")
        .args(["-std=c11", "-D_GNU_SOURCE", "-fPIC", "-shared", "-fvisibility=hidden", "-I"])
        .args([&header, Path::new("-o"), &library, &file])
        .output()
        .unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    library
}

/// A user whose folder nobody else may write.
fn user() -> User {
    let user = User::new();
    fs::set_permissions(user.path(), fs::Permissions::from_mode(0o755)).unwrap();
    user
}

/// All but: unclaimed layers and operations (it has all), a lost reply, a restarted client, secrets.
const PASSED: &str = "28 passed, 0 failed";

#[test]
fn a_new_c_plugin_passes_the_suite_in_both_places() {
    let user = user();
    let made = user.run(&["plugin", "new", "mine", "--lang", "c"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    make(&user.path().join("mine"), &["CFLAGS=-Wall -Wextra -Werror -O1"]);
    for flags in [&[][..], &["--isolated"]] {
        let done = user.run(&[&["plugin", "check", "mine/libmine.so"], flags].concat());
        assert_eq!(done.stdout.lines().last(), Some(PASSED), "{}\n{}", done.stdout, done.stderr);
        assert_eq!(done.code, 0);
    }
}

/// With a header of that version: its tables have grown at their ends.
#[test]
fn a_plugin_built_for_a_newer_minor_version_passes_the_suite() {
    let user = user();
    let header = fs::read_to_string(repository().join("crates/plugin/include/outboard_plugin.h")).unwrap();
    let mut newer = header.clone();
    for (ours, theirs) in [
        ("#define OUTBOARD_PLUGIN_MINOR 0", "#define OUTBOARD_PLUGIN_MINOR 1"),
        ("} OutboardPlugin;", "  void (*later)(void);\n} OutboardPlugin;"),
        ("} OutboardHost;", "  void (*later)(void);\n} OutboardHost;"),
    ] {
        assert!(newer.contains(ours), "{ours}");
        newer = newer.replace(ours, theirs);
    }
    user.write("outboard_plugin.h", &newer);
    let _library = c_example(user.path(), &[&format!("HEADER={}", user.path().display())]);
    let done = user.run(&["plugin", "check", "libbeside.so"]);
    assert_eq!(done.stdout.lines().last(), Some(PASSED), "{}\n{}", done.stdout, done.stderr);
}

#[test]
fn the_rust_example_passes_the_suite_in_both_places() {
    let user = user();
    let _library = rust_example(user.path(), "beside");
    for flags in [&[][..], &["--isolated"]] {
        let done = user.run(&[&["plugin", "check", "libbeside.so"], flags].concat());
        assert_eq!(done.stdout.lines().last(), Some(PASSED), "{}\n{}", done.stdout, done.stderr);
    }
    let done = user.run(&["plugin", "check", "libbeside.so", "--config", r#"{"devise": "x"}"#]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("the plugin's configuration is wrong: unknown field `devise`"), "{}", done.stderr);
}

#[test]
fn workers_over_ssh_pass_the_suite() {
    let user = user();
    let library = rust_example(user.path(), "outboard-ssh");
    let library = library.to_str().unwrap();
    // What `ssh box LINE` does, on this machine.
    let program = outboard_e2e::program().display();
    let there = user.path().join("there");
    let config = format!(r#"{{"command": ["sh", "-c"], "program": "{program}", "folder": "{}"}}"#, there.display());
    let done = user.run(&["plugin", "check", library, "--config", &config]);
    assert_eq!(done.stdout.lines().last(), Some(PASSED), "{}\n{}", done.stdout, done.stderr);
    assert!(there.join("blobs").is_dir());
    let config = r#"{"command": ["false"]}"#;
    let done = user.run(&["plugin", "check", library, "--config", config]);
    assert!(done.stdout.contains("FAILED   health_is_ready") && done.code == 3, "{}", done.stdout);
    assert!(done.stdout.contains("`false` cannot be reached"), "{}", done.stdout);
}

#[test]
fn a_new_rust_plugin_is_the_example_under_its_own_name() {
    let user = user();
    let made = user.run(&["plugin", "new", "mine", "--lang", "rust"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(made.stdout.contains("cargo build --release --manifest-path mine/Cargo.toml"), "{}", made.stdout);
    let manifest = fs::read_to_string(user.path().join("mine/Cargo.toml")).unwrap();
    assert!(manifest.contains("name = \"mine\"") && manifest.contains("outboard-plugin = { git = "), "{manifest}");
    assert!(!manifest.contains("../"), "{manifest}");
    let example = fs::read_to_string(repository().join("examples/plugin-rust/src/lib.rs")).unwrap();
    let source = fs::read_to_string(user.path().join("mine/src/lib.rs")).unwrap();
    assert_eq!(source, example.replace("\"beside\"", "\"mine\""));
    let again = user.run(&["plugin", "new", "mine", "--lang", "c"]);
    assert!(again.code == 2 && again.stderr.contains("mine is there already"), "{}", again.stderr);
    let odd = user.run(&["plugin", "new", "../mine", "--lang", "c"]);
    assert!(odd.code == 2 && odd.stderr.contains("`../mine` is no name for a plugin"), "{}", odd.stderr);
}

#[test]
fn a_job_runs_on_a_plugin_and_gives_the_same_model() {
    let user = user();
    user.job(&[]);
    assert_eq!(user.run(&["train", "job.toml", "--output", "here"]).code, 0);
    let _library = c_example(user.path(), &[]);
    for isolation in ["none", "process"] {
        let config = format!(
            "providers.cpu.enabled = false\n[plugins.gpu_box]\npath = \"libbeside.so\"\nisolation = \"{isolation}\"\n\
             config.per_hour_nano_usd = 3600000000\n"
        );
        user.write("outboard.toml", &config);
        let done = user.run(&["train", "job.toml", "--output", isolation]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        let model = |folder: &str| fs::read(user.path().join(folder).join("model.safetensors")).unwrap();
        assert_eq!(model(isolation), model("here"), "{isolation}");
        let shown = user.run(&["providers"]).stdout;
        assert!(shown.contains("gpu_box (a worker beside this program)"), "{shown}");
        assert!(shown.contains("$3.60 an hour") && shown.contains("(per_hour_nano_usd, as configured)"), "{shown}");
    }
    let shown = user.run(&["config", "show"]).stdout;
    assert!(shown.lines().any(|line| line.contains("plugins.gpu_box.config") && line.contains("***")), "{shown}");
}

/// The least of a plugin: its table, with `call` as given.
fn source(table: &str, call: &str) -> String {
    format!(
        "#include <outboard_plugin.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n#include <stdio.h>\n\
         static int frees = 1;\n\
         static int is(OutboardBytes b, const char *t) {{ return b.len == strlen(t) && !memcmp(b.data, t, b.len); }}\n\
         static int say(OutboardBytes *out, const char *t) {{ *out = (OutboardBytes){{(void *)strdup(t), strlen(t)}}; return 0; }}\n\
         static void *create(OutboardBytes c, const OutboardHost *h, OutboardBytes *o) {{ (void)c, (void)h, (void)o; return malloc(1); }}\n\
         static int32_t call(void *p, OutboardBytes op, OutboardBytes request, OutboardBytes *out) {{\n\
           (void)p, (void)request;\n{call}\n\
           if (is(op, \"info\")) return say(out, \"{{\\\"ok\\\":{{\\\"kind\\\":\\\"odd\\\",\\\"device\\\":\\\"nothing\\\"}}}}\");\n\
           if (is(op, \"capabilities\")) return say(out, \"{{\\\"ok\\\":{{}}}}\");\n\
           if (is(op, \"health\")) return say(out, \"{{\\\"ok\\\":\\\"ready\\\"}}\");\n\
           if (is(op, \"submit\")) return say(out, \"{{\\\"ok\\\":\\\"x\\\"}}\");\n\
           if (is(op, \"price\")) return say(out, \"{{\\\"ok\\\":{{\\\"per_task_nano_usd\\\":0,\\\"per_hour_nano_usd\\\":0,\\\"as_of\\\":\\\"\\\",\\\"source\\\":\\\"\\\"}}}}\");\n\
           return say(out, \"{{\\\"error\\\":{{\\\"kind\\\":\\\"unsupported\\\",\\\"retry\\\":\\\"other\\\",\\\"message\\\":\\\"no\\\"}}}}\");\n}}\n\
         static void give_back(OutboardBytes b) {{ for (int i = 0; i < frees; i++) free((void *)b.data); }}\n\
         static void destroy(void *p) {{ free(p); }}\n\
         const OutboardPlugin *outboard_plugin(void) {{\n  static OutboardPlugin t = {{.size = sizeof(OutboardPlugin), \
         .major = OUTBOARD_PLUGIN_MAJOR, .minor = OUTBOARD_PLUGIN_MINOR, .create = create, .call = call, .free = give_back, .destroy = destroy}};\n\
         {table}\n  return &t;\n}}\n"
    )
}

/// What is said about a plugin that can't be loaded.
fn refusal(user: &User, path: &Path, extra: &str) -> String {
    user.write("outboard.toml", &format!("[plugins.odd]\npath = \"{}\"\n{extra}\n", path.display()));
    let done = user.run(&["providers"]);
    assert!([2, 3].contains(&done.code), "{}: {}", done.code, done.stdout);
    done.failure().replace(&*user.path().canonicalize().unwrap().to_string_lossy(), "DIR")
}

#[test]
fn each_refusal_says_what_and_how_to_mend_it() {
    let user = user();
    let good = compile(&user, "good", &source("", ""));
    let cases: [(&str, &str, &[&str]); 6] = [
        ("major", "t.major = 7;", &["speaks version 7.0, but this program 1.0", "try: get a plugin"]),
        ("short", "t.size = 24;", &["has 24 bytes, but one of version 1.0 has 48", "try: set `size`"]),
        ("null", "t.call = 0;", &["has a null function", "try: fill in all four"]),
        ("none", "return 0;", &["gives no table", "try: return the address"]),
        ("minor", "t.minor = 9; t.size += 8;", &[]),
        ("older", "t.minor = 0;", &[]),
    ];
    for (name, table, expected) in cases {
        let path = compile(&user, name, &source(table, ""));
        if expected.is_empty() {
            user.write("outboard.toml", &format!("plugins.odd.path = \"{}\"\n", path.display()));
            let done = user.run(&["providers"]);
            assert!(done.code == 0 && done.stdout.contains("odd (nothing)"), "{name}: {}", done.stderr);
            continue;
        }
        let said = refusal(&user, &path, "");
        expected.iter().for_each(|part| assert!(said.contains(part), "{name}: {said}"));
        assert!(said.contains("to go on without it: --set plugins.odd.enabled=false"), "{said}");
    }
    let said = refusal(&user, Path::new("missing.so"), "");
    assert!(said.starts_with("error: cannot find the plugin") && said.contains("no such file"), "{said}");
    let said = refusal(&user, user.path(), "");
    assert!(said.contains("is not a file"), "{said}");
    let said = refusal(&user, &good, "blake3 = \"00\"");
    assert!(said.contains("has the BLAKE3 digest") && said.contains("not 00") && said.contains("try: "), "{said}");
    fs::write(user.path().join("text.so"), "no library").unwrap();
    let said = refusal(&user, Path::new("text.so"), "");
    assert!(said.contains("the plugin DIR/text.so cannot be loaded") && said.contains("cause: "), "{said}");
    let empty = user.path().join("empty.c");
    fs::write(&empty, "int nothing;").unwrap();
    let library = user.path().join("libempty.so");
    let built = Command::new("cc").args(["-shared", "-o"]).args([&library, &empty]).status().unwrap();
    assert!(built.success());
    let said = refusal(&user, &library, "");
    assert!(said.contains("exports no `outboard_plugin`") && said.contains("try: build it with"), "{said}");
    let refusing = source("", "").replace("return malloc(1);", "say(o, \"{\\\"error\\\":{\\\"kind\\\":\\\"invalid_config\\\",\\\"retry\\\":\\\"never\\\",\\\"message\\\":\\\"no host given\\\",\\\"hint\\\":\\\"set host\\\"}}\"); return 0;");
    let said = refusal(&user, &compile(&user, "refusing", &refusing), "");
    assert!(said.starts_with("error: no host given\n") && said.contains("try: set host"), "{said}");

    user.write("outboard.toml", "plugins.cpu.path = \"libgood.so\"\n");
    let said = user.run(&["providers"]).stderr;
    assert!(
        said.contains("has the name of a provider that is built in") && said.contains("try: choose another name"),
        "{said}"
    );

    fs::set_permissions(&good, fs::Permissions::from_mode(0o666)).unwrap();
    let said = refusal(&user, &good, "");
    assert!(
        said.contains("others may write DIR/libgood.so") && said.contains("try: run `chmod go-w DIR/libgood.so`"),
        "{said}"
    );
    fs::set_permissions(&good, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(user.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let said = refusal(&user, &good, "");
    assert!(said.contains("others may write DIR,") && said.contains("try: run `chmod go-w DIR`"), "{said}");
}

/// A plugin's `wait` with this answer, in which `%s` is the checkpoint from which the task starts.
fn answer(state: &str) -> String {
    let state = state.replace('"', "\\\"");
    format!(
        "static char start[65]; char text[999];\n\
         const char *at = memmem(request.data, request.len, \"\\\"checkpoint\\\":\\\"\", 14);\n\
         if (is(op, \"submit\") && at) memcpy(start, at + 14, 64);\n\
         if (is(op, \"wait\")) {{ snprintf(text, sizeof text, \"{{\\\"ok\\\":{state}}}\", start); return say(out, text); }}"
    )
}

/// A state of `answer` that has ended so.
fn ended(outcome: &str) -> String {
    answer(&format!(
        r#"{{"revision":2,"events":[],"phase":{{"ended":{{"protocol":1,"key":"","attempt":"","timings":{{}},"ended":{outcome}}}}}}}"#
    ))
}

/// A state of `answer` that tells of a checkpoint.
fn checkpoint(digest: &str, epoch: u32) -> String {
    answer(&format!(
        r#"{{"revision":2,"phase":"running","events":[{{"event":"checkpoint","digest":"{digest}","epoch":{epoch},"step_in_epoch":0}}]}}"#
    ))
}

/// Trains on a plugin with this `call`, by somebody who has tried none before.
fn train(name: &str, call: &str, isolation: &str) -> Done {
    let user = user();
    // A call that never returns leaves open whether the task runs, and a process that has ended is started again, until then.
    user.job(&[("[train]", "[limits]\ndeadline = \"4s\"\n[train]")]);
    let library = compile(&user, name, &source("", call));
    let limit = if name == "endless" { "300ms" } else { "20s" };
    let path = library.display();
    let config = format!("[plugins.odd]\npath = \"{path}\"\nisolation = \"{isolation}\"\ncall_timeout = \"{limit}\"\n");
    user.write("outboard.toml", &config);
    user.run(&["train", "job.toml", "--output", "out", "--on", "odd"])
}

#[test]
fn a_plugin_that_misbehaves_harms_its_own_task_only() {
    let none = "0".repeat(64);
    let wait = |code: &str| format!("if (is(op, \"wait\")) {{ {code} }}");
    let cases = [
        ("garbage", wait("return say(out, \"nonsense\");"), "answer cannot be read"),
        ("silent", wait("return 7;"), "the plugin gave no answer: status 7"),
        ("huge", wait("say(out, \"{}\"); out->len = (size_t)1 << 40; return 0;"), "an answer of 1099511627776 bytes"),
        ("endless", wait("for (;;) sleep(1);"), "gave no answer within"),
        (
            "absent",
            ended(&format!(r#"{{"finished":{{"operation":"predict","outputs":"{none}"}}}}"#)),
            "the plugin `odd` doesn't keep to its interface: it names the blob 0000",
        ),
        (
            "another",
            ended(r#"{"finished":{"operation":"evaluate","loss":0.5,"rows":3}}"#),
            "the provider answered a training task with Evaluate",
        ),
        ("ahead", checkpoint(&none, 3), "it names the blob 0000"),
        (
            "older",
            checkpoint("%s", 3),
            "it names a checkpoint of epoch 3, batch 0, but that blob is one of epoch 0, batch 0",
        ),
        (
            "idle",
            ended(
                r#"{"finished":{"operation":"train","ended":"complete","checkpoint":{"digest":"%s","epoch":0,"step_in_epoch":0}}}"#,
            ),
            "the provider says that training ended at epoch 0, but gave no checkpoint",
        ),
    ];
    for (name, call, expected) in cases {
        for isolation in ["none", "process"] {
            let done = train(name, &call, isolation);
            assert!(done.code > 0, "{name}, {isolation}: {}", done.stdout);
            assert!(done.stderr.contains(expected), "{name}, {isolation}: {}", done.stderr);
        }
    }
}

/// In the program's own process it would take it along: what isolation is for.
#[test]
fn an_isolated_plugin_may_crash_and_the_program_lives_on() {
    let cases = [
        (
            "crash",
            "fprintf(stderr, \"my last words\\n\"); abort();",
            "signal: 6 (SIGABRT); its last words: my last words",
        ),
        ("stray", "*(volatile int *)8 = 1;", "signal: 11 (SIGSEGV)"),
        ("twice", "frees = 2; return say(out, \"{}\");", "signal: 6 (SIGABRT)"),
    ];
    for (name, code, words) in cases {
        let done = train(name, &format!("if (is(op, \"wait\")) {{ {code} }}"), "process");
        assert!(done.code > 0, "{name}: {}", done.stdout);
        let expected = format!("the process of the plugin `odd` has ended: {words}");
        assert!(done.stderr.contains(&expected), "{name}: {}", done.stderr);
    }
}
