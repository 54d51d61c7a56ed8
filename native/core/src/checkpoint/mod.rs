//! The checkpoint file: read from any release, verified, and written as release v0.4.1 writes it.
//!
//! A file is accepted if a stored checksum matches the bytes as they are, or those bytes read into the releases'
//! structs and written again. What this driver does not build is kept as the text it was read as.

mod decode;
mod encode;
mod prepared;
mod verify;

pub use decode::{decode, indent, remarshal};
pub use encode::{Fragment, encode};

/// Where a prepared MIG device lies, in NVML's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mig {
    pub parent_minor: u32,
    pub parent_uuid: String,
    pub gi_id: u32,
    pub ci_id: u32,
    /// Empty if the writer kept none.
    pub parent_pci_bus_id: String,
}

/// One allocation result as answered to kubelet; with `mig`, `uuid` is the MIG device's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub uuid: String,
    pub requests: Vec<String>,
    pub pool: String,
    pub device: String,
    pub cdi_ids: Vec<String>,
    pub share_id: Option<String>,
    pub mig: Option<Mig>,
}

/// Devices that share one config.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    pub devices: Vec<Device>,
    pub mps_daemon_id: String,
    pub time_slice_applied: Option<bool>,
    /// The group's own text, where it says more than the fields above; empty otherwise.
    pub verbatim: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    Groups(Vec<Group>),
    /// Groups of kinds this driver does not build.
    Foreign {
        text: String,
        kinds: Vec<&'static str>,
        devices: Vec<Device>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub uid: String,
    pub is_completed: bool,
    pub status: String,
    pub prepared: Prepared,
    pub name: String,
    pub namespace: String,
    /// Members this release does not know, as `"key":value,"key":value`.
    pub unknown: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub boot_id: String,
    pub entries: Vec<Entry>,
    /// Keys outside the entries that the next write drops.
    pub left_out: Vec<String>,
}
