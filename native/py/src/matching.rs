//! Configs for results: tuples to indices.

use nvdra_core::matching::{self, Config, Given, Mismatch};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

/// An index for each result, or why the first one without has none: the config that was named for it, and a text.
#[derive(IntoPyObject)]
pub enum Matched {
    Indices(Vec<usize>),
    Mismatch((Option<usize>, String)),
}

#[pyfunction]
pub fn match_configs(
    results: Vec<(PyBackedStr, PyBackedStr, PyBackedStr)>,
    configs: Vec<(Vec<PyBackedStr>, PyBackedStr)>,
) -> Matched {
    let configs: Vec<Config<'_, PyBackedStr>> = configs
        .iter()
        .map(|(requests, kind)| Config { requests, kind })
        .collect();
    let indices = results.iter().map(|(request, device, device_kind)| {
        let given = Given {
            request,
            device,
            device_kind,
        };
        matching::config_for(given, &configs)
    });
    match indices.collect() {
        Ok(indices) => Matched::Indices(indices),
        Err(Mismatch { config, text }) => Matched::Mismatch((config, text)),
    }
}
