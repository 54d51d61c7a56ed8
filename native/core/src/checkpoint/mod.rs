//! The checkpoint file: read from any release, verified, and written as release v0.4.1 writes it.
//!
//! Both drivers' files have the same envelope; prepared devices differ (`Driver`). A file is accepted if
//! a stored checksum matches the bytes as they are, or those bytes read into the releases' structs and written again.
//! Groups of devices that the reader does not support are kept as the text they were read as.

mod decode;
mod encode;
mod prepared;
mod verify;

pub use decode::{decode, indent, remarshal};
pub use encode::{Fragment, encode};

use crate::shape;

/// The driver that a checkpoint file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// gpu.nvidia.com
    Gpu,
    /// compute-domain.nvidia.com
    Domain,
}

impl Driver {
    fn sections(self) -> &'static shape::Sections {
        match self {
            Driver::Gpu => &shape::GPU,
            Driver::Domain => &shape::DOMAIN,
        }
    }

    /// Whether the driver's entries may be `PrepareAborted`; the Go GPU plugin calls a file with one corrupt.
    fn can_abort(self) -> bool {
        self == Driver::Domain
    }
}

/// A prepared MIG device, in NVML's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mig {
    pub uuid: String,
    pub parent_minor: u32,
    pub parent_uuid: String,
    pub gi_id: u32,
    pub ci_id: u32,
    /// Empty if the writer kept none.
    pub parent_pci_bus_id: String,
}

/// The prepared device of one allocation result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    Gpu {
        uuid: String,
    },
    Mig(Mig),
    /// A MIG device without its whole placement in the file: it cannot be destroyed by the ids there.
    UnplacedMig {
        uuid: String,
    },
    /// A GPU bound to vfio-pci; its UUID is made from its PCI address. The address is empty if the writer kept none.
    Vfio {
        uuid: String,
        pci_bus_id: String,
    },
    Channel {
        id: u32,
    },
    Daemon {
        id: u32,
    },
}

/// One allocation result: the prepared device, and the answer that kubelet got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub info: Info,
    pub requests: Vec<String>,
    pub pool: String,
    pub device: String,
    pub cdi_ids: Vec<String>,
    pub share_id: Option<String>,
    /// Attributes for the container as compact JSON; empty if there are none.
    pub metadata: String,
}

/// The settings of a group of devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Config {
    Gpu {
        mps_daemon_id: String,
        time_slice_applied: Option<bool>,
    },
    Domain {
        config_type: String,
        domain: String,
    },
}

/// Devices that share one config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub devices: Vec<Device>,
    pub config: Config,
    /// The group's JSON text if it has more than the fields above; else empty.
    pub verbatim: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    Groups(Vec<Group>),
    /// Groups of kinds that the reader does not support.
    Unsupported {
        text: String,
        kinds: Vec<&'static str>,
        devices: Vec<Device>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Started,
    Completed,
    Aborted,
}

impl State {
    const ALL: [State; 3] = [State::Started, State::Completed, State::Aborted];

    /// The state's name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Started => "PrepareStarted",
            State::Completed => "PrepareCompleted",
            State::Aborted => "PrepareAborted",
        }
    }

    #[must_use]
    pub fn named(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub uid: String,
    pub state: State,
    pub status: String,
    pub prepared: Prepared,
    pub name: String,
    pub namespace: String,
    /// When the claim was aborted, in seconds since 1970.
    pub aborted_at: Option<i64>,
    /// Members this release does not know, as `"key":value,"key":value`.
    pub unknown: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    pub boot_id: String,
    pub entries: Vec<Entry>,
    /// Keys outside the entries that the next write drops.
    pub left_out: Vec<String>,
}
