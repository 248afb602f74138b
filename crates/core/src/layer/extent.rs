//! One size for height and width, or one for each.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, Visitor},
};

/// Sizes along height and width. In a job file a single number stands for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Along the height.
    pub height: usize,
    /// Along the width.
    pub width: usize,
}

impl Extent {
    /// The same for both.
    #[must_use]
    pub fn square(size: usize) -> Self {
        Self { height: size, width: size }
    }

    pub(super) fn one() -> Self {
        Self::square(1)
    }

    pub(super) fn is_one(&self) -> bool {
        *self == Self::one()
    }

    /// Height, then width.
    #[must_use]
    pub fn sides(self) -> [usize; 2] {
        [self.height, self.width]
    }
}

impl Serialize for Extent {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.sides() {
            [height, width] if height == width => height.serialize(s),
            sides => sides.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Extent {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct NumberOrPair;

        impl<'de> Visitor<'de> for NumberOrPair {
            type Value = Extent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or [height, width]")
            }

            fn visit_u64<E: de::Error>(self, size: u64) -> Result<Extent, E> {
                let size =
                    usize::try_from(size).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(size), &self))?;
                Ok(Extent::square(size))
            }

            fn visit_i64<E: de::Error>(self, size: i64) -> Result<Extent, E> {
                let size = usize::try_from(size).map_err(|_| E::invalid_value(de::Unexpected::Signed(size), &self))?;
                Ok(Extent::square(size))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Extent, A::Error> {
                let mut length = 0;
                let mut sides = [0; 2];
                while let Some(side) = list.next_element()? {
                    if let Some(place) = sides.get_mut(length) {
                        *place = side;
                    }
                    length += 1;
                }
                match (length, sides) {
                    (2, [height, width]) => Ok(Extent { height, width }),
                    _ => Err(de::Error::invalid_length(length, &self)),
                }
            }
        }

        d.deserialize_any(NumberOrPair)
    }
}
