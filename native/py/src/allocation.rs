//! The allocation engine: objects of the API in, explanations out. Runs without the interpreter lock.

use std::collections::BTreeMap;

use nvdra_alloc::{cluster, profile};
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

create_exception!(
    _core,
    AllocationError,
    PyValueError,
    "Objects or questions that the allocation engine refuses."
);

#[pyclass(module = "nvdra._core")]
pub struct Cluster(cluster::Cluster);

#[pymethods]
impl Cluster {
    #[new]
    fn new(release: &str, gates: Vec<(String, bool)>) -> PyResult<Cluster> {
        cluster::Cluster::new(release, &gates)
            .map(Cluster)
            .map_err(AllocationError::new_err)
    }

    fn add(&mut self, py: Python<'_>, document: &[u8]) -> PyResult<BTreeMap<String, usize>> {
        py.detach(|| self.0.add(document))
            .map_err(AllocationError::new_err)
    }

    fn add_file(
        &mut self,
        py: Python<'_>,
        path: std::path::PathBuf,
    ) -> PyResult<BTreeMap<String, usize>> {
        py.detach(|| self.0.add_file(&path))
            .map_err(AllocationError::new_err)
    }

    fn notes(&self) -> Vec<String> {
        self.0.notes().to_vec()
    }

    fn pending(&self) -> Vec<String> {
        self.0.pending()
    }

    fn lint(&mut self, py: Python<'_>, claim: &str) -> PyResult<String> {
        py.detach(|| self.0.lint(claim).map(|answer| answer.to_string()))
            .map_err(AllocationError::new_err)
    }

    #[pyo3(signature = (name, node=None))]
    fn explain(&mut self, py: Python<'_>, name: &str, node: Option<&str>) -> PyResult<String> {
        py.detach(|| self.0.explain(name, node).map(|answer| answer.to_string()))
            .map_err(AllocationError::new_err)
    }
}

#[pyfunction]
pub fn allocation_releases() -> Vec<&'static str> {
    profile::RELEASES.to_vec()
}
