//! `docs/troubleshooting.md` is made of the texts of the codes. `UPDATE=1 cargo test -p outboard-core --test troubleshooting`
//! writes it anew.
#![allow(clippy::unwrap_used)]

use std::{env, fs, path::Path};

use outboard_core::{
    ErrorKind,
    code::{CHAPTERS, Chapter, Code},
};

const WIDTH: usize = 128;

const OPENING: &str = "# Troubleshooting

Every error ends with a code, and every check has one.

```sh
outboard doctor                         # what is configured, on this machine and elsewhere
outboard doctor --job JOB.toml          # and whether a job could run there
outboard doctor --provider runpod       # one provider
outboard doctor env --provider runpod   # what is different there
outboard doctor --explain OB-DATA       # what this page says of a code
```

Where a container crashes or hangs, run `outboard-worker preflight` in it: [random-device.md](random-device.md) shows how. Tasks
that wait on RunPod for ever: [its table of symptoms](../providers/runpod/README.md#when-something-is-wrong).

";

#[test]
fn the_page_is_that_of_the_codes() {
    let mut page = OPENING.to_string();
    for Chapter { title, codes } in CHAPTERS {
        page += &format!("- [{title}](#{})\n", title.to_lowercase().replace(' ', "-"));
        let names: Vec<_> = codes.iter().map(|code| link(*code)).collect();
        page += &format!("{}\n", wrapped(&names.join(", "), "  "));
    }
    for Chapter { title, codes } in CHAPTERS {
        page += &format!("\n## {title}\n");
        for Code { name, title, means, see, fix } in codes {
            page += &format!("\n### {name}\n");
            for text in
                [format!("**{title}.** {means}"), format!("*How to see it.* {see}"), format!("*What to do.* {fix}")]
            {
                page += &format!("\n{}\n", wrapped(&text, ""));
            }
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/troubleshooting.md");
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    assert_eq!(kept, page, "run `UPDATE=1 cargo test -p outboard-core --test troubleshooting`");
}

/// Every code that a text of ours names is one.
#[test]
fn codes_that_are_named_anywhere_are_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let preflight = "providers/runpod/worker/src/outboard_worker/preflight.py";
    let mut found = 0;
    for file in [preflight, "docs/random-device.md", "docs/runpod.md", "docs/cold-starts.md", "docs/json.md"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        for (at, _) in text.match_indices("OB-") {
            // As in OB-JOB-FAILED.
            if text[..at].ends_with(|c: char| c.is_ascii_alphanumeric()) {
                continue;
            }
            let rest = &text[at..];
            let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '-').unwrap_or(rest.len());
            let name = rest[..end].trim_end_matches('-');
            assert!(Code::named(name).is_some(), "{file}: {name} has no text");
            found += 1;
        }
    }
    assert!(found > 10, "{found}");
}

/// The worker for PyTorch ends its errors with the same codes.
#[test]
fn the_worker_for_pytorch_has_the_code_of_each_kind() {
    let path = "../../providers/runpod/worker/src/outboard_worker/failure.py";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let table = text.split_once("\nCODES = {\n").unwrap().1.split_once("\n}").unwrap().0;
    let mut kinds = Vec::new();
    for line in table.lines() {
        let (kind, code) = line.trim().trim_end_matches(',').split_once(": ").unwrap();
        let kind: ErrorKind = serde_json::from_str(kind).unwrap();
        assert_eq!(format!("\"{}\"", kind.code()), code, "{kind:?}");
        kinds.push(kind);
    }
    // An unknown kind is answered with the list of all.
    let all = serde_json::from_str::<ErrorKind>("\"?\"").unwrap_err().to_string();
    for name in all.split('`').skip(3).step_by(2) {
        let kind: ErrorKind = serde_json::from_str(&format!("\"{name}\"")).unwrap();
        assert!(kinds.contains(&kind), "{name} is missing");
    }
    assert!(kinds.len() > 20);
}

fn link(code: Code) -> String {
    format!("[{code}](#{})", code.name.to_lowercase())
}

/// The text in lines, each after `indent`, broken between words.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().unwrap();
        match line.is_empty() {
            true => *line = word.into(),
            false if indent.len() + line.len() + 1 + word.len() <= WIDTH => *line = format!("{line} {word}"),
            false => lines.push(word.into()),
        }
    }
    lines.iter().map(|line| format!("{indent}{line}")).collect::<Vec<_>>().join("\n")
}
