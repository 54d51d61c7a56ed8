//! A node as data: the content of a portrait file, every value with its source.
//!
//! A value is written `[value, "measured" | "documented" | "assumed"]`, with a third element where there is more to say.
//! Portraits are laid beside the library whole: models that the sources keep in files of their own are already inside.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::error::Error;

use crate::notation::{address, cpus, derived_uuid, uuid_bytes};
use crate::partition::MEMORY_SLICES;

/// How sure a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Read from hardware of this kind.
    Measured,
    /// Stated in public documentation of the hardware or the driver.
    Documented,
    /// Plausible, and nothing more.
    Assumed,
}

/// A value and its origin.
#[derive(Clone, Debug)]
pub struct Marked<T> {
    pub value: T,
    pub origin: Origin,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Marked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pair<T> {
            type Value = Marked<T>;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str(
                    "[value, \"measured\" | \"documented\" | \"assumed\", optional remark]",
                )
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Marked<T>, A::Error> {
                let value = items
                    .next_element()?
                    .ok_or_else(|| de::Error::invalid_length(0, &self))?;
                let origin = items
                    .next_element()?
                    .ok_or_else(|| de::Error::invalid_length(1, &self))?;
                let _remark: Option<String> = items.next_element()?;
                Ok(Marked { value, origin })
            }
        }
        deserializer.deserialize_seq(Pair(PhantomData))
    }
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portrait {
    /// Format number: 1.
    pub portrait: u32,
    pub name: String,
    /// What this node is, for people.
    pub about: String,
    pub driver_version: Marked<String>,
    /// As `nvmlSystemGetCudaDriverVersion` counts: 1000 × major + 10 × minor.
    pub cuda_version: Marked<u32>,
    pub host: Host,
    pub models: BTreeMap<String, Model>,
    pub gpus: Vec<Gpu>,
    /// Absent: no fabric to report.
    pub fabric: Option<Fabric>,
    /// `nvmlDeviceGetP2PStatus` between any two GPUs, by capability: read, write, nvlink, atomics, pci.
    pub p2p: Option<BTreeMap<String, Marked<u32>>>,
    /// This node is another mock's, of which only a recording is left: its root had no portrait file beside the
    /// library, no soname in it, and its GPUs were in no sysfs.
    #[serde(default)]
    pub recorded: bool,
}

/// What each GPU says of the NVLink fabric it is part of.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fabric {
    pub cluster_uuid: Marked<String>,
    pub clique_id: Marked<u32>,
    /// 0 not supported, 1 not started, 2 in progress, 3 completed.
    pub state: Marked<u8>,
    /// A return code, of counting once the state is completed.
    pub status: Marked<u32>,
    pub health_mask: Marked<u32>,
    pub health_summary: Marked<u8>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    pub numa_nodes: Vec<NumaNode>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumaNode {
    pub node: u32,
    pub socket: u32,
    /// As the kernel lists processors: `0-55,112-167`.
    pub cpus: Marked<String>,
}

/// What all GPUs of one kind have in common. An absent value is one the driver answers `NOT_SUPPORTED` for.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub name: Marked<String>,
    pub brand: Marked<u32>,
    pub architecture: Marked<u32>,
    pub compute_capability: Marked<(i32, i32)>,
    pub memory_total_bytes: Option<Marked<u64>>,
    pub memory_reserved_bytes: Option<Marked<u64>>,
    pub memory_bus_width_bits: Option<Marked<u32>>,
    pub cores: Option<Marked<u32>>,
    /// Device in the upper half, vendor in the lower.
    pub pci_device_id: Marked<u32>,
    pub pci_subsystem_id: Marked<u32>,
    pub pci_class: Marked<u32>,
    pub bars: Vec<Bar>,
    pub vbios: Option<Marked<String>>,
    pub part_number: Option<Marked<String>>,
    pub addressing_mode: Option<Marked<u32>>,
    pub virtualization_mode: Option<Marked<u32>>,
    pub event_types: Marked<u64>,
    pub nvlink: Option<NvLink>,
    /// Absent: not MIG-capable.
    pub mig: Option<Mig>,
}

/// A PCI memory region, in the order of the `resource` file.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bar {
    pub size_bytes: Marked<u64>,
    pub flags: Marked<u64>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvLink {
    pub version: Marked<u32>,
    pub links: Marked<u32>,
    /// Bus ids at the far ends, one a link; switches, unless a GPU of the portrait has that id.
    pub remote: Marked<Vec<String>>,
    pub remote_pci_device_id: Marked<u32>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mig {
    /// Profile indices from here on are an invalid argument, those below and not listed are not supported.
    pub index_limit: Marked<u32>,
    /// Absent: by architecture, after a reset before Hopper.
    pub mode_change: Option<Marked<ModeChange>>,
    pub profiles: Vec<MigProfile>,
}

/// When another MIG mode takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum ModeChange {
    #[serde(rename = "at once")]
    AtOnce,
    #[serde(rename = "after reset")]
    AfterReset,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigProfile {
    pub index: u32,
    pub id: u32,
    pub text: String,
    pub slices: u32,
    pub instances: u32,
    pub sm: u32,
    pub ce: u32,
    pub dec: u32,
    pub enc: u32,
    pub jpg: u32,
    pub ofa: u32,
    pub memory_mib: u64,
    pub size: u32,
    pub starts: Vec<u32>,
    pub origin: Origin,
    #[serde(default)]
    pub remark: Option<String>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    pub minor: u32,
    pub model: String,
    /// As sysfs writes it: `0000:1b:00.0`.
    pub pci_bus_id: Marked<String>,
    /// From the host bridge down to the port above the GPU: `pci0000:15`, `0000:15:01.0`, …
    pub pcie_path: Marked<Vec<String>>,
    /// -1: the platform does not say.
    pub numa_node: Marked<i32>,
    pub module_id: Option<Marked<u32>>,
    pub serial: Option<Marked<String>>,
    /// Absent: a fixed function of the portrait's name and the minor.
    pub uuid: Option<Marked<String>>,
    /// Replaces the model's NVLink section: which switch ends where is a matter of the place on the board.
    pub nvlink_remote: Option<Marked<Vec<String>>>,
}

impl Portrait {
    /// The portrait in this text.
    ///
    /// Fails with the place in the text, or with the name of the GPU that contradicts the rest.
    pub fn parse(text: &str) -> Result<Portrait, String> {
        let portrait: Portrait =
            serde_json::from_str(text).map_err(|error: Error| error.to_string())?;
        portrait.check()?;
        Ok(portrait)
    }

    fn check(&self) -> Result<(), String> {
        if self.portrait != 1 {
            return Err(format!(
                "portrait format {}: this library reads format 1",
                self.portrait
            ));
        }
        let mut minors = std::collections::BTreeSet::new();
        let mut addresses = std::collections::BTreeSet::new();
        for gpu in &self.gpus {
            let here = format!("GPU with minor {}", gpu.minor);
            if gpu.minor as usize >= MINORS {
                return Err(format!("{here}: minors go up to {}", MINORS - 1));
            }
            if !minors.insert(gpu.minor) {
                return Err(format!("{here}: that minor is given twice"));
            }
            if !self.models.contains_key(&gpu.model) {
                return Err(format!("{here}: there is no model {:?}", gpu.model));
            }
            if address(&gpu.pci_bus_id.value).is_none() {
                return Err(format!(
                    "{here}: {:?} is no PCI bus id",
                    gpu.pci_bus_id.value
                ));
            }
            if !addresses.insert(address(&gpu.pci_bus_id.value)) {
                return Err(format!(
                    "{here}: PCI bus id {} is given twice",
                    gpu.pci_bus_id.value
                ));
            }
            let node = gpu.numa_node.value;
            if node >= 0
                && !self
                    .host
                    .numa_nodes
                    .iter()
                    .any(|known| known.node as i32 == node)
            {
                return Err(format!("{here}: the host has no NUMA node {node}"));
            }
        }
        for (name, model) in &self.models {
            for profile in model.mig.iter().flat_map(|mig| &mig.profiles) {
                profile
                    .check()
                    .map_err(|error| format!("model {name}, profile {}: {error}", profile.text))?;
            }
        }
        if let Some(fabric) = &self.fabric
            && uuid_bytes(&fabric.cluster_uuid.value).is_none()
        {
            return Err(format!(
                "fabric: {:?} is no UUID",
                fabric.cluster_uuid.value
            ));
        }
        for node in &self.host.numa_nodes {
            if cpus(&node.cpus.value).is_none() {
                return Err(format!(
                    "NUMA node {}: {:?} is no list of processors",
                    node.node, node.cpus.value
                ));
            }
        }
        Ok(())
    }

    /// The UUID of a MIG device: a fixed function of portrait, minor and the two instance ids.
    pub fn mig_uuid(&self, gpu: &Gpu, instance: u32, compute: u32) -> String {
        let seed = format!("{}/{}/{instance}/{compute}", self.name, gpu.minor);
        format!("MIG-{}", derived_uuid(&seed))
    }

    /// The UUID of a GPU: its own, or a fixed function of portrait and minor.
    pub fn uuid(&self, gpu: &Gpu) -> String {
        match &gpu.uuid {
            Some(uuid) => uuid.value.clone(),
            None => format!(
                "GPU-{}",
                derived_uuid(&format!("{}/{}", self.name, gpu.minor))
            ),
        }
    }
}

impl Model {
    /// When another MIG mode takes effect. Documented (MIG user guide): Hopper and later need no reset.
    pub fn mode_change(&self) -> ModeChange {
        let stated = self.mig.as_ref().and_then(|mig| mig.mode_change.as_ref());
        match stated {
            Some(marked) => marked.value,
            None if self.architecture.value < HOPPER => ModeChange::AfterReset,
            None => ModeChange::AtOnce,
        }
    }

    /// A guest that has a virtual GPU manages neither mode nor GPU instances (assumed).
    pub fn is_vgpu_guest(&self) -> bool {
        self.virtualization_mode
            .as_ref()
            .is_some_and(|mode| mode.value == VGPU_GUEST)
    }
}

impl MigProfile {
    /// Instance ids count halves of halves: a placement must be one.
    fn check(&self) -> Result<(), String> {
        if !self.size.is_power_of_two() || self.size > MEMORY_SLICES {
            return Err(format!("size {} is none of 1, 2, 4, 8", self.size));
        }
        let is_wrong = |start: &&u32| {
            !(**start).is_multiple_of(self.size) || **start + self.size > MEMORY_SLICES
        };
        match self.starts.iter().find(is_wrong) {
            Some(start) => Err(format!(
                "no placement of size {} starts at {start}",
                self.size
            )),
            None => Ok(()),
        }
    }
}

const HOPPER: u32 = 9;
const VGPU_GUEST: u32 = 2;

/// One more than the highest minor a GPU can have.
pub const MINORS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_without_origin_is_refused() {
        let error = serde_json::from_str::<Marked<u32>>("[1]")
            .unwrap_err()
            .to_string();
        assert!(error.contains("measured"), "{error}");
        assert!(serde_json::from_str::<Marked<u32>>("[1, \"guessed\"]").is_err());
        assert!(serde_json::from_str::<Marked<u32>>("[1, \"assumed\", \"why\"]").is_ok());
    }
}
