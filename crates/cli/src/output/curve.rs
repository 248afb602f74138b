//! The loss curve, drawn with characters.

use outboard::task::Epoch;
use textplots::{Chart, Plot, Shape};

/// Width and height in dots; a character holds two by four.
const SIZE: (u32, u32) = (100, 32);

/// Training and validation loss over the epochs; nothing for fewer than three.
pub(crate) fn draw(history: &[Epoch]) -> Option<String> {
    if history.len() < 3 {
        return None;
    }
    let series = |f: fn(&Epoch) -> Option<f64>| -> Vec<(f32, f32)> {
        history.iter().filter_map(|epoch| Some((epoch.epoch as f32, f(epoch)? as f32))).collect()
    };
    let (train, validation) = (series(|e| Some(e.loss)), series(|e| e.validation_loss));
    let all = || train.iter().chain(&validation).map(|(_, loss)| *loss);
    let (low, high) = (all().fold(f32::MAX, f32::min), all().fold(f32::MIN, f32::max));
    let high = if high > low { high } else { low + 1.0 };
    let (first, last) = (train[0].0, train[train.len() - 1].0);
    let lines = (Shape::Lines(&train), Shape::Points(&validation));
    let mut chart = Chart::new_with_y_range(SIZE.0, SIZE.1, first, last, low, high);
    let plotted = chart.lineplot(&lines.0).lineplot(&lines.1);
    plotted.borders();
    plotted.axis();
    plotted.figures();
    let title = if validation.is_empty() { "loss" } else { "loss (line: training, points: validation)" };
    Some(format!("{title}\n{}", plotted.to_string().trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_falling_flat_and_short_histories() {
        let epoch = |n: u32, loss: f64| Epoch {
            epoch: n,
            loss,
            accuracy: None,
            validation_loss: Some(loss + 0.1),
            validation_accuracy: None,
            learning_rate: 0.1,
            seconds: 1.0,
            samples_per_second: 1.0,
        };
        let curve = draw(&(1..=20).map(|n| epoch(n, 2.0 / f64::from(n))).collect::<Vec<_>>()).unwrap();
        assert!(curve.starts_with("loss (line: training, points: validation)\n"), "{curve}");
        assert!(curve.contains("2.1") && curve.contains("0.1") && curve.contains("20.0"), "{curve}");
        assert!(draw(&[1, 2, 3].map(|n| epoch(n, 0.0))).is_some());
        assert!(draw(&[epoch(1, 1.0)]).is_none());
    }
}
