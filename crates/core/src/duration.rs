//! Lengths of time in configurations.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// Reads a time such as `"10s"` or `"2m"`, for `deserialize_with`.
///
/// # Errors
/// What is no time, or zero.
pub fn time_above_zero<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(d)?;
    match humantime::parse_duration(&text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err(de::Error::custom(format!("{text:?} is not a time above zero, such as \"10s\" or \"2m\""))),
    }
}
