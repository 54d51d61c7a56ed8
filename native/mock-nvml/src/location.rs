//! The location of the library or of the nvidia-smi stand-in, and the GPUs visible from there.
//!
//! No environment and no configuration: the driver root is the folder above the library's own, and a GPU is visible
//! exactly if `dev/nvidia<minor>` exists in that root.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::portrait::{Gpu, Portrait};

/// Where a driver root keeps its libraries, as the Go driver searches them; the root itself last.
pub const LIBRARY_FOLDERS: &[&str] = &[
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
];
/// Where it keeps its programs.
pub const PROGRAM_FOLDERS: &[&str] = &["opt/bin", "usr/bin", "usr/sbin", "bin", "sbin"];

const PORTRAIT_PREFIX: &str = "libnvdra-mock-portrait.so.";
const LIBRARY_PREFIX: &str = "libnvidia-ml.so.";
/// Ends the shared object that the portrait beside the library begins with.
const MARK: &[u8] = b"\nnvdra mock portrait\n";
const PORTRAIT_IN_ETC: &str = "etc/nvdra-mock-portrait.json";

/// A driver root and the portrait found in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryLocation {
    pub root: PathBuf,
    /// The folder with the libraries.
    pub folder: PathBuf,
    /// The driver's version, as the library's file name has it.
    pub version: Option<String>,
}

impl LibraryLocation {
    /// The location of a library file (links already followed).
    pub fn of_library(file: &Path) -> LibraryLocation {
        let folder = file.parent().unwrap_or(Path::new("/")).to_path_buf();
        let name = file.file_name().and_then(OsStr::to_str).unwrap_or("");
        let version = name
            .strip_prefix(LIBRARY_PREFIX)
            .filter(|suffix| suffix.contains('.'))
            .map(String::from);
        LibraryLocation {
            root: above(&folder, LIBRARY_FOLDERS),
            folder,
            version,
        }
    }

    /// The location that a program belongs to: its root, and the first library folder there with the mock.
    pub fn of_program(file: &Path) -> Option<LibraryLocation> {
        let root = above(file.parent()?, PROGRAM_FOLDERS);
        LIBRARY_FOLDERS
            .iter()
            .map(|folder| root.join(folder))
            .chain([root.clone()])
            .find_map(|folder| {
                let library = fs::canonicalize(folder.join("libnvidia-ml.so.1"))
                    .ok()
                    .or_else(|| versioned(&folder))?;
                Some(LibraryLocation {
                    root: root.clone(),
                    ..LibraryLocation::of_library(&library)
                })
            })
    }

    /// The portrait's file: beside the library under the library's own version, or below `etc`.
    ///
    /// `None`: there is none, or only one of another version: then the driver was replaced under us.
    pub fn portrait_file(&self) -> Option<PathBuf> {
        let beside = match &self.version {
            Some(version) => Some(self.folder.join(format!("{PORTRAIT_PREFIX}{version}"))),
            None => any_with_prefix(&self.folder, PORTRAIT_PREFIX),
        };
        beside.filter(|file| file.is_file()).or_else(|| {
            let in_etc = self.root.join(PORTRAIT_IN_ETC);
            let still_here = self.version.is_none()
                || self
                    .folder
                    .join(format!("{LIBRARY_PREFIX}{}", self.version.as_deref()?))
                    .is_file();
            (in_etc.is_file() && still_here).then_some(in_etc)
        })
    }

    /// Whether a portrait of some other driver version lies here.
    pub fn has_other_version(&self) -> bool {
        any_with_prefix(&self.folder, PORTRAIT_PREFIX).is_some()
            || self.root.join(PORTRAIT_IN_ETC).is_file()
    }

    /// The portrait that lies here.
    pub fn portrait(&self) -> Result<Portrait, String> {
        let file = self.portrait_file().ok_or_else(|| {
            format!(
                "no portrait: neither {}/{PORTRAIT_PREFIX}<version> nor {}/{PORTRAIT_IN_ETC} exists; \
                 lay out the root with `nvdra-mock-nvml root`",
                self.folder.display(),
                self.root.display()
            )
        })?;
        let content = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        Portrait::parse(text_of(&content)).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// The driver's version: the library's file name decides, then the portrait.
    pub fn driver_version(&self, portrait: &Portrait) -> String {
        self.version
            .clone()
            .unwrap_or_else(|| portrait.driver_version.value.clone())
    }

    pub fn node(&self, gpu: &Gpu) -> PathBuf {
        self.root.join(format!("dev/nvidia{}", gpu.minor))
    }

    /// The GPUs that can be seen from here, in PCI order: NVML's index is the position in this list.
    pub fn visible<'a>(&self, portrait: &'a Portrait) -> Vec<&'a Gpu> {
        let mut gpus: Vec<&Gpu> = portrait
            .gpus
            .iter()
            .filter(|gpu| self.node(gpu).exists())
            .collect();
        gpus.sort_by_key(|gpu| crate::notation::address(&gpu.pci_bus_id.value));
        gpus
    }
}

/// The portrait's text: the whole file, or what follows the mark in one that is a shared object for tools that look.
fn text_of(content: &[u8]) -> &str {
    let at = content
        .windows(MARK.len())
        .position(|window| window == MARK)
        .map_or(0, |at| at + MARK.len());
    std::str::from_utf8(&content[at..]).unwrap_or("")
}

/// What is left of `folder` when the first of `tails` it ends in is taken off; itself if it ends in none.
pub fn above(folder: &Path, tails: &[&str]) -> PathBuf {
    for tail in tails {
        if folder.ends_with(tail) {
            let depth = Path::new(tail).components().count();
            return folder
                .ancestors()
                .nth(depth)
                .unwrap_or(Path::new("/"))
                .to_path_buf();
        }
    }
    folder.to_path_buf()
}

fn any_with_prefix(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(prefix))
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.pop()
}

/// The library under its versioned name: in a container the links may not be made yet.
fn versioned(folder: &Path) -> Option<PathBuf> {
    any_with_prefix(folder, LIBRARY_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_above_the_library_folder() {
        for (file, root) in [
            ("/r/usr/lib64/libnvidia-ml.so.1", "/r"),
            ("/r/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.1.2", "/r"),
            ("/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.580.1.2", "/"),
            ("/r/lib64/libnvidia-ml.so.1", "/r"),
            ("/lib/x86_64-linux-gnu/libnvidia-ml.so.1", "/"),
            ("/r/libnvidia-ml.so.1", "/r"),
        ] {
            assert_eq!(
                LibraryLocation::of_library(Path::new(file)).root,
                Path::new(root),
                "{file}"
            );
        }
    }

    #[test]
    fn a_portrait_may_follow_a_shared_object() {
        assert_eq!(text_of(b"{}"), "{}");
        assert_eq!(text_of(b"\x7fELF\xff\nnvdra mock portrait\n{}"), "{}");
        assert_eq!(text_of(b"\x7fELF\xff"), "");
    }

    #[test]
    fn the_version_is_in_the_file_name() {
        let version =
            |name: &str| LibraryLocation::of_library(&Path::new("/r/usr/lib64").join(name)).version;
        assert_eq!(
            version("libnvidia-ml.so.580.159.04").as_deref(),
            Some("580.159.04")
        );
        assert_eq!(version("libnvidia-ml.so.1"), None);
    }
}
