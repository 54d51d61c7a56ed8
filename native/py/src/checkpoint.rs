//! The checkpoint: entries to fragments to the file, and the file to tuples.

use nvdra_core::checkpoint::{self, Config, Driver, Info, State};
use nvdra_core::{fnv, time};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::to_python;
use crate::without_lock;

/// `nvdra.checkpoint.PreparedMig`, read by attribute.
#[derive(FromPyObject)]
struct Mig {
    uuid: String,
    parent_minor: u32,
    parent_uuid: String,
    gi_id: u32,
    ci_id: u32,
    parent_pci_bus_id: String,
}

/// `nvdra.checkpoint.PreparedVfio`, read by attribute.
#[derive(FromPyObject)]
struct Vfio {
    uuid: String,
    pci_bus_id: String,
}

/// The class of `nvdra.checkpoint.Info` that the object is of, by its `type`.
fn info(object: &Bound<'_, PyAny>) -> PyResult<Info> {
    let kind: String = object.getattr("type")?.extract()?;
    Ok(match &*kind {
        "gpu" => Info::Gpu {
            uuid: object.getattr("uuid")?.extract()?,
        },
        "mig" => {
            let mig: Mig = object.extract()?;
            Info::Mig(checkpoint::Mig {
                uuid: mig.uuid,
                parent_minor: mig.parent_minor,
                parent_uuid: mig.parent_uuid,
                gi_id: mig.gi_id,
                ci_id: mig.ci_id,
                parent_pci_bus_id: mig.parent_pci_bus_id,
            })
        }
        "vfio" => {
            let Vfio { uuid, pci_bus_id } = object.extract()?;
            Info::Vfio { uuid, pci_bus_id }
        }
        "channel" => Info::Channel {
            id: object.getattr("id")?.extract()?,
        },
        "daemon" => Info::Daemon {
            id: object.getattr("id")?.extract()?,
        },
        _ => {
            let text = format!("a prepared device of unknown type {kind:?}");
            return Err(PyValueError::new_err(text));
        }
    })
}

/// `nvdra.checkpoint.PreparedDevice`, read by attribute.
#[derive(FromPyObject)]
struct Device {
    #[pyo3(from_py_with = info)]
    info: Info,
    requests: Vec<String>,
    pool: String,
    device: String,
    cdi_ids: Vec<String>,
    share_id: Option<String>,
    metadata: Vec<u8>,
}

/// `nvdra.checkpoint.PreparedGroup`, read by attribute.
#[derive(FromPyObject)]
pub struct GpuGroup {
    devices: Vec<Device>,
    mps_daemon_id: String,
    time_slice_applied: Option<bool>,
    verbatim: Vec<u8>,
}

/// `nvdra.checkpoint.DomainGroup`, read by attribute.
#[derive(FromPyObject)]
pub struct DomainGroup {
    devices: Vec<Device>,
    config_type: String,
    domain: String,
    verbatim: Vec<u8>,
}

#[derive(FromPyObject)]
pub enum Group {
    Gpu(GpuGroup),
    Domain(DomainGroup),
}

fn text(bytes: &[u8]) -> PyResult<String> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|error| {
            PyValueError::new_err(format!("not UTF-8 at byte {}", error.valid_up_to()))
        })
}

impl TryFrom<Group> for checkpoint::Group {
    type Error = PyErr;

    fn try_from(group: Group) -> PyResult<Self> {
        let (devices, config, verbatim) = match group {
            Group::Gpu(group) => (
                group.devices,
                Config::Gpu {
                    mps_daemon_id: group.mps_daemon_id,
                    time_slice_applied: group.time_slice_applied,
                },
                group.verbatim,
            ),
            Group::Domain(group) => (
                group.devices,
                Config::Domain {
                    config_type: group.config_type,
                    domain: group.domain,
                },
                group.verbatim,
            ),
        };
        let devices = devices.into_iter().map(|device| {
            Ok(checkpoint::Device {
                info: device.info,
                requests: device.requests,
                pool: device.pool,
                device: device.device,
                cdi_ids: device.cdi_ids,
                share_id: device.share_id,
                metadata: text(&device.metadata)?,
            })
        });
        Ok(checkpoint::Group {
            devices: devices.collect::<PyResult<_>>()?,
            config,
            verbatim: text(&verbatim)?,
        })
    }
}

/// `prepared` of an entry: supported groups, or the text of foreign ones.
#[derive(FromPyObject)]
pub enum Prepared {
    Groups(Vec<Group>),
    Unsupported(Unsupported),
}

/// `nvdra.checkpoint.Unsupported`, read by attribute.
#[derive(FromPyObject)]
pub struct Unsupported {
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
    #[pyo3(signature = (uid, state, status, prepared, name, namespace, aborted_at, unknown))]
    #[expect(clippy::too_many_arguments, reason = "an entry's members, one by one")]
    fn new(
        uid: String,
        state: &str,
        status: &[u8],
        prepared: Prepared,
        name: String,
        namespace: String,
        aborted_at: Option<i64>,
        unknown: &[u8],
    ) -> PyResult<Self> {
        let state = State::named(state)
            .ok_or_else(|| PyValueError::new_err(format!("no state {state:?}")))?;
        if aborted_at.is_some_and(|moment| !(time::ZERO + 1..=time::LAST).contains(&moment)) {
            return Err(PyValueError::new_err(format!(
                "aborted_at {aborted_at:?} has no RFC 3339 text"
            )));
        }
        let prepared = match prepared {
            Prepared::Groups(groups) => checkpoint::Prepared::Groups(
                groups
                    .into_iter()
                    .map(TryInto::try_into)
                    .collect::<PyResult<_>>()?,
            ),
            Prepared::Unsupported(unsupported) => checkpoint::Prepared::Unsupported {
                text: text(&unsupported.prepared_devices)?,
                kinds: Vec::new(),
                devices: Vec::new(),
            },
        };
        let entry = checkpoint::Entry {
            uid,
            state,
            status: text(status)?,
            prepared,
            name,
            namespace,
            aborted_at,
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

#[derive(IntoPyObject)]
pub enum InfoTuple {
    Uuid((&'static str, String)),
    Mig((&'static str, String, u32, String, u32, u32, String)),
    Vfio((&'static str, String, String)),
    Role((&'static str, u32)),
}

type DeviceTuple<'py> = (
    InfoTuple,
    Vec<String>,
    String,
    String,
    Vec<String>,
    Option<String>,
    Bound<'py, PyBytes>,
);
type Devices<'py> = Vec<DeviceTuple<'py>>;

#[derive(IntoPyObject)]
pub enum GroupTuple<'py> {
    Gpu((Devices<'py>, String, Option<bool>, Bound<'py, PyBytes>)),
    Domain((Devices<'py>, String, String, Bound<'py, PyBytes>)),
}

type UnsupportedTuple<'py> = (Bound<'py, PyBytes>, Vec<&'static str>, Devices<'py>);

#[derive(IntoPyObject)]
pub enum PreparedTuple<'py> {
    Groups(Vec<GroupTuple<'py>>),
    Unsupported(UnsupportedTuple<'py>),
}

type EntryTuple<'py> = (
    String,
    &'static str,
    Bound<'py, PyBytes>,
    PreparedTuple<'py>,
    String,
    String,
    Option<i64>,
    Bound<'py, PyBytes>,
);

fn bytes<'py>(py: Python<'py>, text: &str) -> Bound<'py, PyBytes> {
    PyBytes::new(py, text.as_bytes())
}

fn device(py: Python<'_>, device: checkpoint::Device) -> DeviceTuple<'_> {
    let info = match device.info {
        Info::Gpu { uuid } => InfoTuple::Uuid(("gpu", uuid)),
        Info::UnplacedMig { uuid } => InfoTuple::Uuid(("unplaced", uuid)),
        Info::Mig(mig) => InfoTuple::Mig((
            "mig",
            mig.uuid,
            mig.parent_minor,
            mig.parent_uuid,
            mig.gi_id,
            mig.ci_id,
            mig.parent_pci_bus_id,
        )),
        Info::Vfio { uuid, pci_bus_id } => InfoTuple::Vfio(("vfio", uuid, pci_bus_id)),
        Info::Channel { id } => InfoTuple::Role(("channel", id)),
        Info::Daemon { id } => InfoTuple::Role(("daemon", id)),
    };
    (
        info,
        device.requests,
        device.pool,
        device.device,
        device.cdi_ids,
        device.share_id,
        bytes(py, &device.metadata),
    )
}

fn devices(py: Python<'_>, read: Vec<checkpoint::Device>) -> Devices<'_> {
    read.into_iter().map(|read| device(py, read)).collect()
}

fn group(py: Python<'_>, group: checkpoint::Group) -> GroupTuple<'_> {
    let (devices, verbatim) = (devices(py, group.devices), bytes(py, &group.verbatim));
    match group.config {
        Config::Gpu {
            mps_daemon_id,
            time_slice_applied,
        } => GroupTuple::Gpu((devices, mps_daemon_id, time_slice_applied, verbatim)),
        Config::Domain {
            config_type,
            domain,
        } => GroupTuple::Domain((devices, config_type, domain, verbatim)),
    }
}

fn entry(py: Python<'_>, entry: checkpoint::Entry) -> EntryTuple<'_> {
    let prepared = match entry.prepared {
        checkpoint::Prepared::Groups(groups) => {
            PreparedTuple::Groups(groups.into_iter().map(|read| group(py, read)).collect())
        }
        checkpoint::Prepared::Unsupported {
            text,
            kinds,
            devices: read,
        } => PreparedTuple::Unsupported((bytes(py, &text), kinds, devices(py, read))),
    };
    (
        entry.uid,
        entry.state.name(),
        bytes(py, &entry.status),
        prepared,
        entry.name,
        entry.namespace,
        entry.aborted_at,
        bytes(py, &entry.unknown),
    )
}

/// The driver with this name.
fn driver(name: &str) -> PyResult<Driver> {
    match name {
        "gpu.nvidia.com" => Ok(Driver::Gpu),
        "compute-domain.nvidia.com" => Ok(Driver::Domain),
        _ => Err(PyValueError::new_err(format!(
            "no driver {name:?} has a checkpoint"
        ))),
    }
}

#[pyfunction]
pub fn decode_checkpoint<'py>(
    py: Python<'py>,
    content: &[u8],
    driver_name: &str,
    unsupported: Vec<String>,
) -> PyResult<(String, Vec<EntryTuple<'py>>, Vec<String>)> {
    let driver = driver(driver_name)?;
    let checkpoint = without_lock(py, content.len(), || {
        checkpoint::decode(content, driver, &unsupported)
    })
    .map_err(|error| to_python(py, &error))?;
    let entries = checkpoint
        .entries
        .into_iter()
        .map(|read| entry(py, read))
        .collect();
    Ok((checkpoint.boot_id, entries, checkpoint.left_out))
}

#[pyfunction]
pub fn remarshal_checkpoint<'py>(
    py: Python<'py>,
    content: &[u8],
    driver_name: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let driver = driver(driver_name)?;
    let text = without_lock(py, content.len(), || checkpoint::remarshal(content, driver))
        .map_err(|error| to_python(py, &error))?;
    Ok(bytes(py, &text))
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
