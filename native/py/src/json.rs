//! JSON cut into its values: bytes to bytes.

use std::ops::Range;

use nvdra_core::json;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::to_python;
use crate::without_lock;

type Member<'py> = (String, Bound<'py, PyBytes>);
type List<'py> = (Vec<Member<'py>>, Option<Vec<Bound<'py, PyBytes>>>);

fn piece<'py>(py: Python<'py>, content: &[u8], range: Range<usize>) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &content[range])
}

fn members<'py>(
    py: Python<'py>,
    content: &[u8],
    found: Vec<(String, Range<usize>)>,
) -> Vec<Member<'py>> {
    found
        .into_iter()
        .map(|(name, range)| (name, piece(py, content, range)))
        .collect()
}

#[pyfunction]
pub fn split_object<'py>(py: Python<'py>, content: &[u8]) -> PyResult<Vec<Member<'py>>> {
    let found = without_lock(py, content.len(), || json::members(&json::text(content)))
        .map_err(|error| to_python(py, &error))?;
    Ok(members(py, content, found))
}

#[pyfunction]
pub fn split_list<'py>(py: Python<'py>, content: &[u8]) -> PyResult<List<'py>> {
    let found = without_lock(py, content.len(), || json::list(&json::text(content)))
        .map_err(|error| to_python(py, &error))?;
    let items = found.items.map(|items| {
        items
            .into_iter()
            .map(|range| piece(py, content, range))
            .collect()
    });
    Ok((members(py, content, found.members), items))
}
