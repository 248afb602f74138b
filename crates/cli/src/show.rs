//! `outboard model show` and `outboard config show`.

use std::{path::Path, process::ExitCode};

use outboard::{
    Client, Removed, Result,
    config::{self, Sources},
    describe,
};
use serde_json::json;

use crate::{
    args::Global,
    output::{Printer, table, text::grouped},
};

/// Removes what no job needs any more, and prints how much that was.
pub(crate) async fn gc(client: &Client, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let Removed { blobs, bytes, stored } = client.gc().await?;
    match global.json {
        true => printer.line(
            json!({"event": "removed", "schema": 1, "blobs": blobs, "bytes": bytes, "stored": stored}).to_string(),
        ),
        false => {
            printer.line(format!("removed {} blobs, {} bytes", grouped(blobs), grouped(bytes)));
            if stored > 0 {
                printer.line(format!("removed {} tasks and blobs from the bucket", grouped(stored as u64)));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a model's layers.
pub(crate) fn model(file: &Path, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let model = describe(file)?;
    let total = |f: fn(&outboard::LayerRow) -> u64| model.layers.iter().map(f).sum::<u64>();
    let (parameters, flops) = (total(|l| l.parameters), total(|l| l.flops));
    if global.json {
        let layers: Vec<_> = model
            .layers
            .iter()
            .map(|l| json!({"index": l.index, "layer": l.kind, "output": l.output, "parameters": l.parameters, "flops": l.flops}))
            .collect();
        let object = json!({"event": "model", "schema": 1, "input": model.input, "layers": layers, "parameters": parameters, "flops": flops});
        printer.line(object.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let shape = |shape: &[usize]| format!("[{}]", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", "));
    let mut rows = vec![["", "layer", "output", "parameters", "FLOPs per row"].map(String::from)];
    rows.push(["".into(), "input".into(), shape(&model.input), "0".into(), "0".into()]);
    for l in &model.layers {
        rows.push([l.index.to_string(), l.kind.to_string(), shape(&l.output), grouped(l.parameters), grouped(l.flops)]);
    }
    rows.push(["".into(), "total".into(), "".into(), grouped(parameters), grouped(flops)]);
    table::print(printer, &rows, &[0, 3, 4]);
    Ok(ExitCode::SUCCESS)
}

/// Prints every configuration key.
pub(crate) fn config(sources: &Sources, global: &Global, printer: &Printer) -> Result<ExitCode> {
    let settings = config::explain(sources)?;
    if global.json {
        for setting in settings {
            printer.line(json!({"event": "setting", "schema": 1, "key": setting.key, "value": setting.value, "origin": setting.origin}).to_string());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["key", "value", "origin"].map(String::from)];
    rows.extend(settings.into_iter().map(|s| [s.key, s.value, s.origin]));
    table::print(printer, &rows, &[]);
    Ok(ExitCode::SUCCESS)
}
