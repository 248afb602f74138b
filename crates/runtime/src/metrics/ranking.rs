//! The area under the ROC curve.

/// The share of pairs of a positive and a negative row in which the positive has the higher score; equal scores count
/// half. None where there are no such pairs.
pub(super) fn roc_auc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let positives = positive.iter().filter(|positive| **positive).count();
    let negatives = positive.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    // Twice the number of pairs won, as whole numbers.
    let (mut won, mut below) = (0u128, 0u128);
    for tied in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let above = tied.iter().filter(|row| positive[**row]).count() as u128;
        let rest = tied.len() as u128 - above;
        won += above * (2 * below + rest);
        below += rest;
    }
    Some(won as f64 / (2.0 * positives as f64 * negatives as f64))
}
