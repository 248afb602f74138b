//! What RunPod bills.

use outboard_core::{
    NanoUsd, code,
    error::{Error, ErrorKind, Result},
    provider::PriceModel,
};
use std::time::Duration;

use crate::{Config, catalogue::Catalogue};

/// Flex price of a worker in billionths of a dollar per second and GPU, from RunPod's documentation.
const PRICES: [(&[&str], u64); 11] = [
    (&["A4000", "A4500", "RTX 4000", "RTX A4000", "RTX A4500"], 160_000),
    (&["L4", "A5000", "RTX A5000", "3090", "RTX 3090"], 190_000),
    (&["4090", "RTX 4090"], 310_000),
    (&["A6000", "RTX A6000", "A40"], 340_000),
    (&["L40", "L40S", "6000 Ada", "RTX 6000 Ada"], 530_000),
    (&["A100", "A100 80GB PCIe", "A100-SXM4-80GB"], 760_000),
    (&["RTX 6000 PRO", "RTX PRO 6000"], 1_110_000),
    (&["H100", "H100 PCIe", "H100 NVL", "H100 80GB HBM3"], 1_160_000),
    (&["H200"], 1_550_000),
    (&["B200"], 2_400_000),
    // Two names of one card in RunPod's catalogue.
    (&["RTX 4000 Ada", "RTX 4000 Ada Generation"], 160_000),
];
const AS_OF: &str = "2026-08-20";
const SOURCE: &str = "docs.runpod.io/serverless/pricing, flex workers";
const CATALOGUE: &str = "RunPod's catalogue, serverless workers";

/// What an hour costs, by the price of a second.
fn hour(second: u64) -> u64 {
    second.saturating_mul(3600)
}

/// A GPU's name as it is compared.
pub(crate) fn plain(name: &str) -> String {
    name.to_lowercase().replace("nvidia ", "").replace("geforce ", "").trim().to_string()
}

/// The price of a GPU per second, if the list has it.
fn listed(gpu: &str) -> Option<u64> {
    let wanted = plain(gpu);
    PRICES.iter().find(|(names, _)| names.iter().any(|name| plain(name) == wanted)).map(|(_, price)| *price)
}

/// What the dearest of the endpoints costs: nobody knows beforehand which one a task gets.
///
/// # Errors
/// `InvalidConfig` where the price of a GPU isn't known.
pub(crate) fn price(config: &Config, catalogue: Option<&Catalogue>) -> Result<PriceModel> {
    let (per_hour, as_of, source) = match config.usd_per_second {
        Some(price) if price > NanoUsd::ZERO => {
            (hour(price.0), "as configured".into(), "providers.runpod.usd_per_second")
        }
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidConfig, "RunPod is not free of charge")
                .at("key", "providers.runpod.usd_per_second")
                .hint("remove the key, or set the price of a second"));
        }
        None => {
            let current = |gpu: &str| Some((catalogue?.hour(gpu, plain)?, catalogue?.day(), CATALOGUE));
            let listed = |gpu: &str| Some((hour(listed(gpu)?), AS_OF.to_string(), SOURCE));
            let price = |gpu: &str| current(gpu).or_else(|| listed(gpu));
            let prices = config.endpoints.iter().map(|endpoint| price(&endpoint.gpu).ok_or(endpoint));
            let prices = prices.collect::<Result<Vec<_>, _>>().map_err(|endpoint| {
                let known: Vec<_> = PRICES.iter().filter_map(|(names, _)| names.first().copied()).collect();
                Error::new(ErrorKind::InvalidConfig, format!("the price of the GPU `{}` isn't known", endpoint.gpu))
                    .or_code(code::PRICE)
                    .with_provider("runpod")
                    .at("endpoint", &endpoint.id)
                    .hint(format!("set `providers.runpod.usd_per_second`, or `gpu` to one of {}", known.join(", ")))
            })?;
            prices.into_iter().max().unwrap_or_default()
        }
    };
    Ok(PriceModel {
        per_hour: NanoUsd(per_hour),
        granularity: Duration::from_secs(1),
        overhead: config.start_time + config.transfer_time + config.idle_timeout,
        as_of,
        ..PriceModel::free(source)
    })
}

/// The time that RunPod bills for a job: the start of its worker, which is part of the delay, the execution, and the
/// idle time-out after it, unless another job follows. At most: where the worker was warm or is used again, it is less.
pub(crate) fn billed(config: &Config, delay: Duration, execution: Duration) -> Duration {
    delay.min(config.start_time) + execution + config.idle_timeout
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EndpointConfig;

    fn config(gpus: &[&str]) -> Config {
        let endpoint = |gpu: &&str| EndpointConfig { id: "e".into(), gpu: (*gpu).into(), weight: 1 };
        Config { endpoints: gpus.iter().map(endpoint).collect(), ..Config::default() }
    }

    #[test]
    fn the_dearest_endpoint_counts_and_seconds_round_up() {
        let model = price(&config(&["L4", "nvidia GeForce RTX 4090"]), None).unwrap();
        assert_eq!(model.per_hour, NanoUsd(1_116_000_000));
        assert_eq!(model.cost(Duration::from_millis(1001)), NanoUsd(620_000));
        assert_eq!(model.worst(Duration::from_secs(10)), NanoUsd(310_000 * (10 + 60 + 60 + 5)));
        assert_eq!(model.as_of, "2026-08-20");
    }

    #[test]
    fn the_catalogue_goes_before_the_list() {
        let catalogue: Catalogue = serde_json::from_value(serde_json::json!({
            "at": 1_772_323_200_000_u64, "gpus": [[["NVIDIA GeForce RTX 4090", "RTX 4090"], 1_200_000_000]],
        }))
        .unwrap();
        let price = |gpus: &[&str]| super::price(&config(gpus), Some(&catalogue)).unwrap();
        let model = price(&["rtx 4090"]);
        assert_eq!((model.per_hour, model.as_of.as_str()), (NanoUsd(1_200_000_000), "2026-03-01"));
        assert_eq!(price(&["L4"]).as_of, AS_OF, "it isn't in the catalogue");
        assert_eq!(price(&["L4", "RTX 4090"]).per_hour, NanoUsd(1_200_000_000));
    }

    #[test]
    fn an_unknown_price_is_an_error_and_what_is_set_counts() {
        let error = price(&config(&["L4", "RTX 9090"]), None).unwrap_err();
        assert_eq!(error.to_string(), "the price of the GPU `RTX 9090` isn't known");
        assert!(error.advice().unwrap().contains("usd_per_second"));
        let own = Config { usd_per_second: Some(NanoUsd(5)), ..config(&["RTX 9090"]) };
        let model = price(&own, None).unwrap();
        assert_eq!((model.per_hour, model.as_of.as_str()), (NanoUsd(18_000), "as configured"));
        let free = Config { usd_per_second: Some(NanoUsd::ZERO), ..config(&["L4"]) };
        assert_eq!(price(&free, None).unwrap_err().to_string(), "RunPod is not free of charge");
    }

    #[test]
    fn what_is_billed_covers_start_execution_and_idle_tail() {
        let seconds = Duration::from_secs;
        assert_eq!(billed(&Config::default(), seconds(3), seconds(10)), seconds(18));
        assert_eq!(billed(&Config::default(), seconds(900), seconds(10)), seconds(75));
    }
}
