//! `nvdra._core`: a table of contents over `nvdra-core`, `nvdra-alloc` and `nvdra-procfs`. One module function per job, no logic of its own.

mod allocation;
mod cdi;
mod checkpoint;
mod claim;
mod error;
mod holders;
mod json;
mod matching;
mod quantity;

use pyo3::prelude::*;

/// Above this many bytes of input the interpreter lock is released.
const LARGE: usize = 64 * 1024;

/// Runs pure work; the interpreter lock is released if the input is large enough to be worth it.
fn without_lock<T: Send>(py: Python<'_>, size: usize, work: impl FnOnce() -> T + Send) -> T {
    if size > LARGE {
        py.detach(work)
    } else {
        work()
    }
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("CoreError", module.py().get_type::<error::CoreError>())?;
    module.add(
        "AllocationError",
        module.py().get_type::<allocation::AllocationError>(),
    )?;
    module.add_class::<allocation::Cluster>()?;
    module.add_function(wrap_pyfunction!(allocation::allocation_releases, module)?)?;
    module.add_function(wrap_pyfunction!(claim::decode_claim, module)?)?;
    module.add_function(wrap_pyfunction!(claim::identify_claim, module)?)?;
    module.add_function(wrap_pyfunction!(holders::find_holders, module)?)?;
    module.add_function(wrap_pyfunction!(json::split_object, module)?)?;
    module.add_function(wrap_pyfunction!(json::split_list, module)?)?;
    module.add_function(wrap_pyfunction!(claim::decode_status, module)?)?;
    module.add_function(wrap_pyfunction!(matching::match_configs, module)?)?;
    module.add_function(wrap_pyfunction!(quantity::parse_quantity, module)?)?;
    module.add_function(wrap_pyfunction!(quantity::quantity_text, module)?)?;
    module.add_class::<checkpoint::Fragment>()?;
    module.add_function(wrap_pyfunction!(checkpoint::encode_checkpoint, module)?)?;
    module.add_function(wrap_pyfunction!(checkpoint::decode_checkpoint, module)?)?;
    module.add_function(wrap_pyfunction!(checkpoint::remarshal_checkpoint, module)?)?;
    module.add_function(wrap_pyfunction!(checkpoint::indent_json, module)?)?;
    module.add_function(wrap_pyfunction!(checkpoint::checksum, module)?)?;
    module.add_function(wrap_pyfunction!(cdi::render_yaml, module)?)?;
    module.add_function(wrap_pyfunction!(cdi::render_json, module)?)?;
    module.add_function(wrap_pyfunction!(cdi::head_yaml, module)?)?;
    module.add_function(wrap_pyfunction!(cdi::device_yaml, module)?)?;
    module.add_function(wrap_pyfunction!(cdi::edits_yaml, module)?)?;
    Ok(())
}
