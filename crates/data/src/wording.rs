//! Pieces of error messages: a file's own text, made safe to print, and names that may have been meant.

/// Characters of a cell or a name that a message shows.
const SHOWN_CHARS: usize = 40;
/// Names or labels that a message lists.
const LISTED: usize = 10;

/// Text from a file on one line, cut to 40 characters.
pub(crate) fn cut(text: &str) -> String {
    let mut cut = String::new();
    for c in text.chars().take(SHOWN_CHARS) {
        match c.is_control() {
            true => cut.extend(c.escape_default()),
            false => cut.push(c),
        }
    }
    if text.chars().nth(SHOWN_CHARS).is_some() {
        cut.push('…');
    }
    cut
}

/// Text from a file in backquotes, on one line, cut to 40 characters.
pub(crate) fn shown(text: &str) -> String {
    format!("`{}`", cut(text))
}

/// The first ten names, and how many more there are.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names = names.into_iter();
    let first: Vec<_> = names.by_ref().take(LISTED).map(shown).collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// The name that `wanted` is most likely a slip of: about a third of its letters off at most, whatever
/// their case.
pub(crate) fn nearest<'a>(wanted: &str, names: &'a [String]) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let length = wanted.chars().count();
    let tolerance = (length + 1) / 3;
    names
        .iter()
        // Names of another length are too far off anyway, and long ones would be slow to compare.
        .filter(|name| name.chars().take(length + tolerance + 1).count().abs_diff(length) <= tolerance)
        .map(|name| (strsim::damerau_levenshtein(&wanted, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name.as_str())
}
