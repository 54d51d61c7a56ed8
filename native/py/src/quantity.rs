//! Quantities: texts to billionths and back.

use nvdra_core::quantity::{Format, Quantity};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

#[pyfunction]
pub fn parse_quantity(text: &str) -> PyResult<(i128, &'static str)> {
    let found = Quantity::parse(text).map_err(PyValueError::new_err)?;
    Ok((found.nanos(), found.format().name()))
}

#[pyfunction]
pub fn quantity_text(nanos: i128, format: &str) -> PyResult<String> {
    let format = Format::named(format)
        .ok_or_else(|| PyValueError::new_err(format!("{format} is no format")))?;
    Ok(Quantity::of_nanos(nanos, format).to_string())
}
