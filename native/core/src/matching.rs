//! Selects the config of each allocation result, by one rule.
//!
//! The last matching entry wins, so the list starts with defaults, then class configs, then claim configs. An entry that
//! names the result's request must fit its device. An entry without requests applies to every device that it fits. The
//! name of a main request also covers its subrequests, if the entry fits.

/// A device given to a request: the request's name ("req" or "req/sub"), the device's name and its type.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    pub request: &'a str,
    pub device: &'a str,
    pub device_kind: &'a str,
}

/// A config entry: the requests it names (none: all) and its kind.
#[derive(Debug, Clone, Copy)]
pub struct Config<'a, T> {
    pub requests: &'a [T],
    pub kind: &'a str,
}

impl<T: AsRef<str>> Config<'_, T> {
    fn names(&self, request: &str) -> bool {
        self.requests.iter().any(|named| named.as_ref() == request)
    }
}

/// Why a result has no config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The entry that names the request but does not fit; None if no entry applies at all.
    pub config: Option<usize>,
    pub text: String,
}

fn fits(config_kind: &str, device_kind: &str) -> bool {
    match config_kind {
        "GpuConfig" => device_kind == "gpu",
        "MigDeviceConfig" => matches!(device_kind, "mig" | "migdyn"),
        "VfioDeviceConfig" => device_kind == "vfio",
        _ => false,
    }
}

/// The index of the config for `given`.
pub fn config_for<T: AsRef<str>>(
    given: Given<'_>,
    configs: &[Config<'_, T>],
) -> Result<usize, Mismatch> {
    let Given {
        request,
        device,
        device_kind,
    } = given;
    let main = request.split_once('/').map(|(main, _)| main);
    for (index, config) in configs.iter().enumerate().rev() {
        if config.names(request) {
            if fits(config.kind, device_kind) {
                return Ok(index);
            }
            let text = format!(
                "cannot apply {} to device \"{device}\" of type \"{device_kind}\" (request: {request})",
                config.kind
            );
            return Err(Mismatch {
                config: Some(index),
                text,
            });
        }
        // A main request may have been given any of its subrequests' device types: where the entry does not fit, it was
        // meant for another one.
        let covers = config.requests.is_empty() || main.is_some_and(|main| config.names(main));
        if covers && fits(config.kind, device_kind) {
            return Ok(index);
        }
    }
    let text = format!(
        "no config applies to device \"{device}\" of type \"{device_kind}\" (request: {request})"
    );
    Err(Mismatch { config: None, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config<'a>(requests: &'a [&'a str], kind: &'a str) -> Config<'a, &'a str> {
        Config { requests, kind }
    }

    fn given<'a>(request: &'a str, device_kind: &'a str) -> Given<'a> {
        Given {
            request,
            device: "gpu-0",
            device_kind,
        }
    }

    #[test]
    fn later_beats_earlier_and_a_name_does_not_outrank_a_later_wildcard() {
        let configs = [
            config(&[], "GpuConfig"),
            config(&["a"], "GpuConfig"),
            config(&[], "GpuConfig"),
        ];
        assert_eq!(config_for(given("a", "gpu"), &configs), Ok(2));
        assert_eq!(config_for(given("a", "gpu"), &configs[..2]), Ok(1));
        assert_eq!(config_for(given("b", "gpu"), &configs[..2]), Ok(0));
    }

    #[test]
    fn a_wildcard_that_does_not_fit_is_passed_by() {
        let configs = [
            config(&[], "GpuConfig"),
            config(&[], "MigDeviceConfig"),
            config(&[], "VfioDeviceConfig"),
        ];
        for (kind, index) in [("gpu", 0), ("mig", 1), ("migdyn", 1), ("vfio", 2)] {
            assert_eq!(config_for(given("a", kind), &configs), Ok(index));
        }
        assert_eq!(
            config_for(given("a", "unknown"), &configs)
                .unwrap_err()
                .config,
            None
        );
    }

    #[test]
    fn a_named_config_must_fit() {
        let configs = [config(&[], "GpuConfig"), config(&["a"], "MigDeviceConfig")];
        let mismatch = config_for(given("a", "gpu"), &configs).unwrap_err();
        assert_eq!(
            mismatch.text,
            "cannot apply MigDeviceConfig to device \"gpu-0\" of type \"gpu\" (request: a)"
        );
        assert_eq!(mismatch.config, Some(1));
    }

    #[test]
    fn a_main_request_covers_its_subrequests_where_it_fits() {
        let configs = [
            config(&[], "GpuConfig"),
            config(&[], "MigDeviceConfig"),
            config(&["a"], "GpuConfig"),
        ];
        assert_eq!(config_for(given("a/large", "gpu"), &configs), Ok(2));
        assert_eq!(config_for(given("a/slice", "mig"), &configs), Ok(1));
        assert_eq!(config_for(given("ab/large", "gpu"), &configs), Ok(0));
        let exact = [
            config(&[], "GpuConfig"),
            config(&["a/large"], "MigDeviceConfig"),
        ];
        assert!(config_for(given("a/large", "gpu"), &exact).is_err());
    }
}
