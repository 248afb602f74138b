//! `outboard evaluate` and `outboard predict`.

use std::{io::Write, process::ExitCode, time::Instant};

use outboard::{Client, Error, ErrorKind, Prediction, Predictions, Result};
use serde_json::{Map, Value, json};

use crate::{
    args::{Evaluate, Global, Predict},
    output::{Printer, json, text::grouped},
};

/// Prints loss and accuracy.
pub(crate) async fn evaluate(
    client: &Client,
    arguments: &Evaluate,
    global: &Global,
    printer: &Printer,
) -> Result<ExitCode> {
    let began = Instant::now();
    let evaluation = client.evaluate(&arguments.model, &arguments.data).await?;
    let metrics = evaluation.metrics;
    if global.json {
        let mut values = json!({"loss": metrics.loss});
        if let Some(accuracy) = metrics.accuracy {
            values["accuracy"] = accuracy.into();
        }
        let fields = json!({
            "status": "succeeded",
            "provider": evaluation.provider,
            "rows": metrics.rows,
            "metrics": values,
            "seconds": began.elapsed().as_secs_f64(),
            "cost_usd": 0.0,
        });
        json::line(printer, "finished", Some(&evaluation.job), fields);
    } else {
        if let Some(accuracy) = metrics.accuracy {
            printer.line(format!("accuracy  {accuracy:.4}"));
        }
        printer.line(format!("loss      {:.4}", metrics.loss));
        printer.line(format!("rows      {}", grouped(metrics.rows)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes predictions as CSV, or as JSON lines.
pub(crate) async fn predict(
    client: &Client,
    arguments: &Predict,
    global: &Global,
    printer: &Printer,
) -> Result<ExitCode> {
    let predictions = client.predict(&arguments.model, &arguments.data).await?;
    let mut text = Vec::new();
    let written = match global.json {
        true => write_json(&predictions, &mut text),
        false => write_csv(&predictions, arguments.probabilities, &mut text),
    };
    written.map_err(|e| Error::new(ErrorKind::Unexpected, "cannot format the predictions").because(e))?;
    match &arguments.output {
        Some(path) => {
            outboard::write_file(path, &text)?;
            if !global.json {
                printer.line(format!(
                    "wrote {} predictions to {}",
                    grouped(predictions.rows.len() as u64),
                    path.display()
                ));
            }
        }
        None => printer.line(String::from_utf8_lossy(&text).trim_end()),
    }
    if global.json {
        let fields = json!({
            "status": "succeeded",
            "provider": predictions.provider,
            "rows": predictions.rows.len(),
            "cost_usd": 0.0,
        });
        json::line(printer, "finished", Some(&predictions.job), fields);
    }
    Ok(ExitCode::SUCCESS)
}

/// A class's name.
fn class(predictions: &Predictions, index: usize) -> &str {
    predictions.classes.as_ref().and_then(|classes| classes.get(index)).map_or("", String::as_str)
}

fn write_csv(predictions: &Predictions, probabilities: bool, out: &mut Vec<u8>) -> std::io::Result<()> {
    let cell = |text: &str| match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    };
    let classes = predictions.classes.as_deref();
    let mut header = vec![cell(&predictions.target)];
    if let Some(classes) = classes {
        header.push("probability".into());
        if probabilities {
            header.extend(classes.iter().map(|class| cell(&format!("probability of {class}"))));
        }
    }
    writeln!(out, "{}", header.join(","))?;
    for row in &predictions.rows {
        match row {
            Prediction::Number(value) => writeln!(out, "{value}")?,
            Prediction::Class { index, probabilities: shares } => {
                write!(out, "{},{:.6}", cell(class(predictions, *index)), shares[*index])?;
                if probabilities {
                    shares.iter().try_for_each(|share| write!(out, ",{share:.6}"))?;
                }
                writeln!(out)?;
            }
        }
    }
    Ok(())
}

fn write_json(predictions: &Predictions, out: &mut Vec<u8>) -> std::io::Result<()> {
    for (i, row) in predictions.rows.iter().enumerate() {
        let fields = match row {
            Prediction::Number(value) => json!({"row": i + 1, "prediction": value}),
            Prediction::Class { index, probabilities } => {
                let shares: Map<String, Value> = probabilities
                    .iter()
                    .enumerate()
                    .map(|(c, p)| (class(predictions, c).to_string(), (*p).into()))
                    .collect();
                json!({
                    "row": i + 1,
                    "prediction": class(predictions, *index),
                    "probability": probabilities[*index],
                    "probabilities": shares,
                })
            }
        };
        writeln!(out, "{}", json::object("prediction", Some(&predictions.job), fields))?;
    }
    Ok(())
}
