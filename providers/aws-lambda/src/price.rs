//! What Lambda bills: a request, and memory by time.

use std::time::Duration;

use outboard_core::{
    NanoUsd,
    error::{Error, ErrorKind, Result},
    provider::PriceModel,
};
use outboard_protocol::inline::ALLOWANCE;

use crate::{Architecture, Config};

/// What AWS charges in a region, in the first tier of use: more is never asked.
struct Listed {
    region: &'static str,
    /// A GB-second on x86_64, in tenths of a billionth of a dollar.
    x86: u64,
    /// The same on arm64.
    arm: u64,
    /// A request, in billionths of a dollar.
    request: u64,
    /// When it was so.
    as_of: &'static str,
}

const fn listed(region: &'static str, x86: u64, arm: u64, request: u64, as_of: &'static str) -> Listed {
    Listed { region, x86, arm, request, as_of }
}

/// AWS's price list as it was published that day.
const LIST: &str = "2026-09-19";
/// AWS's calculator, whose file of prices was read that day or later; nobody has compared it since.
const CALCULATOR: &str = "2024-11-22";

/// A region is here when a source confirms all of its row.
const PRICES: [Listed; 24] = [
    listed("af-south-1", 221_000, 176_800, 270, CALCULATOR),
    listed("ap-east-1", 229_200, 183_000, 280, CALCULATOR),
    listed("ap-northeast-1", 166_667, 133_334, 200, LIST),
    listed("ap-northeast-2", 166_667, 133_334, 200, CALCULATOR),
    listed("ap-northeast-3", 166_667, 133_334, 200, CALCULATOR),
    listed("ap-south-1", 166_667, 133_334, 200, LIST),
    listed("ap-southeast-1", 166_667, 133_334, 200, LIST),
    listed("ap-southeast-2", 166_667, 133_334, 200, CALCULATOR),
    listed("ap-southeast-4", 166_667, 133_334, 200, CALCULATOR),
    listed("ap-southeast-5", 150_000, 120_000, 180, CALCULATOR),
    listed("ca-central-1", 166_667, 133_334, 200, CALCULATOR),
    listed("eu-central-1", 166_667, 133_334, 200, LIST),
    listed("eu-central-2", 183_334, 146_667, 220, CALCULATOR),
    listed("eu-north-1", 166_667, 133_334, 200, LIST),
    listed("eu-south-1", 195_172, 156_138, 230, CALCULATOR),
    listed("eu-west-1", 166_667, 133_334, 200, LIST),
    listed("eu-west-2", 166_667, 133_334, 200, CALCULATOR),
    listed("eu-west-3", 166_667, 133_334, 200, CALCULATOR),
    listed("me-south-1", 206_667, 165_334, 250, CALCULATOR),
    listed("sa-east-1", 166_667, 133_334, 200, CALCULATOR),
    listed("us-east-1", 166_667, 133_334, 200, LIST),
    listed("us-east-2", 166_667, 133_334, 200, CALCULATOR),
    listed("us-west-1", 166_667, 133_334, 200, CALCULATOR),
    listed("us-west-2", 166_667, 133_334, 200, CALCULATOR),
];

impl Listed {
    fn source(&self) -> &'static str {
        match self.as_of {
            LIST => "AWS's price list, offer AWSLambda, first tier",
            _ => "calculator.aws/pricing/2.0/meteredUnitMaps/lambda/USD/current/lambda.json, first tier",
        }
    }
}

/// The dearest request there is, for a region that the list doesn't know.
const DEAREST_REQUEST: u64 = 280;
/// The longest start of a function that counts as one, which is billed too since 2025-08.
pub(crate) const LONGEST_INIT: Duration = Duration::from_secs(10);

/// The price of an invocation in this region.
///
/// # Errors
/// `InvalidConfig` where the region's isn't known.
pub(crate) fn price(config: &Config, region: Option<&str>) -> Result<PriceModel> {
    let at =
        |error: Error, key: &str| error.with_provider("aws-lambda").at("key", format!("providers.aws-lambda.{key}"));
    let listed = PRICES.iter().find(|listed| Some(listed.region) == region);
    let (tenths, as_of, source) = match config.usd_per_gb_second {
        Some(NanoUsd::ZERO) => {
            return Err(at(Error::new(ErrorKind::InvalidConfig, "Lambda is not free of charge"), "usd_per_gb_second")
                .hint("remove the key, or set the price of a GB-second"));
        }
        Some(price) => (price.0.saturating_mul(10), "as configured", "providers.aws-lambda.usd_per_gb_second"),
        None => {
            let listed = listed.ok_or_else(|| {
                let message = match region {
                    Some(region) => format!("the price of Lambda in the region `{region}` isn't known"),
                    None => "the price of Lambda isn't known, since no region is set".into(),
                };
                let known = PRICES.each_ref().map(|listed| listed.region).join(", ");
                at(Error::new(ErrorKind::InvalidConfig, message), "region")
                    .hint(format!("set `usd_per_gb_second` from aws.amazon.com/lambda/pricing; built in are {known}"))
            })?;
            let tenths = match config.architecture {
                Architecture::X86 => listed.x86,
                Architecture::Arm => listed.arm,
            };
            (tenths, listed.as_of, listed.source())
        }
    };
    Ok(PriceModel {
        per_task: NanoUsd(listed.map_or(DEAREST_REQUEST, |listed| listed.request)),
        per_hour: per_hour(tenths, config.memory_mb),
        granularity: Duration::from_millis(1),
        overhead: ALLOWANCE + LONGEST_INIT,
        as_of: as_of.into(),
        source: source.into(),
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
        assert_eq!((model.as_of.as_str(), model.granularity), (LIST, Duration::from_millis(1)));
        let arm = Config { architecture: Architecture::Arm, memory_mb: 1024, ..config };
        let model = price(&arm, Some("us-east-1")).unwrap();
        assert_eq!(model.cost(Duration::from_secs(1)), NanoUsd(200 + 13_334));
        assert_eq!(model.worst(Duration::from_secs(10)), model.cost(Duration::from_secs(10 + 60 + 10)));
    }

    #[test]
    fn regions_differ_and_the_table_is_in_order() {
        let config = Config { memory_mb: 1024, ..Config::default() };
        let model = |region: &str| price(&config, Some(region)).unwrap();
        let zurich = model("eu-central-2");
        assert_eq!(zurich.cost(Duration::from_secs(10)), NanoUsd(220 + 183_334));
        assert_eq!((zurich.as_of.as_str(), zurich.source.contains("calculator.aws")), (CALCULATOR, true));
        assert!(PRICES.is_sorted_by(|one, next| one.region < next.region));
        for listed in &PRICES {
            assert!(listed.arm < listed.x86 && listed.request <= DEAREST_REQUEST, "{}", listed.region);
        }
        // Where only the GB-second is known, a request is taken for the dearest.
        let own = Config { usd_per_gb_second: Some(NanoUsd(20_000)), ..config };
        assert_eq!(price(&own, Some("eu-moon-1")).unwrap().per_task, NanoUsd(DEAREST_REQUEST));
        assert_eq!(price(&own, Some("us-east-1")).unwrap().per_task, NanoUsd(200));
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
