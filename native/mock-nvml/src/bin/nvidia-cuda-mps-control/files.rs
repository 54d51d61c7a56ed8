//! Where the daemon keeps its sockets and logs, and what is to go wrong.

use std::env;
use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

pub const CONTROL: &str = "control";
pub const PID: &str = "nvidia-cuda-mps-control.pid";
pub const PRIVILEGED: &str = "control_privileged";
const FAULTS: &str = "etc/nvdra-mock-mps";

pub struct Folders {
    pub pipe: PathBuf,
    pub log: PathBuf,
    root: PathBuf,
}

impl Folders {
    /// As the environment says, below the root that this program lies in.
    pub fn here() -> Folders {
        let named = |name: &str, otherwise: &str| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map_or_else(|| PathBuf::from(otherwise), PathBuf::from)
        };
        // A chroot without /proc does not tell: there the root is /.
        let root = env::current_exe()
            .ok()
            .and_then(|file| Some(file.parent()?.parent()?.parent()?.to_path_buf()))
            .unwrap_or_else(|| PathBuf::from("/"));
        Folders {
            pipe: named("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"),
            log: named("CUDA_MPS_LOG_DIRECTORY", "/var/log/nvidia-mps"),
            root,
        }
    }

    /// Whether this is to go wrong now.
    pub fn has_fault(&self, word: &str) -> bool {
        fs::read_to_string(self.root.join(FAULTS))
            .is_ok_and(|text| text.lines().any(|line| line.trim() == word))
    }

    /// A connection to the daemon.
    pub fn connect(&self) -> io::Result<UnixStream> {
        short(&self.pipe, CONTROL, |path| UnixStream::connect(path))
    }

    pub fn listen(&self, name: &str) -> io::Result<UnixListener> {
        let _ = fs::remove_file(self.pipe.join(name));
        short(&self.pipe, name, |path| UnixListener::bind(path))
    }
}

/// Socket paths may have 107 bytes only: the folder is entered, and its socket called by name.
fn short<T>(folder: &Path, name: &str, call: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    env::set_current_dir(folder)?;
    call(Path::new(name))
}
