//! Claims: bytes to tuples.

use nvdra_core::claim;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::to_python;
use crate::without_lock;

type Given = (
    String,
    String,
    String,
    String,
    bool,
    Option<String>,
    Vec<(String, String)>,
);
type Config<'py> = (String, Vec<String>, Option<String>, Bound<'py, PyBytes>);
type Allocation<'py> = (Vec<Given>, Vec<Config<'py>>);

fn allocation(py: Python<'_>, allocation: claim::Allocation) -> Allocation<'_> {
    let results = allocation
        .results
        .into_iter()
        .map(|given| {
            (
                given.request,
                given.driver,
                given.pool,
                given.device,
                given.admin_access,
                given.share_id,
                given.consumed_capacity,
            )
        })
        .collect();
    let configs = allocation
        .configs
        .into_iter()
        .map(|config| {
            (
                config.source,
                config.requests,
                config.driver,
                PyBytes::new(py, config.parameters.as_bytes()),
            )
        })
        .collect();
    (results, configs)
}

type Claim<'py> = (
    String,
    String,
    String,
    Vec<Given>,
    Vec<Config<'py>>,
    Bound<'py, PyBytes>,
);

#[pyfunction]
pub fn decode_claim<'py>(py: Python<'py>, body: &[u8]) -> PyResult<Claim<'py>> {
    let claim = without_lock(py, body.len(), || claim::decode(body))
        .map_err(|error| to_python(py, &error))?;
    let (results, configs) = allocation(py, claim.allocation);
    let status = PyBytes::new(py, claim.status.as_bytes());
    Ok((
        claim.namespace,
        claim.name,
        claim.uid,
        results,
        configs,
        status,
    ))
}

#[pyfunction]
pub fn identify_claim(py: Python<'_>, body: &[u8]) -> Option<(String, String, String)> {
    without_lock(py, body.len(), || claim::identify(body))
}

#[pyfunction]
pub fn decode_status<'py>(py: Python<'py>, status: &[u8]) -> PyResult<Allocation<'py>> {
    let decoded = without_lock(py, status.len(), || claim::decode_status(status))
        .map_err(|error| to_python(py, &error))?;
    Ok(allocation(py, decoded))
}
