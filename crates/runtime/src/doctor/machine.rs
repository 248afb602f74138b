//! This machine.

use std::{fs, path::Path};

use outboard_core::{Result, code, error::IoContext, finding::Finding};
use outboard_engine::simd::vector_units;
use outboard_machine::checks::{disk, memory};
use outboard_store::atomic;

/// Bytes by which a folder is tried: on a full disk an empty file can often still be made.
static PROBE: [u8; 1 << 16] = [0; 1 << 16];

/// Its processor and its memory.
pub(super) fn here() -> Vec<Finding> {
    let cpu = match vector_units() {
        Some(units) => Finding::pass(code::CPU, "this machine", format!("the engine computes with {units}")),
        None => Finding::warn(
            code::CPU,
            "this machine",
            "the CPU shows no vector units that the engine uses: it is several times slower",
            "let a virtual machine have its host's CPU, or use another machine",
        ),
    };
    vec![cpu, memory()]
}

/// Whether a folder of ours, which is made if need be, can be written to, and has room; `other` says how to take another.
pub(super) fn folder(what: &str, folder: &Path, other: &str) -> Vec<Finding> {
    let tried = atomic::create_folder(folder).and_then(|()| write(folder));
    let of = format!("{what} {}", folder.display());
    match tried {
        Ok(()) => vec![Finding::pass(code::FOLDER, of, "it can be written to"), disk(folder)],
        Err(error) if error.code() == code::DISK => vec![Finding::error(code::DISK, of, &error)],
        Err(error) => {
            vec![Finding { remedy: Some(other.into()), ..Finding::error(code::FOLDER, of, &error) }]
        }
    }
}

/// Whether a folder that need not be there yet could be made and written to; nothing is left behind.
pub(super) fn folder_to_be(what: &str, wanted: &Path, other: &str) -> Vec<Finding> {
    match wanted.ancestors().find(|folder| folder.exists()) {
        Some(there) if there == wanted || there.is_dir() => folder(what, there, other),
        Some(there) => {
            let evidence = format!("{} is a file, not a folder", there.display());
            vec![Finding::fail(code::FOLDER, what, evidence, other)]
        }
        None => vec![Finding::fail(code::FOLDER, what, format!("{} is nowhere", wanted.display()), other)],
    }
}

fn write(folder: &Path) -> Result<()> {
    let probe = folder.join(format!(".outboard-doctor-{}", std::process::id()));
    let written = fs::write(&probe, PROBE).doing("write into the folder", folder);
    let removed = fs::remove_file(&probe);
    written.and(removed.doing("remove", &probe))
}
