//! CDI documents: values, read by attribute, to text.

use nvdra_core::cdi;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyBytes;

fn texts(texts: &[PyBackedStr]) -> Vec<&str> {
    texts.iter().map(|text| &**text).collect()
}

/// `nvdra.cdi.DeviceNode`.
#[derive(FromPyObject)]
pub struct DeviceNode {
    path: PyBackedStr,
    host_path: PyBackedStr,
    r#type: PyBackedStr,
    major: i64,
    minor: i64,
    file_mode: u32,
    permissions: PyBackedStr,
    gid: u32,
}

/// `nvdra.cdi.Mount`.
#[derive(FromPyObject)]
pub struct Mount {
    host_path: PyBackedStr,
    container_path: PyBackedStr,
    options: Vec<PyBackedStr>,
    r#type: PyBackedStr,
}

/// `nvdra.cdi.Hook`.
#[derive(FromPyObject)]
pub struct Hook {
    name: PyBackedStr,
    path: PyBackedStr,
    args: Vec<PyBackedStr>,
    env: Vec<PyBackedStr>,
}

/// `nvdra.cdi.Edits`.
#[derive(FromPyObject)]
pub struct Edits {
    env: Vec<PyBackedStr>,
    device_nodes: Vec<DeviceNode>,
    hooks: Vec<Hook>,
    mounts: Vec<Mount>,
    additional_gids: Vec<u32>,
}

impl Edits {
    fn view(&self) -> cdi::Edits<'_> {
        cdi::Edits {
            env: texts(&self.env),
            device_nodes: self
                .device_nodes
                .iter()
                .map(|node| cdi::DeviceNode {
                    path: &node.path,
                    host_path: &node.host_path,
                    kind: &node.r#type,
                    major: node.major,
                    minor: node.minor,
                    file_mode: node.file_mode,
                    permissions: &node.permissions,
                    gid: node.gid,
                })
                .collect(),
            hooks: self
                .hooks
                .iter()
                .map(|hook| cdi::Hook {
                    name: &hook.name,
                    path: &hook.path,
                    args: texts(&hook.args),
                    env: texts(&hook.env),
                })
                .collect(),
            mounts: self
                .mounts
                .iter()
                .map(|mount| cdi::Mount {
                    host_path: &mount.host_path,
                    container_path: &mount.container_path,
                    options: texts(&mount.options),
                    kind: &mount.r#type,
                })
                .collect(),
            additional_gids: self.additional_gids.clone(),
        }
    }
}

/// `nvdra.cdi.Device`.
#[derive(FromPyObject)]
pub struct Device {
    name: PyBackedStr,
    edits: Edits,
}

/// `nvdra.cdi.Document`.
#[derive(FromPyObject)]
pub struct Document {
    kind: PyBackedStr,
    devices: Vec<Device>,
    edits: Edits,
}

impl Document {
    fn view<'a>(&'a self, version: &'a str) -> cdi::Document<'a> {
        cdi::Document {
            version,
            kind: &self.kind,
            devices: self
                .devices
                .iter()
                .map(|device| (&*device.name, device.edits.view()))
                .collect(),
            edits: self.edits.view(),
        }
    }
}

#[pyfunction]
pub fn render_yaml<'py>(py: Python<'py>, document: Document, version: &str) -> Bound<'py, PyBytes> {
    PyBytes::new(py, cdi::render_yaml(&document.view(version)).as_bytes())
}

#[pyfunction]
pub fn render_json<'py>(py: Python<'py>, document: Document, version: &str) -> Bound<'py, PyBytes> {
    PyBytes::new(py, cdi::render_json(&document.view(version)).as_bytes())
}

#[pyfunction]
pub fn head_yaml<'py>(py: Python<'py>, version: &str, kind: &str) -> Bound<'py, PyBytes> {
    PyBytes::new(py, cdi::head_yaml(version, kind).as_bytes())
}

#[pyfunction]
pub fn device_yaml<'py>(py: Python<'py>, name: &str) -> Bound<'py, PyBytes> {
    PyBytes::new(py, cdi::device_yaml(name).as_bytes())
}

#[pyfunction]
pub fn edits_yaml<'py>(py: Python<'py>, edits: Edits, indent: usize) -> Bound<'py, PyBytes> {
    PyBytes::new(py, cdi::edits_yaml(&edits.view(), indent).as_bytes())
}
