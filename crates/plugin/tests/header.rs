//! The C header is made from `src/abi.rs`. `UPDATE=1 cargo test -p outboard-plugin --test header` writes it anew.
#![allow(clippy::unwrap_used)]

use std::{env, fs, path::Path};

use outboard_plugin::abi;

fn header() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config {
        language: cbindgen::Language::C,
        header: Some(format!(
            "/* The interface of Outboard's plugins, version {major}.{minor}. Made from crates/plugin/src/abi.rs.\n *\n \
             * A plugin exports `outboard_plugin`, see the end of this file. `outboard plugin new NAME --lang c` makes one\n \
             * that works, `outboard plugin check PATH` says what is wrong with one. */",
            major = abi::MAJOR,
            minor = abi::MINOR,
        )),
        include_guard: Some("OUTBOARD_PLUGIN_H".into()),
        after_includes: Some(format!(
            "\n#define OUTBOARD_PLUGIN_MAJOR {}\n#define OUTBOARD_PLUGIN_MINOR {}\n",
            abi::MAJOR,
            abi::MINOR
        )),
        trailer: Some(
            "/* The one symbol of a plugin. The table lives for ever. */\n\
             #if defined(_WIN32)\n__declspec(dllexport)\n#else\n__attribute__((visibility(\"default\")))\n#endif\n\
             const OutboardPlugin *outboard_plugin(void);"
                .into(),
        ),
        no_includes: true,
        sys_includes: ["stddef.h", "stdint.h"].map(String::from).to_vec(),
        documentation_style: cbindgen::DocumentationStyle::C99,
        line_length: 120,
        usize_is_size_t: true,
        export: cbindgen::ExportConfig {
            prefix: Some("Outboard".into()),
            include: ["Plugin", "Host"].map(String::from).to_vec(),
            exclude: ["MAJOR", "MINOR", "ENTRY", "Entry"].map(String::from).to_vec(),
            ..Default::default()
        },
        ..Default::default()
    };
    let bindings = cbindgen::Builder::new().with_config(config).with_src(folder.join("src/abi.rs")).generate().unwrap();
    let mut out = Vec::new();
    bindings.write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_header_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/outboard_plugin.h");
    let made = header();
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, made, "run `UPDATE=1 cargo test -p outboard-plugin --test header`");
}
