//! "Did you mean": the name that a mistyped one was probably meant to be.

/// The candidate closest to `word`, if one is close: at most a third of its letters differ.
/// Upper case and hyphens don't count as differences.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| 3 * distance <= word.chars().count().max(candidate.chars().count()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The candidates in back-quotes, with commas.
pub(crate) fn listed<'a>(candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_of_the_keyboard_and_nothing_else() {
        let names = ["linear", "relu", "gelu", "dropout", "out", "cross_entropy"];
        for (word, meant) in [
            ("lineer", Some("linear")),
            ("drpoout", Some("dropout")),
            ("ReLU", Some("relu")),
            ("cross-entropy", Some("cross_entropy")),
            ("crossentropy", Some("cross_entropy")),
            ("ot", Some("out")),
            ("", None),
            ("x", None),
            ("transformer", None),
        ] {
            assert_eq!(nearest(word, names), meant, "{word}");
        }
    }
}
