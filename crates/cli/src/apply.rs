//! `outboard evaluate` and `outboard predict`.

use std::{io::Write, process::ExitCode, time::Instant};

use outboard::{Client, Error, ErrorKind, Prediction, Predictions, Result};
use serde_json::{Map, Value, json};

use crate::{
    args::{Evaluate, Global, Predict},
    output::{Printer, json, quality, text::grouped},
};

/// Prints how good a model is.
pub(crate) async fn evaluate(
    client: &Client,
    arguments: &Evaluate,
    global: &Global,
    printer: &Printer,
) -> Result<ExitCode> {
    let began = Instant::now();
    let evaluation = client.evaluate(&arguments.model, &arguments.data, arguments.labels.as_deref()).await?;
    let metrics = evaluation.metrics;
    if global.json {
        let fields = json!({
            "status": "succeeded",
            "provider": evaluation.provider,
            "rows": metrics.rows,
            "metrics": quality::json(&metrics, &evaluation.quality),
            "seconds": began.elapsed().as_secs_f64(),
            "cost_usd": 0.0,
        });
        json::line(printer, "finished", Some(&evaluation.job), fields);
    } else {
        quality::lines(&metrics, &evaluation.quality).iter().for_each(|line| printer.line(line));
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
    let mut header: Vec<_> = predictions.targets.iter().map(|target| cell(target)).collect();
    let labels = match predictions.rows.first() {
        Some(Prediction::Labels(_)) => &predictions.targets[..],
        _ => classes.unwrap_or_default(),
    };
    if classes.is_some() {
        header.push("probability".into());
    }
    if probabilities {
        header.extend(labels.iter().map(|label| cell(&format!("probability of {label}"))));
    }
    writeln!(out, "{}", header.join(","))?;
    for row in &predictions.rows {
        let (mut cells, shares): (Vec<String>, &[f64]) = match row {
            Prediction::Number(value) => (vec![value.to_string()], &[]),
            Prediction::Numbers(values) => (values.iter().map(f64::to_string).collect(), &[]),
            Prediction::Labels(shares) => (shares.iter().map(|share| applies(*share).to_string()).collect(), shares),
            Prediction::Class { index, probabilities } => {
                (vec![cell(class(predictions, *index)), format!("{:.6}", probabilities[*index])], probabilities)
            }
        };
        if probabilities {
            cells.extend(shares.iter().map(|share| format!("{share:.6}")));
        }
        writeln!(out, "{}", cells.join(","))?;
    }
    Ok(())
}

/// Whether a label of this probability is said to apply.
fn applies(probability: f64) -> u8 {
    u8::from(probability > 0.5)
}

/// A field for each target.
fn by_target<T: Into<Value>>(predictions: &Predictions, values: impl Iterator<Item = T>) -> Map<String, Value> {
    predictions.targets.iter().cloned().zip(values.map(Into::into)).collect()
}

fn write_json(predictions: &Predictions, out: &mut Vec<u8>) -> std::io::Result<()> {
    for (i, row) in predictions.rows.iter().enumerate() {
        let fields = match row {
            Prediction::Number(value) => json!({"row": i + 1, "prediction": value}),
            Prediction::Numbers(values) => {
                json!({"row": i + 1, "prediction": by_target(predictions, values.iter().copied())})
            }
            Prediction::Labels(shares) => json!({
                "row": i + 1,
                "prediction": by_target(predictions, shares.iter().map(|share| applies(*share))),
                "probabilities": by_target(predictions, shares.iter().copied()),
            }),
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
