//! How good a model is: as lines for people, and as JSON.

use outboard::{Quality, metrics::ClassMetrics, task::Metrics};
use serde_json::{Value, json};

use super::text::grouped;

/// Classes up to which a table and a confusion matrix are drawn.
const DRAWN: usize = 20;
/// Characters of a class's name in a table.
const NAME: usize = 16;

/// The metrics as an object.
pub(crate) fn json(metrics: &Metrics, quality: &Quality) -> Value {
    let mut values = json!({"loss": metrics.loss});
    if let Some(accuracy) = metrics.accuracy {
        values["accuracy"] = accuracy.into();
    }
    if let Ok(Value::Object(fields)) = serde_json::to_value(quality) {
        // The worker's definition of accuracy goes first where both have one; they agree.
        fields.into_iter().for_each(|(name, value)| {
            if values.get(&name).is_none() {
                values[name] = value;
            }
        });
    }
    values
}

/// The metrics as lines.
pub(crate) fn lines(metrics: &Metrics, quality: &Quality) -> Vec<String> {
    let mut lines = Vec::new();
    let mut row = |name: &str, value: Option<f64>| {
        lines.extend(value.map(|value| format!("{name:<10}{value:.4}")));
    };
    match quality {
        Quality::Classes(m) | Quality::Labels(m) => {
            row("accuracy", metrics.accuracy);
            row("top 3", m.top_3);
            row("top 5", m.top_5);
            row("precision", Some(m.precision));
            row("recall", Some(m.recall));
            row("f1", Some(m.f1));
            row("roc auc", m.roc_auc);
        }
        Quality::Numbers(m) => {
            row("r2", m.r2);
            row("mae", Some(m.mae));
            row("mse", Some(m.mse));
        }
    }
    row("loss", Some(metrics.loss));
    lines.push(format!("rows      {}", grouped(metrics.rows)));
    match quality {
        Quality::Classes(m) | Quality::Labels(m) => lines.extend(tables(m)),
        Quality::Numbers(m) if m.targets.len() > 1 => {
            let width = m.targets.iter().map(|target| shown(&target.target).chars().count()).max().unwrap_or(0).max(6);
            lines.push(format!("\n{:<width$}        r2       mae       mse", "target"));
            lines.extend(m.targets.iter().map(|target| {
                let r2 = target.r2.map_or("-".into(), |r2| format!("{r2:.4}"));
                format!("{:<width$}{r2:>10}{:>10.4}{:>10.4}", shown(&target.target), target.mae, target.mse)
            }));
        }
        Quality::Numbers(_) => {}
    }
    lines
}

/// A table of the classes, and the confusion matrix.
fn tables(m: &ClassMetrics) -> Vec<String> {
    if m.classes.len() > DRAWN {
        return vec![format!("\n{} classes: the table and the confusion matrix are in `--json`", m.classes.len())];
    }
    let names: Vec<_> = m.classes.iter().map(|class| shown(&class.class)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
    let mut lines = vec![format!("\n{:<width$}  precision    recall        f1   roc auc      rows", "class")];
    for (class, name) in m.classes.iter().zip(&names) {
        let auc = class.roc_auc.map_or("-".into(), |auc| format!("{auc:.4}"));
        lines.push(format!(
            "{name:<width$}{:>11.4}{:>10.4}{:>10.4}{auc:>10}{:>10}",
            class.precision,
            class.recall,
            class.f1,
            grouped(class.rows)
        ));
    }
    if !m.confusion.is_empty() {
        let cell = |n: &u64| grouped(*n).chars().count();
        let column = |i: usize| {
            let cells = m.confusion.iter().map(|row| cell(&row[i])).max().unwrap_or(1);
            cells.max(names[i].chars().count()) + 2
        };
        let columns: Vec<_> = (0..names.len()).map(column).collect();
        let header: String = names.iter().zip(&columns).map(|(name, column)| format!("{name:>column$}")).collect();
        lines.push(format!("\nwhat it is, by what was said\n{:<width$}{header}", ""));
        for (row, name) in m.confusion.iter().zip(&names) {
            let cells: String =
                row.iter().zip(&columns).map(|(n, column)| format!("{:>column$}", grouped(*n))).collect();
            lines.push(format!("{name:<width$}{cells}"));
        }
    }
    lines
}

/// A name on one line, cut.
fn shown(name: &str) -> String {
    let mut shown: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(NAME).collect();
    if name.chars().count() > NAME {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use outboard::metrics::ClassRow;

    use super::*;

    #[test]
    fn a_confusion_matrix_is_drawn() {
        let row = |class: &str, rows| ClassRow {
            class: class.into(),
            rows,
            precision: 0.5,
            recall: 1.0,
            f1: 2.0 / 3.0,
            roc_auc: (rows > 2000).then_some(0.75),
        };
        let m = ClassMetrics {
            accuracy: 0.5,
            top_3: None,
            top_5: None,
            precision: 0.5,
            recall: 0.5,
            f1: 0.5,
            roc_auc: None,
            classes: vec![row("no", 1234), row("a name that is long", 2345)],
            confusion: vec![vec![1230, 4], vec![0, 2345]],
        };
        let metrics = Metrics { loss: 0.25, accuracy: Some(0.5), rows: 3579 };
        let lines = lines(&metrics, &Quality::Classes(m)).join("\n");
        assert_eq!(
            lines,
            "accuracy  0.5000\nprecision 0.5000\nrecall    0.5000\nf1        0.5000\nloss      0.2500\nrows      3,579\n\n\
             class              precision    recall        f1   roc auc      rows\n\
             no                    0.5000    1.0000    0.6667         -     1,234\n\
             a name that is l…     0.5000    1.0000    0.6667    0.7500     2,345\n\n\
             what it is, by what was said\n                      no  a name that is l…\n\
             no                 1,230                  4\n\
             a name that is l…      0              2,345"
        );
    }
}
