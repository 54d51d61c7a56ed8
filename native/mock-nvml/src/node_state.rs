//! Partitions and settings of a root's GPUs, in files that all programs share and that outlive them.
//!
//! `var/lib/nvdra-mock/state.json` and `settings.json`, replaced at once and only under the lock of the file beside them; the lock is held
//! for reading, changing and writing, never while a simulated call takes its time. A root without that folder is a
//! container: it has no state and allows no change, and its capability nodes alone say which instances exist.
//!
//! A kill at any point leaves a consistent root: nodes are created before the state names them and removed afterwards. A
//! node that the state does not name has no effect; the next change removes it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::capabilities;
use crate::code::{Answer, Code};
use crate::partition::{ComputeInstance, GpuInstance, Partitioning, Process, placement};
use crate::portrait::Portrait;
use crate::settings::Settings;

const HOME: &str = "var/lib/nvdra-mock";
const STATE: &str = "state.json";
const SETTINGS: &str = "settings.json";
const RECOVERY: &str = "recovery.json";

pub struct NodeState {
    root: PathBuf,
    home: PathBuf,
    is_host: bool,
    /// The file as last read; it is kept open, so that no other file can get its inode number.
    last: Mutex<Option<(File, Arc<State>)>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// By minor; a GPU that was never partitioned is not in it.
    gpus: BTreeMap<u32, Partitioning>,
}

impl NodeState {
    pub fn of(root: &Path) -> NodeState {
        let home = root.join(HOME);
        NodeState {
            root: root.to_path_buf(),
            is_host: home.is_dir(),
            home,
            last: Mutex::new(None),
        }
    }

    /// The driver root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether partitions can be managed from here: not so in a container.
    pub fn is_host(&self) -> bool {
        self.is_host
    }

    pub fn events(&self) -> PathBuf {
        self.home.join("events")
    }

    /// How a GPU is partitioned, as far as it can be known from here.
    pub fn gpu(&self, portrait: &Portrait, minor: u32) -> Answer<Partitioning> {
        if !self.is_host {
            return Ok(self.seen(portrait, minor));
        }
        Ok(self
            .state()
            .map_err(told)?
            .gpus
            .get(&minor)
            .cloned()
            .unwrap_or_default())
    }

    /// The MIG devices of a GPU, as pairs of ids: an instance is one exactly if its two capability nodes are here.
    pub fn devices(&self, portrait: &Portrait, minor: u32) -> Answer<Vec<(u32, u32)>> {
        let state = self.gpu(portrait, minor)?;
        if state.instances.is_empty() {
            return Ok(Vec::new());
        }
        let nodes = capabilities::present(&self.root, portrait, minor);
        let all = state.instances.iter().flat_map(|instance| {
            instance
                .compute
                .iter()
                .map(|compute| (instance.id, compute.id))
        });
        let is_seen = |(instance, compute): &(u32, u32)| {
            nodes.contains(&(*instance, None)) && nodes.contains(&(*instance, Some(*compute)))
        };
        Ok(all.filter(is_seen).collect())
    }

    /// The programs that use a GPU.
    pub fn processes(&self, minor: u32) -> Answer<Vec<Process>> {
        let all: Vec<Process> = self.kept("processes.json").map_err(told)?;
        Ok(all
            .into_iter()
            .filter(|process| process.minor == minor)
            .collect())
    }

    /// Changes how a GPU is partitioned, or leaves everything as it was and says why.
    pub fn change<T>(
        &self,
        portrait: &Portrait,
        minor: u32,
        rule: impl FnOnce(&mut Partitioning, &[Process]) -> Answer<T>,
    ) -> Answer<T> {
        if !self.is_host {
            return Err(Code::NO_PERMISSION);
        }
        let _lock = self.lock().map_err(told)?;
        let mut state = (*self.state().map_err(told)?).clone();
        let gpu = state.gpus.entry(minor).or_default();
        let result = rule(gpu, &self.processes(minor)?)?;
        let gpu = gpu.clone();
        let proc = self.proc();
        capabilities::lay(&self.root, proc.as_deref(), portrait, minor, &gpu).map_err(told)?;
        self.replace(STATE, &state).map_err(told)?;
        capabilities::clear(&self.root, proc.as_deref(), portrait, minor, &gpu).map_err(told)?;
        Ok(result)
    }

    /// The settings of a GPU; a container knows of none.
    pub fn settings(&self, minor: u32) -> Answer<Settings> {
        let all = self.all_settings().map_err(told)?;
        Ok(all.get(&minor).copied().unwrap_or_default())
    }

    /// Changes the settings of a GPU, or leaves them as they were and says why. The rule hears whether MIG mode is on.
    pub fn set<T>(
        &self,
        portrait: &Portrait,
        minor: u32,
        rule: impl FnOnce(&mut Settings, bool) -> Answer<T>,
    ) -> Answer<T> {
        if !self.is_host {
            return Err(Code::NO_PERMISSION);
        }
        let _lock = self.lock().map_err(told)?;
        let mut all = self.all_settings().map_err(told)?;
        let gpu = all.entry(minor).or_default();
        let result = rule(gpu, self.gpu(portrait, minor)?.mode)?;
        self.replace(SETTINGS, &all).map_err(told)?;
        Ok(result)
    }

    /// What a GPU needs in order to recover, by NVML's numbers: 0, nothing, unless it was said from outside.
    pub fn recovery_action(&self, minor: u32) -> Answer<u32> {
        let all: BTreeMap<u32, u32> = self.kept(RECOVERY).map_err(told)?;
        Ok(all.get(&minor).copied().unwrap_or(0))
    }

    /// Forgets what a GPU needed: it was reset.
    pub fn recovered(&self, minor: u32) -> Answer {
        if self.recovery_action(minor)? == 0 {
            return Ok(());
        }
        self.keep(RECOVERY, |all: &mut BTreeMap<u32, u32>| all.remove(&minor))?;
        Ok(())
    }

    /// What `change` makes of a small file of its own in here, under the lock; a container has none, and forgets.
    pub fn keep<T: Default + Serialize + DeserializeOwned, R>(
        &self,
        name: &str,
        change: impl FnOnce(&mut T) -> R,
    ) -> Answer<R> {
        if !self.is_host {
            return Ok(change(&mut T::default()));
        }
        let _lock = self.lock().map_err(told)?;
        let mut value = self.kept(name).map_err(told)?;
        let result = change(&mut value);
        self.replace(name, &value).map_err(told)?;
        Ok(result)
    }

    /// The instances that capability nodes tell of, which is all a container knows.
    fn seen(&self, portrait: &Portrait, minor: u32) -> Partitioning {
        let mut state = Partitioning::default();
        for (id, compute) in capabilities::present(&self.root, portrait, minor) {
            state.mode = true;
            let (start, size) = placement(id);
            if state.instance(id).is_none() {
                state.instances.push(GpuInstance {
                    id,
                    profile: None,
                    start,
                    size,
                    compute: Vec::new(),
                });
            }
            if let (Some(id), Some(instance)) = (compute, state.instances.last_mut()) {
                instance.compute.push(ComputeInstance {
                    id,
                    profile: None,
                    start: 0,
                    size: 0,
                });
            }
        }
        state.pending = state.mode;
        state
    }

    fn lock(&self) -> io::Result<File> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(self.home.join("lock"))?;
        // SAFETY: a descriptor of ours; the lock goes with it.
        while unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(file)
    }

    fn state(&self) -> io::Result<Arc<State>> {
        let file = self.home.join(STATE);
        let now = match fs::metadata(&file) {
            Ok(about) => about,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(error),
        };
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((open, state)) = last.as_ref() {
            let about = open.metadata()?;
            if (about.dev(), about.ino()) == (now.dev(), now.ino()) {
                return Ok(state.clone());
            }
        }
        let open = File::open(&file)?;
        let state: Arc<State> = serde_json::from_reader(io::BufReader::new(&open))
            .map(Arc::new)
            .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
        *last = Some((open, state.clone()));
        Ok(state)
    }

    fn all_settings(&self) -> io::Result<BTreeMap<u32, Settings>> {
        self.kept(SETTINGS)
    }

    fn kept<T: Default + DeserializeOwned>(&self, name: &str) -> io::Result<T> {
        let file = self.home.join(name);
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| io::Error::other(format!("{}: {error}", file.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
            Err(error) => Err(error),
        }
    }

    fn replace(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let new = self.home.join(format!("{name}.new"));
        fs::write(&new, serde_json::to_vec_pretty(value)?)?;
        fs::rename(&new, self.home.join(name))
    }

    /// The stand-in for `/proc`: a link says where, unless it lies in the root.
    fn proc(&self) -> Option<PathBuf> {
        let link = self.home.join("proc");
        [link, self.root.join("stand-ins/proc")]
            .into_iter()
            .find(|folder| folder.is_dir())
    }
}

/// What a failed file operation is to the caller of NVML; a person finds the rest on stderr.
fn told(error: io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Code::NO_PERMISSION,
        _ => {
            eprintln!("mock NVML: state of the GPUs: {error}");
            Code::OPERATING_SYSTEM
        }
    }
}
