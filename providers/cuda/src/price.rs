//! What a device costs: as configured, or as its power does.

use outboard_core::{NanoUsd, provider::PriceModel};

use crate::{Config, gpu::Gpu};

/// The price of one device for an hour. `gpus` are those that may run a task: the thirstiest counts.
///
/// # Errors
/// What is missing, in words, where a kilowatt-hour has a price and nobody knows what a device draws.
pub(crate) fn price(config: &Config, gpus: &[Gpu]) -> Result<PriceModel, String> {
    if config.usd_per_hour != NanoUsd::ZERO {
        let source = "providers.cuda.usd_per_hour".into();
        return Ok(PriceModel { per_hour: config.usd_per_hour, as_of: "as configured".into(), ..free(source) });
    }
    if config.usd_per_kwh == NanoUsd::ZERO {
        return Ok(free("your own machine; its power has no price (providers.cuda.usd_per_kwh)".into()));
    }
    let known = gpus.iter().map(|gpu| gpu.power_limit_watts.map(|watts| watts.ceil() as u32));
    let drawn = known.collect::<Option<Vec<_>>>().and_then(|watts| watts.into_iter().max());
    let watts = match (config.watts, drawn) {
        (0, Some(watts)) => watts,
        (0, None) => return Err("the driver doesn't say what the GPU draws: set `providers.cuda.watts`".into()),
        (watts, _) => watts,
    };
    let nanos = u128::from(config.usd_per_kwh.0) * u128::from(watts);
    let per_hour = NanoUsd(u64::try_from(nanos.div_ceil(1000)).unwrap_or(u64::MAX));
    let source = format!("{watts} W at providers.cuda.usd_per_kwh");
    Ok(PriceModel { per_hour, as_of: "as configured".into(), ..free(source) })
}

fn free(source: String) -> PriceModel {
    PriceModel::free(&source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(watts: Option<f64>) -> Gpu {
        Gpu {
            name: "GPU".into(),
            uuid: "GPU-1".into(),
            memory_bytes: 1,
            free_bytes: 1,
            power_limit_watts: watts,
            capability: None,
        }
    }

    #[test]
    fn power_costs_what_the_thirstiest_device_may_draw() {
        let config = Config { usd_per_kwh: NanoUsd(333_333_333), ..Config::default() };
        let price = price(&config, &[gpu(Some(72.5)), gpu(Some(349.2))]).unwrap();
        assert_eq!(price.per_hour, NanoUsd(116_666_667));
        assert_eq!(price.source, "350 W at providers.cuda.usd_per_kwh");
        let set = Config { watts: 100, ..config };
        assert_eq!(super::price(&set, &[gpu(None)]).unwrap().per_hour, NanoUsd(33_333_334));
    }

    #[test]
    fn what_is_not_known_is_not_free() {
        let config = Config { usd_per_kwh: NanoUsd(1), ..Config::default() };
        for gpus in [vec![], vec![gpu(None)]] {
            assert_eq!(
                price(&config, &gpus).unwrap_err(),
                "the driver doesn't say what the GPU draws: set `providers.cuda.watts`"
            );
        }
        assert!(price(&Config::default(), &[]).unwrap().is_free());
        let set = Config { usd_per_hour: NanoUsd(7), ..config };
        assert_eq!(price(&set, &[]).unwrap().per_hour, NanoUsd(7));
    }
}
