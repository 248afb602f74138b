//! The loss curve, drawn with characters.

use outboard::task::Epoch;
use rasciigraph::{Config, plot};

/// Rows of the drawing, and its width in characters.
const SIZE: (u32, u32) = (8, 56);

/// The course of the validation loss, or of the training loss where nothing is held out; nothing for fewer than three
/// epochs or a loss that never changes.
pub(crate) fn draw(history: &[Epoch]) -> Option<String> {
    let (first, last) = (history.first()?, history.last()?);
    if history.len() < 3 {
        return None;
    }
    let what = if first.validation_loss.is_some() { "validation loss" } else { "loss" };
    let losses: Vec<f64> = history.iter().map(|epoch| epoch.validation_loss.unwrap_or(epoch.loss)).collect();
    if losses.iter().all(|loss| *loss == losses[0]) {
        return None;
    }
    let config = Config::default().with_height(SIZE.0).with_width(SIZE.1);
    let caption = format!("{what}, epochs {} to {}", first.epoch, last.epoch);
    Some(plot(losses, config.with_caption(caption)).trim_end().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_falling_flat_and_short_histories() {
        let epoch = |n: u32, loss: f64| Epoch {
            epoch: n,
            loss: loss + 1.0,
            accuracy: None,
            validation_loss: Some(loss),
            validation_accuracy: None,
            learning_rate: 0.1,
            seconds: 1.0,
            samples_per_second: 1.0,
        };
        let falling: Vec<_> = (1..=20).map(|n| epoch(n, 2.0 / f64::from(n))).collect();
        let curve = draw(&falling).unwrap();
        assert!(curve.contains("2.00") && curve.contains("0.10"), "{curve}");
        assert!(curve.ends_with("validation loss, epochs 1 to 20"), "{curve}");
        assert!(draw(&[1, 2, 3].map(|n| epoch(n, 0.5))).is_none());
        assert!(draw(&falling[..2]).is_none());
    }
}
