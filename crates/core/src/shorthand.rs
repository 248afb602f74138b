//! `"adam"` as a short form of `{ type = "adam" }`, for enums tagged by `type`.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        MapAccess, Visitor,
        value::{MapAccessDeserializer, MapDeserializer},
    },
};

/// Reads a table with a `type` key, or just the type's name where every other key has a default.
/// To be named in `#[serde(deserialize_with)]`.
///
/// # Errors
/// Whatever `T` refuses.
pub fn deserialize<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct NameOrTable<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for NameOrTable<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a name, or a table with the key `type`")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<T, E> {
            T::deserialize(MapDeserializer::new([("type", name)].into_iter()))
        }

        fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(table))
        }
    }

    d.deserialize_any(NameOrTable(PhantomData))
}
