//! The one conversion from the core's errors to Python's.

use nvdra_core::error::Error;
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

create_exception!(
    _core,
    CoreError,
    PyValueError,
    "Input that the native core refuses; `kind` tells which way."
);

pub fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let raised = CoreError::new_err(error.text.clone());
    match raised.value(py).setattr("kind", error.kind.name()) {
        Ok(()) => raised,
        Err(failure) => failure,
    }
}
