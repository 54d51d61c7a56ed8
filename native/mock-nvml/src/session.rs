//! The state between the first init and the last shutdown.
//!
//! Visibility is decided at the first init and kept until the last shutdown, as a driver does. While a session is open
//! it keeps `dev/nvidiactl` open, and the node of each GPU whose handle was returned: tools that search for open device
//! files find them as on hardware.

use std::ffi::{CStr, OsStr};
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::{collections::BTreeMap, mem::size_of_val};

use crate::abi::{Handle, INIT_FLAG_NO_GPUS, PciInfo};
use crate::code::{Answer, Code};
use crate::events::EventSet;
use crate::location::LibraryLocation;
use crate::node_state::NodeState;
use crate::notation::address;
use crate::partition::{COMPUTE_INSTANCES, GPU_INSTANCES, GpuInstance, Partitioning, Process};
use crate::portrait::{Gpu, MINORS, Model, Portrait};
use crate::topology::{Scope, processors};

/// Addresses that handles point at; what lies there is of no meaning. They are the same in every session.
static HANDLES: [u64; MINORS] = [0; MINORS];

/// The same for instances: by minor, GPU instance, and then the instance itself, its compute instances, its MIG devices.
static INSTANCES: [u8; MINORS * PER_GPU] = [0; MINORS * PER_GPU];
const PER_GPU: usize = GPU_INSTANCES as usize * PER_INSTANCE;
const PER_INSTANCE: usize = 1 + 2 * COMPUTE_INSTANCES as usize;

/// What a handle of an instance stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instance {
    Gpu(u32),
    Compute(u32, u32),
    Mig(u32, u32),
}

impl Instance {
    fn slot(self) -> usize {
        let (instance, within) = match self {
            Instance::Gpu(instance) => (instance, 0),
            Instance::Compute(instance, compute) => (instance, 1 + compute),
            Instance::Mig(instance, compute) => (instance, 1 + COMPUTE_INSTANCES + compute),
        };
        instance as usize * PER_INSTANCE + within as usize
    }

    fn at(slot: usize) -> Instance {
        let (instance, within) = ((slot / PER_INSTANCE) as u32, (slot % PER_INSTANCE) as u32);
        match within {
            0 => Instance::Gpu(instance),
            1..=COMPUTE_INSTANCES => Instance::Compute(instance, within - 1),
            _ => Instance::Mig(instance, within - 1 - COMPUTE_INSTANCES),
        }
    }
}

/// What a device handle stands for.
pub enum Device<'a> {
    Gpu(&'a Seen),
    /// The parent, and the ids of GPU instance and compute instance.
    Mig(&'a Seen, u32, u32),
}

impl<'a> Device<'a> {
    pub fn gpu(&self) -> &'a Seen {
        match self {
            Device::Gpu(seen) | Device::Mig(seen, ..) => seen,
        }
    }
}

pub struct Session {
    pub portrait: Arc<Portrait>,
    pub driver_version: String,
    /// In NVML's order.
    pub gpus: Vec<Seen>,
    pub state: NodeState,
    /// By handle.
    pub event_sets: Mutex<BTreeMap<Handle, Arc<EventSet>>>,
    _control: Option<File>,
}

/// A visible GPU, with what is worked out once.
pub struct Seen {
    pub index: u32,
    /// Its place in the portrait's list.
    position: usize,
    pub uuid: String,
    pub address: (u32, u8, u8, u8),
    pub pci: PciInfo,
    /// Processors near it, by scope (NUMA node, socket), as words of bits.
    pub processors: [Vec<usize>; 2],
    node: PathBuf,
    held: OnceLock<Option<File>>,
}

impl Session {
    pub fn gpu<'a>(&'a self, seen: &Seen) -> &'a Gpu {
        &self.portrait.gpus[seen.position]
    }

    pub fn model<'a>(&'a self, seen: &Seen) -> &'a Model {
        &self.portrait.models[&self.gpu(seen).model]
    }

    /// The GPU or MIG device of a handle; one that was destroyed, or cannot be seen any more, is invalid.
    pub fn device(&self, handle: Handle) -> Answer<Device<'_>> {
        match self.instance(handle) {
            Some((seen, Instance::Mig(instance, compute))) => {
                let devices = self.mig_devices(seen)?;
                if !devices.contains(&(instance, compute)) {
                    return Err(Code::INVALID_ARGUMENT);
                }
                Ok(Device::Mig(seen, instance, compute))
            }
            Some(_) => Err(Code::INVALID_ARGUMENT),
            None => self.seen(handle).map(Device::Gpu),
        }
    }

    /// What a handle of an instance stands for, whether that instance exists or not.
    pub fn instance(&self, handle: Handle) -> Option<(&Seen, Instance)> {
        let at = handle.checked_sub(INSTANCES.as_ptr() as usize)?;
        if at >= size_of_val(&INSTANCES) {
            return None;
        }
        let seen = self.with_minor((at / PER_GPU) as u32)?;
        Some((seen, Instance::at(at % PER_GPU)))
    }

    pub fn instance_handle(&self, seen: &Seen, instance: Instance) -> Handle {
        let minor = self.gpu(seen).minor as usize;
        INSTANCES.as_ptr() as usize + minor * PER_GPU + instance.slot()
    }

    pub fn with_minor(&self, minor: u32) -> Option<&Seen> {
        self.gpus.iter().find(|seen| self.gpu(seen).minor == minor)
    }

    /// Whether an event set of this program has the GPU.
    pub fn is_watched(&self, seen: &Seen) -> bool {
        let sets = self
            .event_sets
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        sets.values().any(|set| set.has(self.gpu(seen).minor))
    }

    pub fn partitioning(&self, seen: &Seen) -> Answer<Partitioning> {
        self.state.gpu(&self.portrait, self.gpu(seen).minor)
    }

    /// Ids of the MIG devices that can be seen, in the order of their indices.
    pub fn mig_devices(&self, seen: &Seen) -> Answer<Vec<(u32, u32)>> {
        self.state.devices(&self.portrait, self.gpu(seen).minor)
    }

    pub fn processes(&self, seen: &Seen) -> Answer<Vec<Process>> {
        self.state.processes(self.gpu(seen).minor)
    }

    pub fn gpu_instance(&self, seen: &Seen, id: u32) -> Answer<GpuInstance> {
        let state = self.partitioning(seen)?;
        state.instance(id).cloned().ok_or(Code::INVALID_ARGUMENT)
    }

    /// Changes how a GPU is partitioned.
    pub fn change<T>(
        &self,
        seen: &Seen,
        rule: impl FnOnce(&mut Partitioning, &[Process]) -> Answer<T>,
    ) -> Answer<T> {
        let minor = self.gpu(seen).minor;
        self.state.change(&self.portrait, minor, rule)
    }

    /// The GPU a handle was given out for.
    pub fn seen(&self, handle: Handle) -> Answer<&Seen> {
        let minor = handle.wrapping_sub(HANDLES.as_ptr() as usize) / size_of::<u64>();
        if handle < HANDLES.as_ptr() as usize || minor >= MINORS || handle != self.handle_of(minor)
        {
            return Err(Code::INVALID_ARGUMENT);
        }
        self.with_minor(minor as u32).ok_or(Code::INVALID_ARGUMENT)
    }

    /// The handle of a GPU; from now on its device node is held open.
    pub fn handle(&self, seen: &Seen) -> Handle {
        seen.held.get_or_init(|| hold(&seen.node));
        self.handle_of(self.gpu(seen).minor as usize)
    }

    fn handle_of(&self, minor: usize) -> Handle {
        HANDLES.as_ptr() as usize + minor * size_of::<u64>()
    }
}

struct Open {
    references: u64,
    portrait: Option<(Stamp, Arc<Portrait>)>,
}

type Stamp = (PathBuf, u64, i64, i64);

static OPEN: Mutex<Open> = Mutex::new(Open {
    references: 0,
    portrait: None,
});
static CURRENT: RwLock<Option<Arc<Session>>> = RwLock::new(None);

/// The open session.
pub fn current() -> Answer<Arc<Session>> {
    let current = CURRENT
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    current.as_ref().cloned().ok_or(Code::UNINITIALIZED)
}

/// One more reference; the first one looks at the root.
pub fn init(flags: u32) -> Answer {
    let mut open = OPEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if open.references == 0 {
        let session = look(location(), flags, &mut open.portrait)?;
        *CURRENT
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(Arc::new(session));
    }
    open.references += 1;
    Ok(())
}

/// One reference less; the last one closes the session.
pub fn shutdown() -> Answer {
    let mut open = OPEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match open.references {
        0 => return Err(Code::UNINITIALIZED),
        1 => {
            *CURRENT
                .write()
                .unwrap_or_else(|poisoned| poisoned.into_inner()) = None
        }
        _ => {}
    }
    open.references -= 1;
    Ok(())
}

/// Where this library lies: asked once, since a replaced driver moves the file away from under a running program.
pub fn location() -> &'static LibraryLocation {
    static LOCATION: OnceLock<LibraryLocation> = OnceLock::new();
    LOCATION.get_or_init(|| {
        let file = library_file().unwrap_or_else(|| PathBuf::from("/"));
        LibraryLocation::of_library(&std::fs::canonicalize(&file).unwrap_or(file))
    })
}

fn library_file() -> Option<PathBuf> {
    // SAFETY: all-zero is a valid Dl_info: pointers and integers.
    let mut about: libc::Dl_info = unsafe { std::mem::zeroed() };
    let own_address = location as *const () as *const libc::c_void;
    // SAFETY: the address is of our own code and `about` is ours to fill.
    if unsafe { libc::dladdr(own_address, &mut about) } == 0 || about.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader keeps this NUL-terminated name as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(about.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

fn look(
    location: &LibraryLocation,
    flags: u32,
    cached: &mut Option<(Stamp, Arc<Portrait>)>,
) -> Answer<Session> {
    if !location.root.join("dev/nvidiactl").exists() {
        return Err(Code::DRIVER_NOT_LOADED);
    }
    let portrait = portrait(location, cached)?;
    let visible = location.visible(&portrait);
    if visible.is_empty() && flags & INIT_FLAG_NO_GPUS == 0 {
        return Err(Code::GPU_NOT_FOUND);
    }
    let gpus = visible.iter().enumerate().map(|(index, gpu)| Seen {
        index: index as u32,
        pci: pci_of(&portrait, gpu),
        processors: [Scope::Node, Scope::Socket].map(|scope| processors(&portrait, gpu, scope)),
        position: portrait
            .gpus
            .iter()
            .position(|other| other.minor == gpu.minor)
            .unwrap_or_default(),
        uuid: portrait.uuid(gpu),
        address: address(&gpu.pci_bus_id.value).unwrap_or_default(),
        node: location.node(gpu),
        held: OnceLock::new(),
    });
    Ok(Session {
        driver_version: location.driver_version(&portrait),
        gpus: gpus.collect(),
        state: NodeState::of(&location.root),
        event_sets: Mutex::default(),
        _control: hold(&location.root.join("dev/nvidiactl")),
        portrait,
    })
}

fn pci_of(portrait: &Portrait, gpu: &Gpu) -> PciInfo {
    let model = &portrait.models[&gpu.model];
    let (device, subsystem) = (model.pci_device_id.value, model.pci_subsystem_id.value);
    PciInfo::new(
        address(&gpu.pci_bus_id.value).unwrap_or_default(),
        device,
        subsystem,
    )
}

/// The portrait beside the library, parsed again only when it is another file.
fn portrait(
    location: &LibraryLocation,
    cached: &mut Option<(Stamp, Arc<Portrait>)>,
) -> Answer<Arc<Portrait>> {
    let Some(file) = location.portrait_file() else {
        // Only files of another driver version are left: the driver was replaced while this library was loaded.
        let replaced = location.has_other_version();
        return Err(if replaced {
            Code::LIB_RM_VERSION_MISMATCH
        } else {
            tell(location.portrait().err())
        });
    };
    let about = std::fs::metadata(&file).map_err(|_| Code::LIB_RM_VERSION_MISMATCH)?;
    let stamp = (file, about.ino(), about.mtime(), about.mtime_nsec());
    if let Some((_, known)) = cached.as_ref().filter(|(known, _)| *known == stamp) {
        return Ok(known.clone());
    }
    let read = Arc::new(location.portrait().map_err(|error| tell(Some(error)))?);
    *cached = Some((stamp, read.clone()));
    Ok(read)
}

fn tell(error: Option<String>) -> Code {
    if let Some(error) = error {
        eprintln!("mock NVML: {error}");
    }
    Code::DRIVER_NOT_LOADED
}

/// An open descriptor, if the file lets itself be opened: device nodes without a driver do not.
fn hold(file: &Path) -> Option<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(file)
        .ok()
}
