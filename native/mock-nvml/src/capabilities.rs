//! Capability nodes and files: they let a container see and use an instance.
//!
//! Minors are a fixed function of the GPU's place among the portrait's minors and the instance's ids: 15 GPU instances
//! of 8 compute instances on each GPU, as `/proc/driver/nvidia-caps/mig-minors` counts them (documented).

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io::ErrorKind};

use crate::partition::{COMPUTE_INSTANCES, GPU_INSTANCES, Partitioning};
use crate::portrait::Portrait;

const MAJOR: u32 = 234;
/// The first two are for configuring and monitoring.
const FIRST: u32 = 3;
const PER_INSTANCE: u32 = 1 + COMPUTE_INSTANCES;
const PER_GPU: u32 = GPU_INSTANCES * PER_INSTANCE;
/// Documented: `DeviceFileMode: 292`.
const MODE: u32 = 0o444;
const PREFIX: &str = "nvidia-cap";

/// The minors of one GPU's capability nodes start here.
fn first_of(portrait: &Portrait, gpu: u32) -> u32 {
    let before = portrait.gpus.iter().filter(|other| other.minor < gpu);
    FIRST + before.count() as u32 * PER_GPU
}

/// The minor of the node for a GPU instance, or for a compute instance in it.
pub fn minor(portrait: &Portrait, gpu: u32, instance: u32, compute: Option<u32>) -> u32 {
    first_of(portrait, gpu) + instance * PER_INSTANCE + compute.map_or(0, |id| 1 + id)
}

/// Capability nodes of one GPU that lie in a root: instance, and compute instance if it is one's.
pub fn present(root: &Path, portrait: &Portrait, gpu: u32) -> BTreeSet<(u32, Option<u32>)> {
    let first = first_of(portrait, gpu);
    minors_in(root)
        .into_iter()
        .filter(|minor| (first..first + PER_GPU).contains(minor))
        .map(|minor| {
            let (instance, within) = (
                (minor - first) / PER_INSTANCE,
                (minor - first) % PER_INSTANCE,
            );
            (instance, within.checked_sub(1))
        })
        .collect()
}

fn minors_in(root: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(root.join("dev/nvidia-caps")) else {
        return Vec::new();
    };
    let minor = |entry: fs::DirEntry| {
        entry
            .file_name()
            .to_str()?
            .strip_prefix(PREFIX)?
            .parse()
            .ok()
    };
    entries.flatten().filter_map(minor).collect()
}

/// Nodes and files of all instances of a GPU, made where they are missing.
///
/// proc   the stand-in for `/proc`, if it is known where it lies
pub fn lay(
    root: &Path,
    proc: Option<&Path>,
    portrait: &Portrait,
    gpu: u32,
    state: &Partitioning,
) -> io::Result<()> {
    for (instance, compute) in wanted(state) {
        let minor = minor(portrait, gpu, instance, compute);
        let node = root.join(format!("dev/nvidia-caps/{PREFIX}{minor}"));
        if !node.exists() {
            fs::create_dir_all(root.join("dev/nvidia-caps"))?;
            make_node(&root.join("dev"), &node, MAJOR, minor, MODE)?;
        }
        if let Some(proc) = proc {
            let folder = folder(proc, gpu, instance, compute);
            fs::create_dir_all(&folder)?;
            let text =
                format!("DeviceFileMinor: {minor}\nDeviceFileMode: {MODE}\nDeviceFileModify: 1\n");
            appear(&folder.join("access"), &text)?;
        }
    }
    Ok(())
}

/// A file with this text, whole at every moment that another program may read it, as those of `/proc` are.
fn appear(file: &Path, text: &str) -> io::Result<()> {
    if fs::read(file).is_ok_and(|known| known == text.as_bytes()) {
        return Ok(());
    }
    let beside = file.with_extension("new");
    fs::write(&beside, text)?;
    fs::rename(beside, file)
}

/// Nodes and files of a GPU's instances that are no more, gone.
pub fn clear(
    root: &Path,
    proc: Option<&Path>,
    portrait: &Portrait,
    gpu: u32,
    state: &Partitioning,
) -> io::Result<()> {
    let wanted: BTreeSet<_> = wanted(state).into_iter().collect();
    for (instance, compute) in present(root, portrait, gpu) {
        if !wanted.contains(&(instance, compute)) {
            let minor = minor(portrait, gpu, instance, compute);
            gone(fs::remove_file(
                root.join(format!("dev/nvidia-caps/{PREFIX}{minor}")),
            ))?;
        }
    }
    let Some(proc) = proc else { return Ok(()) };
    for instance in 0..GPU_INSTANCES {
        if !wanted.contains(&(instance, None)) {
            gone(fs::remove_dir_all(folder(proc, gpu, instance, None)))?;
            continue;
        }
        for compute in (0..COMPUTE_INSTANCES).filter(|id| !wanted.contains(&(instance, Some(*id))))
        {
            gone(fs::remove_dir_all(folder(
                proc,
                gpu,
                instance,
                Some(compute),
            )))?;
        }
    }
    Ok(())
}

fn wanted(state: &Partitioning) -> Vec<(u32, Option<u32>)> {
    let of = |instance: &crate::partition::GpuInstance| {
        let id = instance.id;
        let compute = instance
            .compute
            .iter()
            .map(move |compute| (id, Some(compute.id)));
        [(id, None)].into_iter().chain(compute).collect::<Vec<_>>()
    };
    state.instances.iter().flat_map(of).collect()
}

fn folder(proc: &Path, gpu: u32, instance: u32, compute: Option<u32>) -> PathBuf {
    let folder = proc.join(format!(
        "driver/nvidia/capabilities/gpu{gpu}/mig/gi{instance}"
    ));
    match compute {
        Some(id) => folder.join(format!("ci{id}")),
        None => folder,
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A device node, or a plain file in a root whose nodes are plain files (its `nvidiactl` tells).
pub fn make_node(dev: &Path, node: &Path, major: u32, minor: u32, mode: u32) -> io::Result<()> {
    let control = fs::symlink_metadata(dev.join("nvidiactl"));
    if control.is_ok_and(|about| !about.file_type().is_char_device()) {
        fs::write(node, "")?;
    } else {
        let name = CString::new(node.as_os_str().as_bytes())?;
        let (kind, device) = (libc::S_IFCHR | mode, libc::makedev(major, minor));
        // SAFETY: a NUL-terminated path of ours; the call touches no memory of this process.
        if unsafe { libc::mknod(name.as_ptr(), kind, device) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // The mask of the process has taken permissions away.
    fs::set_permissions(node, fs::Permissions::from_mode(mode))
}
