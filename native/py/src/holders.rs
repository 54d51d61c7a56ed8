//! Holders of devices: a path and device numbers to tuples.

use std::path::PathBuf;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

/// Holders as process id and index of the device; processes looked at; those of them that cannot be read.
type Found = (Vec<(u32, usize)>, usize, usize);

#[pyfunction]
pub fn find_holders(py: Python<'_>, proc: PathBuf, devices: Vec<(u32, u32)>) -> PyResult<Found> {
    match py.detach(|| nvdra_procfs::find_holders(&proc, &devices)) {
        Ok(scan) => Ok((scan.holders, scan.processes, scan.unreadable)),
        Err(error) => Err(PyOSError::new_err((
            error.raw_os_error(),
            error.kind().to_string(),
            proc,
        ))),
    }
}
