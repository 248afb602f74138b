//! Where a value lies in a document.

use std::{convert::Infallible, fmt, str::FromStr};

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A key of a table.
    Name(String),
    /// An element of a list.
    Index(usize),
}

/// The way to a value, shown as `model.layers[1].out`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key(Vec<Step>);

impl Key {
    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }

    pub(crate) fn join(&self, step: Step) -> Self {
        Self([self.0.as_slice(), &[step]].concat())
    }

    /// The table or list that holds it.
    pub(crate) fn parent(&self) -> Self {
        Self(self.0.split_last().map(|(_, parent)| parent.to_vec()).unwrap_or_default())
    }

    /// The innermost name.
    pub(crate) fn name(&self) -> &str {
        self.names().next_back().unwrap_or_default()
    }

    pub(crate) fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.iter().filter_map(|step| match step {
            Step::Name(name) => Some(name.as_str()),
            Step::Index(_) => None,
        })
    }

    /// The same for every element of a list: `model.layers.out`.
    pub(crate) fn pattern(&self) -> String {
        self.names().collect::<Vec<_>>().join(".")
    }
}

impl FromIterator<Step> for Key {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self(steps.into_iter().collect())
    }
}

/// Names are separated by dots; none holds one.
impl FromStr for Key {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let steps = text.split('.').flat_map(|part| {
            let mut pieces = part.split('[');
            let name = pieces.next().unwrap_or_default();
            let indices = pieces.filter_map(|index| index.trim_end_matches(']').parse().ok().map(Step::Index));
            std::iter::once(Step::Name(name.to_string())).chain(indices)
        });
        Ok(steps.collect())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Name(name) => {
                    if i > 0 {
                        f.write_str(".")?;
                    }
                    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                    match !name.is_empty() && name.chars().all(bare) {
                        true => f.write_str(&clipped(name))?,
                        false => write!(f, "{:?}", clipped(name))?,
                    }
                }
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// At most 60 characters of `text`.
pub(super) fn clipped(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_shows() {
        for text in ["home", "model.layers[1].out", "a[0][12].b"] {
            assert_eq!(text.parse::<Key>().unwrap().to_string(), text);
        }
        let key: Key = "model.layers[1].out".parse().unwrap();
        assert_eq!((key.name(), key.pattern().as_str()), ("out", "model.layers.out"));
        assert_eq!(key.parent().to_string(), "model.layers[1]");
        let odd: Key = [Step::Name("a b".into()), Step::Name("x".repeat(99))].into_iter().collect();
        assert_eq!(odd.to_string(), format!("\"a b\".{}...", "x".repeat(60)));
    }
}
