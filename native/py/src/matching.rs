//! Configs for results: tuples to indices.

use nvdra_core::matching::{self, Config, Given};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

/// An index, or why there is none: the config that was named for the request, and a text.
#[derive(IntoPyObject)]
pub enum Match {
    Index(usize),
    Mismatch((Option<usize>, String)),
}

#[pyfunction]
pub fn match_configs(
    results: Vec<(PyBackedStr, PyBackedStr, PyBackedStr)>,
    configs: Vec<(Vec<PyBackedStr>, PyBackedStr)>,
) -> Vec<Match> {
    let configs: Vec<Config<'_>> = configs
        .iter()
        .map(|(requests, kind)| Config {
            requests: requests.iter().map(|request| &**request).collect(),
            kind,
        })
        .collect();
    results
        .iter()
        .map(|(request, device, device_kind)| {
            match matching::config_for(
                Given {
                    request,
                    device,
                    device_kind,
                },
                &configs,
            ) {
                Ok(index) => Match::Index(index),
                Err(mismatch) => Match::Mismatch((mismatch.config, mismatch.text)),
            }
        })
        .collect()
}
