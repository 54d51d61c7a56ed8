//! `nvdra._core`: a table of contents over `nvdra-core`. One module function per job, no logic of its own.

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

create_exception!(_core, CoreError, PyValueError, "Input that the native core refuses; `kind` tells which way.");

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("CoreError", module.py().get_type::<CoreError>())?;
    Ok(())
}
