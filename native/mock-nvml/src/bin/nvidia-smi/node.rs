//! The node as seen from this program's location.

use std::ffi::{CStr, OsStr};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nvdra_mock_nvml::location::LibraryLocation;
use nvdra_mock_nvml::node_state::NodeState;
use nvdra_mock_nvml::notation::address;
use nvdra_mock_nvml::portrait::{Gpu, Portrait};

use crate::{Failure, Outcome};

const LOG: &str = "var/log/nvdra-mock-smi.log";

pub struct Node {
    pub location: LibraryLocation,
    pub portrait: Portrait,
    pub state: NodeState,
}

/// The file of this program: from procfs, or as it was named at the start, for a chroot that has no procfs.
pub fn own_file() -> Option<PathBuf> {
    if let Ok(file) = fs::read_link("/proc/self/exe") {
        return Some(file);
    }
    // SAFETY: reads one word of the auxiliary vector.
    let name = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const libc::c_char;
    if name.is_null() {
        return None;
    }
    // SAFETY: the kernel put the NUL-terminated name above the stack, where it stays.
    let name = unsafe { CStr::from_ptr(name) };
    fs::canonicalize(OsStr::from_bytes(name.to_bytes())).ok()
}

impl Node {
    /// The node, or why there is none to be seen.
    pub fn here() -> Outcome<Node> {
        let failed = |why: &str| {
            let advice = "Make sure that the latest NVIDIA driver is installed and running.";
            let text =
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.";
            Failure(format!("{text} {advice}\n(mock: {why})"), 9)
        };
        let program = own_file().ok_or_else(|| failed("this program cannot tell where it lies"))?;
        let location = LibraryLocation::of_program(&program)
            .ok_or_else(|| failed("no libnvidia-ml.so.1 in this root"))?;
        let portrait = location.portrait().map_err(|error| failed(&error))?;
        Ok(Node {
            state: NodeState::of(&location.root),
            location,
            portrait,
        })
    }

    pub fn visible(&self) -> Outcome<Vec<&Gpu>> {
        let gpus = self.location.visible(&self.portrait);
        if gpus.is_empty() {
            Err(Failure("No devices were found".into(), 6))
        } else {
            Ok(gpus)
        }
    }

    /// The GPUs chosen by `-i`, several with commas between, with their indices; all without it.
    pub fn chosen(&self, choice: Option<&str>) -> Outcome<Vec<(usize, &Gpu)>> {
        let all: Vec<(usize, &Gpu)> = self.visible()?.into_iter().enumerate().collect();
        let Some(choice) = choice else { return Ok(all) };
        let is_it = |index: usize, gpu: &Gpu, choice: &str| {
            choice.parse() == Ok(index)
                || self.portrait.uuid(gpu) == choice
                || (choice.contains(':') && address(choice) == address(&gpu.pci_bus_id.value))
        };
        let is_chosen =
            |(index, gpu): &(usize, &Gpu)| choice.split(',').any(|one| is_it(*index, gpu, one));
        let found: Vec<_> = all.into_iter().filter(is_chosen).collect();
        if found.is_empty() {
            Err(Failure("No devices were found".into(), 6))
        } else {
            Ok(found)
        }
    }

    pub fn write_down(&self, arguments: &[String]) {
        let file = self.location.root.join(LOG);
        // A root that cannot be written is as good as any other; what was asked for is then not kept.
        let _ = fs::create_dir_all(file.parent().unwrap_or(Path::new("/")));
        if let Ok(mut log) = OpenOptions::new().create(true).append(true).open(file) {
            let _ = log.write_all(format!("{}\n", arguments.join(" ")).as_bytes());
        }
    }
}
