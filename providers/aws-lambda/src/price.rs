//! What Lambda bills: a request, and memory by time.

use std::time::Duration;

use outboard_core::{
    NanoUsd,
    error::{Error, ErrorKind, Result},
    provider::PriceModel,
};
use outboard_protocol::inline::ALLOWANCE;

use crate::{Architecture, Config};

/// Prices of a GB-second in tenths of a billionth of a dollar: x86_64, arm64. Those of the first tier: more is never asked.
const PRICES: [(&str, u64, u64); 1] = [("us-east-1", 166_667, 133_334)];
const AS_OF: &str = "2026-08";
const SOURCE: &str = "aws.amazon.com/lambda/pricing, first tier";
/// A request, in billionths of a dollar; the same source.
const PER_REQUEST: NanoUsd = NanoUsd(200);
/// The longest start of a function that counts as one, which is billed too since 2025-08.
pub(crate) const LONGEST_INIT: Duration = Duration::from_secs(10);

/// The price of an invocation in this region.
///
/// # Errors
/// `InvalidConfig` where the region's isn't known.
pub(crate) fn price(config: &Config, region: Option<&str>) -> Result<PriceModel> {
    let at =
        |error: Error, key: &str| error.with_provider("aws-lambda").at("key", format!("providers.aws-lambda.{key}"));
    let (tenths, as_of, source) = match config.usd_per_gb_second {
        Some(NanoUsd::ZERO) => {
            return Err(at(Error::new(ErrorKind::InvalidConfig, "Lambda is not free of charge"), "usd_per_gb_second")
                .hint("remove the key, or set the price of a GB-second"));
        }
        Some(price) => (price.0.saturating_mul(10), "as configured", "providers.aws-lambda.usd_per_gb_second"),
        None => {
            let listed = PRICES.iter().find(|(name, ..)| Some(*name) == region);
            let &(_, x86, arm) = listed.ok_or_else(|| {
                let message = match region {
                    Some(region) => format!("the price of Lambda in the region `{region}` isn't known"),
                    None => "the price of Lambda isn't known, since no region is set".into(),
                };
                let known = PRICES.map(|(name, ..)| name).join(", ");
                at(Error::new(ErrorKind::InvalidConfig, message), "region")
                    .hint(format!("set `usd_per_gb_second` from aws.amazon.com/lambda/pricing; built in are {known}"))
            })?;
            let tenths = match config.architecture {
                Architecture::X86 => x86,
                Architecture::Arm => arm,
            };
            (tenths, AS_OF, SOURCE)
        }
    };
    Ok(PriceModel {
        per_task: PER_REQUEST,
        per_hour: per_hour(tenths, config.memory_mb),
        granularity: Duration::from_millis(1),
        overhead: ALLOWANCE + LONGEST_INIT,
        as_of: as_of.into(),
        ..PriceModel::free(source)
    })
}

/// Of an hour with this memory, rounded up.
fn per_hour(tenths_per_gb_second: u64, memory_mb: u32) -> NanoUsd {
    const SECONDS: u128 = 3600;
    const MB_PER_GB: u128 = 1024;
    let tenths = u128::from(tenths_per_gb_second) * SECONDS * u128::from(memory_mb);
    NanoUsd(u64::try_from(tenths.div_ceil(MB_PER_GB * 10)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_is_awss() {
        let config = Config { memory_mb: 512, ..Config::default() };
        let model = price(&config, Some("us-east-1")).unwrap();
        // 0.0000002 + 512/1024 * 0.662 * 0.0000166667 = 0.0000057166777
        assert_eq!(model.cost(Duration::from_millis(662)), NanoUsd(5717));
        // Each millisecond that began.
        assert_eq!(model.cost(Duration::from_micros(661_001)), NanoUsd(5717));
        assert_eq!((model.as_of.as_str(), model.granularity), ("2026-08", Duration::from_millis(1)));
        let arm = Config { architecture: Architecture::Arm, memory_mb: 1024, ..config };
        let model = price(&arm, Some("us-east-1")).unwrap();
        assert_eq!(model.cost(Duration::from_secs(1)), NanoUsd(200 + 13_334));
        assert_eq!(model.worst(Duration::from_secs(10)), model.cost(Duration::from_secs(10 + 60 + 10)));
    }

    #[test]
    fn an_unknown_price_is_an_error_and_what_is_set_counts() {
        let config = Config::default();
        let error = price(&config, Some("eu-moon-1")).unwrap_err();
        assert_eq!(error.to_string(), "the price of Lambda in the region `eu-moon-1` isn't known");
        assert!(error.advice().unwrap().contains("usd_per_gb_second"));
        assert_eq!(
            price(&config, None).unwrap_err().to_string(),
            "the price of Lambda isn't known, since no region is set"
        );
        let own = Config { usd_per_gb_second: Some(NanoUsd(20_000)), memory_mb: 1024, ..config.clone() };
        let model = price(&own, Some("eu-moon-1")).unwrap();
        assert_eq!((model.per_hour, model.as_of.as_str()), (NanoUsd(72_000_000), "as configured"));
        let free = Config { usd_per_gb_second: Some(NanoUsd::ZERO), ..config };
        assert_eq!(price(&free, Some("us-east-1")).unwrap_err().to_string(), "Lambda is not free of charge");
    }
}
