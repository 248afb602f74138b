//! Fits a document to a type, and says in plain words where it doesn't.

use figment::{
    error::{Actual, Error, Kind},
    value::{Dict, Value},
};
use serde::{
    Deserializer,
    de::{
        DeserializeOwned, IntoDeserializer, Visitor,
        value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};

use super::{
    key::{Key, Step, clipped},
    lookup,
    secrets::{is_secret, mask_urls, mentioned},
};
use crate::nearest::{listed, nearest};

/// A place where a document doesn't fit its type.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub(crate) key: Key,
    pub(crate) problem: Problem,
}

#[derive(Debug)]
pub(crate) enum Problem {
    UnknownKey { allowed: &'static [&'static str] },
    Missing,
    Wrong { found: String, must_be: String },
    UnknownName { found: String, written: String, allowed: &'static [&'static str] },
    Other(String),
}

/// Reads a `T` out of `values`.
///
/// # Errors
/// The first misfit.
pub(crate) fn fit<T: DeserializeOwned>(values: &Dict) -> Result<T, Misfit> {
    let root = Value::from(values.clone());
    serde_path_to_error::deserialize(Node(&root)).map_err(|error| {
        use serde_path_to_error::Segment;
        let key = error.path().iter().filter_map(|segment| match segment {
            Segment::Map { key } => Some(Step::Name(key.clone())),
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        Misfit::new(key.collect(), error.into_inner().kind, &root, values)
    })
}

impl Misfit {
    /// serde reads a table with a `type` as a whole before it tells the types apart, so `key` may end at that table.
    fn new(key: Key, kind: Kind, root: &Value, values: &Dict) -> Self {
        let at = |key: &Key| lookup(values, key.steps());
        let inside = |fits: &dyn Fn(&Value) -> bool| innermost(&key, at(&key).unwrap_or(root), fits);
        let wrong = |actual: Actual, must_be: String| {
            let key = inside(&|value| value.to_actual() == actual);
            let problem = match at(&key) {
                Some(value) if is_container(value) && value.to_actual() != actual => {
                    Problem::Other(format!("one of its values must be {must_be}"))
                }
                Some(value) => Problem::Wrong { found: mentioned(&key, value), must_be },
                None => Problem::Wrong { found: actual.to_string(), must_be },
            };
            Self { key, problem }
        };
        match kind {
            Kind::UnknownField(name, allowed) => {
                let key = if key.name() == name { key.clone() } else { key.join(Step::Name(name)) };
                Self { key, problem: Problem::UnknownKey { allowed } }
            }
            Kind::MissingField(name) => {
                Self { key: key.join(Step::Name(name.into_owned())), problem: Problem::Missing }
            }
            Kind::UnknownVariant(name, allowed) => {
                let tag = key.join(Step::Name("type".into()));
                let tagged = at(&tag).and_then(Value::as_str) == Some(&name);
                let key = if tagged { tag } else { inside(&|value| value.as_str() == Some(&name)) };
                let found = at(&key).map_or_else(|| format!("{:?}", clipped(&name)), |value| mentioned(&key, value));
                Self { key, problem: Problem::UnknownName { found, written: name, allowed } }
            }
            Kind::InvalidType(actual, expected) => wrong(actual, in_words(&expected, false)),
            Kind::InvalidValue(actual, expected) => wrong(actual, in_words(&expected, true)),
            Kind::InvalidLength(length, expected) => {
                let key = inside(&|value| value.as_array().is_some_and(|array| array.len() == length));
                let found = format!("a list of {length}");
                Self { key, problem: Problem::Wrong { found, must_be: in_words(&expected, true) } }
            }
            // An untagged enum says only what it expects, as a noun.
            Kind::Message(expected) if expected.starts_with("a ") || expected.starts_with("an ") => {
                let found = mentioned(&key, at(&key).unwrap_or(root));
                Self { key: key.clone(), problem: Problem::Wrong { found, must_be: expected } }
            }
            Kind::Message(message) => Self { key: key.clone(), problem: Problem::Other(message) },
            other => Self { key: key.clone(), problem: Problem::Other(other.to_string()) },
        }
    }

    /// One sentence.
    pub(crate) fn message(&self) -> String {
        let key = &self.key;
        match &self.problem {
            Problem::UnknownKey { .. } => format!("unknown key `{key}`"),
            Problem::Missing => format!("`{key}` is missing"),
            Problem::Wrong { found, must_be } => format!("`{key}` is {found}, but must be {must_be}"),
            Problem::UnknownName { found, allowed, .. } => {
                format!("`{key}` is {found}, but must be {}", one_of(allowed))
            }
            Problem::Other(_) if is_secret(key) => format!("`{key}` has a value that can't be used"),
            Problem::Other(message) if key.steps().is_empty() => mask_urls(message),
            Problem::Other(message) => format!("`{key}`: {}", mask_urls(message)),
        }
    }

    /// What to write instead. `example` gives a line such as `epochs = 20` or a header such as `[train]` for this key.
    pub(crate) fn hint(&self, example: Option<&str>) -> String {
        let (name, parent) = (self.key.name(), self.key.parent());
        match &self.problem {
            Problem::UnknownKey { allowed: [] } => "remove it".into(),
            Problem::UnknownKey { allowed } => match nearest(name, allowed.iter().copied()) {
                Some(meant) => format!("write `{meant}`"),
                None => format!("use one of {}", listed(allowed.iter().copied())),
            },
            Problem::Missing => {
                let what = example.unwrap_or(name);
                match parent.steps() {
                    [] if what.starts_with('[') => format!("add a `{what}` table"),
                    [] => format!("add `{what}`"),
                    [Step::Name(_)] => format!("add `{what}` under `[{parent}]`"),
                    _ => format!("add `{what}` to `{parent}`"),
                }
            }
            Problem::UnknownName { written, allowed, .. } => match nearest(written, allowed.iter().copied()) {
                Some(meant) => format!("write \"{meant}\""),
                None => format!("use {}", one_of(allowed)),
            },
            Problem::Wrong { must_be, .. } => match example {
                Some(example) => format!("write it as in `{example}`"),
                None => format!("set it to {must_be}"),
            },
            Problem::Other(_) => match example {
                Some(example) => format!("write it as in `{example}`"),
                None => "correct the value".into(),
            },
        }
    }
}

fn one_of(names: &[&str]) -> String {
    format!("one of {}", names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "))
}

fn is_container(value: &Value) -> bool {
    matches!(value, Value::Dict(..) | Value::Array(..))
}

/// `key`, or the one value below it that `fits`.
fn innermost(key: &Key, value: &Value, fits: &dyn Fn(&Value) -> bool) -> Key {
    fn search(key: &Key, value: &Value, fits: &dyn Fn(&Value) -> bool, found: &mut Vec<Key>) {
        if fits(value) {
            found.push(key.clone());
        }
        for (name, inner) in value.as_dict().into_iter().flatten() {
            search(&key.join(Step::Name(name.clone())), inner, fits, found);
        }
        for (index, inner) in value.as_array().into_iter().flatten().enumerate() {
            search(&key.join(Step::Index(index)), inner, fits, found);
        }
    }
    let mut found = Vec::new();
    if !fits(value) {
        search(key, value, fits, &mut found);
    }
    match <[Key; 1]>::try_from(found) {
        Ok([only]) => only,
        Err(_) => key.clone(),
    }
}

/// What serde expects, in a user's words; with the bounds of a number if it is out of them.
fn in_words(expected: &str, bounds: bool) -> String {
    match expected {
        "u8" if bounds => "a whole number from 0 to 255".into(),
        "u16" if bounds => "a whole number from 0 to 65535".into(),
        "u32" if bounds => "a whole number from 0 to 4294967295".into(),
        "u64" | "usize" if bounds => "a whole number of at least 0".into(),
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "path string" | "a borrowed string" => "text in quotes".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        _ if expected.starts_with("struct ") || expected.contains("tagged enum") => "a table".into(),
        _ => match expected.trim_start_matches("an array of length ").trim_end_matches(" elements in sequence") {
            length if length.bytes().all(|b| b.is_ascii_digit()) => format!("a list of {length}"),
            _ => expected.into(),
        },
    }
}

/// A value to be read. figment's own deserializer takes a number for the name of an enum's variant.
struct Node<'de>(&'de Value);

impl<'de> IntoDeserializer<'de, Error> for Node<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Dict(_, table) => {
                visitor.visit_map(MapDeserializer::new(table.iter().map(|(name, value)| (name.as_str(), Node(value)))))
            }
            Value::Array(_, array) => {
                let mut elements = SeqDeserializer::new(array.iter().map(Node));
                let read = visitor.visit_seq(&mut elements)?;
                elements.end().map(|()| read)
            }
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(_, name) => visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(name.as_str())),
            Value::Dict(_, table) => {
                let table = MapDeserializer::new(table.iter().map(|(name, value)| (name.as_str(), Node(value))));
                visitor.visit_enum(MapAccessDeserializer::new(table))
            }
            other => Err(Kind::InvalidType(other.to_actual(), one_of(variants)).into()),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}
