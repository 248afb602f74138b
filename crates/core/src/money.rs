//! Money as whole nano-dollars, rounded up.

use std::{fmt, iter::Sum, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};

/// An amount in billionths of a US dollar. Never negative; conversions round up, so a sum is never too small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NanoUsd(pub u64);

const NANOS_PER_USD: u64 = 1_000_000_000;

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum, or `None` past 18 billion dollars.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, zero where `other` is larger.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Dollars, for display and JSON only: a float is never computed with.
    #[must_use]
    pub fn as_usd(self) -> f64 {
        self.0 as f64 / NANOS_PER_USD as f64
    }
}

impl Sum for NanoUsd {
    /// Saturates: a total that doesn't fit is larger than any budget.
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, |total, next| Self(total.0.saturating_add(next.0)))
    }
}

/// `$0.00`, with as many decimals as the amount needs beyond two.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!("{:09}", self.0 % NANOS_PER_USD);
        let kept = decimals.trim_end_matches('0').len().max(2);
        write!(f, "${}.{}", self.0 / NANOS_PER_USD, &decimals[..kept])
    }
}

/// Reads decimal dollars exactly (`"0.5"`, `"1e-7"` is refused); digits past the ninth round up.
impl FromStr for NanoUsd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an amount in US dollars, such as 0.50");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) {
            return Err(wrong());
        }
        let (kept, rest) = fraction.split_at(fraction.len().min(9));
        let nanos: u64 = format!("{kept:0<9}").parse().map_err(|_| wrong())?;
        let up = u64::from(rest.bytes().any(|b| b != b'0'));
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        whole
            .checked_mul(NANOS_PER_USD)
            .and_then(|w| w.checked_add(nanos + up))
            .map(Self)
            .ok_or_else(|| format!("`{text}` dollars are more than an account can hold"))
    }
}

/// Reads an amount written in US dollars, as a number or as a string.
///
/// # Errors
/// A value that is negative, not finite or not a number.
pub fn deserialize_usd<'de, D: Deserializer<'de>>(d: D) -> Result<Option<NanoUsd>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an amount in US dollars, such as 0.50")]
    enum Usd {
        Whole(u64),
        Number(f64),
        Text(String),
    }
    let text = match Usd::deserialize(d)? {
        Usd::Whole(n) => n.to_string(),
        // The shortest decimal that reads back as this float is what the user wrote.
        Usd::Number(x) => format!("{x}"),
        Usd::Text(s) => s,
    };
    text.parse().map(Some).map_err(de::Error::custom)
}

/// As [`deserialize_usd`], for a key that always has an amount.
///
/// # Errors
/// As [`deserialize_usd`].
pub fn deserialize_amount<'de, D: Deserializer<'de>>(d: D) -> Result<NanoUsd, D::Error> {
    deserialize_usd(d).map(Option::unwrap_or_default)
}

/// Writes an amount as a string of US dollars, which [`deserialize_usd`] reads back exactly.
///
/// # Errors
/// None of its own.
pub fn serialize_usd<S: serde::Serializer>(amount: &Option<NanoUsd>, s: S) -> Result<S::Ok, S::Error> {
    match amount {
        Some(amount) => s.serialize_str(amount.to_string().trim_start_matches('$')),
        None => s.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_are_exact_and_round_up() {
        assert_eq!("0.5".parse(), Ok(NanoUsd(500_000_000)));
        assert_eq!("0.1".parse(), Ok(NanoUsd(100_000_000)));
        assert_eq!("3".parse(), Ok(NanoUsd(3_000_000_000)));
        assert_eq!("0.0000000001".parse(), Ok(NanoUsd(1)));
        assert_eq!("0.0000000010".parse(), Ok(NanoUsd(1)));
        for wrong in ["", "-1", "1e3", "0x1", ".5", "NaN", "99999999999999999999"] {
            assert!(wrong.parse::<NanoUsd>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn shows_at_least_cents() {
        assert_eq!(NanoUsd::ZERO.to_string(), "$0.00");
        assert_eq!(NanoUsd(1_500_000_000).to_string(), "$1.50");
        assert_eq!(NanoUsd(310_000).to_string(), "$0.00031");
    }

    proptest! {
        #[test]
        fn display_reads_back(n in any::<u64>()) {
            let shown = NanoUsd(n).to_string();
            prop_assert_eq!(shown.trim_start_matches('$').parse(), Ok(NanoUsd(n)));
        }
    }
}
