//! The checkpoint: entries to fragments to the file, and the file to tuples.

use nvdra_core::{checkpoint, fnv};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::to_python;
use crate::without_lock;

/// `nvdra.checkpoint.PreparedMig`, read by attribute.
#[derive(FromPyObject)]
pub struct Mig {
    parent_minor: u32,
    parent_uuid: String,
    gi_id: u32,
    ci_id: u32,
    parent_pci_bus_id: String,
}

/// `nvdra.checkpoint.PreparedDevice`, read by attribute.
#[derive(FromPyObject)]
pub struct Device {
    uuid: String,
    requests: Vec<String>,
    pool: String,
    device: String,
    cdi_ids: Vec<String>,
    share_id: Option<String>,
    mig: Option<Mig>,
}

/// `nvdra.checkpoint.PreparedGroup`, read by attribute.
#[derive(FromPyObject)]
pub struct Group {
    devices: Vec<Device>,
    mps_daemon_id: String,
    time_slice_applied: Option<bool>,
    verbatim: Vec<u8>,
}

fn text(bytes: &[u8]) -> PyResult<String> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|error| {
            PyValueError::new_err(format!("not UTF-8 at byte {}", error.valid_up_to()))
        })
}

impl From<Mig> for checkpoint::Mig {
    fn from(mig: Mig) -> Self {
        checkpoint::Mig {
            parent_minor: mig.parent_minor,
            parent_uuid: mig.parent_uuid,
            gi_id: mig.gi_id,
            ci_id: mig.ci_id,
            parent_pci_bus_id: mig.parent_pci_bus_id,
        }
    }
}

impl TryFrom<Group> for checkpoint::Group {
    type Error = PyErr;

    fn try_from(group: Group) -> PyResult<Self> {
        let devices = group
            .devices
            .into_iter()
            .map(|device| checkpoint::Device {
                uuid: device.uuid,
                requests: device.requests,
                pool: device.pool,
                device: device.device,
                cdi_ids: device.cdi_ids,
                share_id: device.share_id,
                mig: device.mig.map(Into::into),
            })
            .collect();
        Ok(checkpoint::Group {
            devices,
            mps_daemon_id: group.mps_daemon_id,
            time_slice_applied: group.time_slice_applied,
            verbatim: text(&group.verbatim)?,
        })
    }
}

/// `prepared` of an entry: known groups, or the text of foreign ones.
#[derive(FromPyObject)]
pub enum Prepared {
    Groups(Vec<Group>),
    Foreign(Foreign),
}

/// `nvdra.checkpoint.Foreign`, read by attribute.
#[derive(FromPyObject)]
pub struct Foreign {
    prepared_devices: Vec<u8>,
}

/// One entry's text, rendered once and used in every write until the entry changes.
#[pyclass(frozen, module = "nvdra._core")]
pub struct Fragment {
    inner: checkpoint::Fragment,
}

#[pymethods]
impl Fragment {
    #[new]
    #[pyo3(signature = (uid, is_completed, status, prepared, name, namespace, unknown))]
    fn new(
        uid: String,
        is_completed: bool,
        status: &[u8],
        prepared: Prepared,
        name: String,
        namespace: String,
        unknown: &[u8],
    ) -> PyResult<Self> {
        let prepared = match prepared {
            Prepared::Groups(groups) => checkpoint::Prepared::Groups(
                groups
                    .into_iter()
                    .map(TryInto::try_into)
                    .collect::<PyResult<_>>()?,
            ),
            Prepared::Foreign(foreign) => checkpoint::Prepared::Foreign {
                text: text(&foreign.prepared_devices)?,
                kinds: Vec::new(),
                devices: Vec::new(),
            },
        };
        let entry = checkpoint::Entry {
            uid,
            is_completed,
            status: text(status)?,
            prepared,
            name,
            namespace,
            unknown: text(unknown)?,
        };
        Ok(Fragment {
            inner: checkpoint::Fragment::render(&entry),
        })
    }
}

#[pyfunction]
pub fn encode_checkpoint<'py>(
    py: Python<'py>,
    fragments: Vec<Py<Fragment>>,
    boot_id: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let inner: Vec<&checkpoint::Fragment> = fragments
        .iter()
        .map(|fragment| &fragment.get().inner)
        .collect();
    let size = inner.iter().map(|fragment| fragment.size()).sum();
    let content = without_lock(py, size, || checkpoint::encode(&inner, boot_id));
    Ok(PyBytes::new(py, content.as_bytes()))
}

type MigTuple = (u32, String, u32, u32, String);
type DeviceTuple = (
    String,
    Vec<String>,
    String,
    String,
    Vec<String>,
    Option<String>,
    Option<MigTuple>,
);
type GroupTuple<'py> = (Vec<DeviceTuple>, String, Option<bool>, Bound<'py, PyBytes>);
type ForeignTuple<'py> = (Bound<'py, PyBytes>, Vec<&'static str>, Vec<DeviceTuple>);

#[derive(IntoPyObject)]
pub enum PreparedTuple<'py> {
    Groups(Vec<GroupTuple<'py>>),
    Foreign(ForeignTuple<'py>),
}

type EntryTuple<'py> = (
    String,
    bool,
    Bound<'py, PyBytes>,
    PreparedTuple<'py>,
    String,
    String,
    Bound<'py, PyBytes>,
);

fn device(device: checkpoint::Device) -> DeviceTuple {
    (
        device.uuid,
        device.requests,
        device.pool,
        device.device,
        device.cdi_ids,
        device.share_id,
        device.mig.map(|mig| {
            (
                mig.parent_minor,
                mig.parent_uuid,
                mig.gi_id,
                mig.ci_id,
                mig.parent_pci_bus_id,
            )
        }),
    )
}

fn entry(py: Python<'_>, entry: checkpoint::Entry) -> EntryTuple<'_> {
    let bytes = |text: &str| PyBytes::new(py, text.as_bytes());
    let prepared = match entry.prepared {
        checkpoint::Prepared::Groups(groups) => PreparedTuple::Groups(
            groups
                .into_iter()
                .map(|group| {
                    let devices = group.devices.into_iter().map(device).collect();
                    (
                        devices,
                        group.mps_daemon_id,
                        group.time_slice_applied,
                        bytes(&group.verbatim),
                    )
                })
                .collect(),
        ),
        checkpoint::Prepared::Foreign {
            text,
            kinds,
            devices,
        } => PreparedTuple::Foreign((
            bytes(&text),
            kinds,
            devices.into_iter().map(device).collect(),
        )),
    };
    (
        entry.uid,
        entry.is_completed,
        bytes(&entry.status),
        prepared,
        entry.name,
        entry.namespace,
        bytes(&entry.unknown),
    )
}

#[pyfunction]
pub fn decode_checkpoint<'py>(
    py: Python<'py>,
    content: &[u8],
) -> PyResult<(String, Vec<EntryTuple<'py>>, Vec<String>)> {
    let record = without_lock(py, content.len(), || checkpoint::decode(content))
        .map_err(|error| to_python(py, &error))?;
    let entries = record
        .entries
        .into_iter()
        .map(|read| entry(py, read))
        .collect();
    Ok((record.boot_id, entries, record.left_out))
}

#[pyfunction]
pub fn remarshal_checkpoint<'py>(py: Python<'py>, content: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let text = without_lock(py, content.len(), || checkpoint::remarshal(content))
        .map_err(|error| to_python(py, &error))?;
    Ok(PyBytes::new(py, text.as_bytes()))
}

#[pyfunction]
pub fn indent_json(py: Python<'_>, content: &[u8]) -> PyResult<String> {
    without_lock(py, content.len(), || checkpoint::indent(content))
        .map_err(|error| to_python(py, &error))
}

#[pyfunction]
pub fn checksum(py: Python<'_>, content: &[u8]) -> u32 {
    without_lock(py, content.len(), || {
        let mut checksum = fnv::Checksum::new();
        checksum.update(content);
        checksum.finish()
    })
}
