//! Faults on demand: a JSON file says which calls fail, wait or hang. It may change while a program runs.
//!
//! The file is `$NVDRA_MOCK_FAULTS` if that is set, else `etc/nvdra-mock-faults.json` in the driver root. It is looked
//! at again when 5 ms have passed since the last look, and read again when it is another file or was changed: a call
//! that starts 10 ms after a change knows it. Each process counts how often a rule applied since it read the file.
//!
//! Commands of the `nvidia-smi` stand-in have faults like functions. A process carries out one command and ends: there
//! strikes are counted over all processes, in a file beside the state, for as long as the fault file stays the same.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant};

use crate::code::{Answer, Code, named};
use crate::functions::Function;
use crate::node_state::NodeState;

const LOOK_AGAIN: Duration = Duration::from_millis(5);
const IN_ROOT: &str = "etc/nvdra-mock-faults.json";
const STRIKES: &str = "strikes.json";

/// The commands of the `nvidia-smi` stand-in that faults can strike.
pub const LIST_POLICIES: &str = "nvidia-smi compute-policy -l";
pub const SET_TIME_SLICE: &str = "nvidia-smi compute-policy --set-timeslice";
pub const SET_COMPUTE_MODE: &str = "nvidia-smi -c";
const COMMANDS: &[&str] = &[LIST_POLICIES, SET_TIME_SLICE, SET_COMPUTE_MODE];

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultFile {
    #[serde(default)]
    faults: Vec<Fault>,
    /// A file to count calls in (`calls.rs`); a relative path starts at the driver root.
    #[serde(default)]
    calls: Option<PathBuf>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    /// A symbol's name or a command's, or the beginning of one and `*`; absent: every one.
    #[serde(default)]
    function: Option<String>,
    /// Only calls that concern the GPU with this minor.
    #[serde(default)]
    minor: Option<u32>,
    /// What to return: a number, or a name as in nvml.h.
    #[serde(default)]
    code: Option<CodeText>,
    /// Let this many matching calls pass first.
    #[serde(default)]
    after: u64,
    /// Strike this often, then never again; absent: always.
    #[serde(default)]
    times: Option<u64>,
    #[serde(default)]
    delay_ms: u64,
    /// The call never returns.
    #[serde(default)]
    hang: bool,
    /// Before the call does its work, or after it did.
    #[serde(default)]
    when: When,
    /// The GPU fell off the bus: the same as `code: GPU_IS_LOST`.
    #[serde(default)]
    lost: bool,
    #[serde(skip)]
    seen: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    #[default]
    Before,
    After,
}

#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum CodeText {
    Number(u32),
    Name(String),
}

impl Fault {
    fn code(&self) -> Result<Option<Code>, String> {
        match &self.code {
            None => Ok(self.lost.then_some(Code::GPU_IS_LOST)),
            Some(CodeText::Number(number)) => Ok(Some(Code(*number))),
            Some(CodeText::Name(name)) => named(name)
                .map(Some)
                .ok_or_else(|| format!("no NVML code is named {name:?}")),
        }
    }

    fn check(&self) -> Result<(), String> {
        let code = self.code()?;
        if self.lost && self.minor.is_none() {
            return Err("\"lost\" needs the \"minor\" of the GPU that is lost".into());
        }
        if code.is_none() && !self.hang && self.delay_ms == 0 {
            return Err("a fault needs one of \"code\", \"lost\", \"delay_ms\", \"hang\"".into());
        }
        let name = self.function.as_deref().unwrap_or_default();
        let opens_or_closes = ["nvmlInit", "nvmlShutdown"];
        if self.when == When::After && opens_or_closes.iter().any(|begin| name.starts_with(begin)) {
            return Err(format!(
                "{name:?} can be struck before its work only: a session is open or it is not"
            ));
        }
        match self.function.as_deref() {
            Some(name)
                if name.ends_with('*')
                    || Function::NAMES.contains(&name)
                    || COMMANDS.contains(&name) =>
            {
                Ok(())
            }
            Some(name) => Err(format!(
                "there is no function {name:?} in this library, and no such command of nvidia-smi"
            )),
            None => Ok(()),
        }
    }

    /// name   of a function or a command
    fn matches(&self, name: &str, minors: &[u32]) -> bool {
        let of_function = match self.function.as_deref() {
            None => true,
            Some(pattern) => match pattern.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == pattern,
            },
        };
        of_function && self.minor.is_none_or(|minor| minors.contains(&minor))
    }

    /// Whether this call, which matches, is one the rule strikes.
    fn strikes(&self) -> bool {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        seen >= self.after && self.times.is_none_or(|times| seen - self.after < times)
    }

    /// Takes its time, or never returns, or is the code to fail with.
    fn take_place(&self) -> Answer {
        if self.delay_ms > 0 {
            std::thread::sleep(Duration::from_millis(self.delay_ms));
        }
        if self.hang {
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        match self.code() {
            Ok(None) | Err(_) => Ok(()),
            // SUCCESS too: the call says that it was done, and does nothing.
            Ok(Some(code)) => Err(code),
        }
    }
}

/// What tells one state of a file from another.
type Seen = (u64, u64, i64, i64, u64);
type Stamp = Option<Seen>;

/// The rules as read, or what is wrong with their file.
type Rules = Arc<Result<Vec<Fault>, String>>;

struct Watched {
    file: PathBuf,
    root: PathBuf,
    started: Instant,
    /// Milliseconds after `started` when the file is to be looked at again.
    next_look_ms: AtomicU64,
    /// Whether there is anything to strike: the fast way out.
    armed: AtomicBool,
    rules: RwLock<(Stamp, Rules)>,
}

static WATCHED: OnceLock<Watched> = OnceLock::new();

/// Where faults and counts are asked for, known from the first call on.
pub fn begin(root: &Path) {
    WATCHED.get_or_init(|| {
        if let Some(calls) = std::env::var_os("NVDRA_MOCK_CALLS").filter(|calls| !calls.is_empty())
        {
            report(crate::calls::count_into(Path::new(&calls)));
        }
        Watched {
            file: fault_file(root),
            root: root.to_path_buf(),
            started: Instant::now(),
            next_look_ms: AtomicU64::new(0),
            armed: AtomicBool::new(false),
            rules: RwLock::new((None, Arc::new(Ok(Vec::new())))),
        }
    });
    look();
}

/// The fault that strikes this call before it does its work; `minors` are the GPUs the call concerns.
pub fn strike(function: Function, minors: &[u32]) -> Answer {
    strike_when(When::Before, function, minors)
}

/// What the call comes to, unless a fault strikes it before its work or after.
pub fn around(function: Function, minors: &[u32], work: impl FnOnce() -> Answer) -> Answer {
    strike(function, minors)?;
    work()?;
    strike_when(When::After, function, minors)
}

fn strike_when(when: When, function: Function, minors: &[u32]) -> Answer {
    let Some(watched) = WATCHED
        .get()
        .filter(|watched| watched.armed.load(Ordering::Acquire))
    else {
        return Ok(());
    };
    let rules = watched
        .rules
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .1
        .clone();
    // A fault file with an error in it fails every call: a test with a slip in its faults must not pass.
    let rules = rules.as_ref().as_ref().map_err(|_| Code::UNKNOWN)?;
    let is_meant = |fault: &&Fault| fault.when == when && fault.matches(function.name(), minors);
    for fault in rules.iter().filter(is_meant) {
        if fault.strikes() {
            fault.take_place()?;
        }
    }
    Ok(())
}

/// What a command of a program comes to on one GPU, unless a fault strikes it before its work or after.
pub fn around_command<T>(
    root: &Path,
    state: &NodeState,
    command: &str,
    minor: u32,
    work: impl FnOnce() -> Answer<T>,
) -> Answer<T> {
    let file = fault_file(root);
    let Some(stamp) = stamp(&file) else {
        return work();
    };
    let faults = parse(&file)
        .inspect_err(|error| report(Err(error.clone())))
        .map_err(|_| Code::UNKNOWN)?
        .faults;
    let strike = |when: When| -> Answer {
        // Counted at once: a command that hangs has been struck too, and holds no lock.
        let struck = state.keep(STRIKES, |strikes: &mut Strikes| {
            if strikes.of != Some(stamp) {
                *strikes = Strikes {
                    of: Some(stamp),
                    seen: vec![0; faults.len()],
                };
            }
            let mut struck = Vec::new();
            for (fault, seen) in faults.iter().zip(&mut strikes.seen) {
                if fault.when == when && fault.matches(command, &[minor]) {
                    fault.seen.store(*seen, Ordering::Relaxed);
                    *seen += 1;
                    struck.extend(fault.strikes().then_some(fault));
                }
            }
            struck
        })?;
        struck.into_iter().try_for_each(Fault::take_place)
    };
    strike(When::Before)?;
    let result = work()?;
    strike(When::After)?;
    Ok(result)
}

/// How many commands each fault of a file has matched, in all processes together.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Strikes {
    of: Option<Seen>,
    seen: Vec<u64>,
}

fn look() {
    let Some(watched) = WATCHED.get() else { return };
    let now = watched.started.elapsed().as_millis() as u64;
    if now < watched.next_look_ms.load(Ordering::Acquire) {
        return;
    }
    let stamp = stamp(&watched.file);
    let mut rules = watched
        .rules
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if rules.0 != stamp {
        let read = if stamp.is_some() {
            read(&watched.file, &watched.root)
        } else {
            Ok(Vec::new())
        };
        if let Err(error) = &read {
            report(Err(error.clone()));
        }
        watched.armed.store(
            read.as_ref().map_or(true, |faults| !faults.is_empty()),
            Ordering::Release,
        );
        *rules = (stamp, Arc::new(read));
    }
    watched
        .next_look_ms
        .store(now + LOOK_AGAIN.as_millis() as u64, Ordering::Release);
}

fn stamp(file: &Path) -> Stamp {
    let about = fs::metadata(file).ok()?;
    Some((
        about.dev(),
        about.ino(),
        about.mtime(),
        about.mtime_nsec(),
        about.len(),
    ))
}

fn fault_file(root: &Path) -> PathBuf {
    let file = std::env::var_os("NVDRA_MOCK_FAULTS").filter(|file| !file.is_empty());
    file.map_or_else(|| root.join(IN_ROOT), PathBuf::from)
}

fn read(file: &Path, root: &Path) -> Result<Vec<Fault>, String> {
    let parsed = parse(file)?;
    if let Some(calls) = parsed.calls {
        report(crate::calls::count_into(&root.join(calls)));
    }
    Ok(parsed.faults)
}

fn parse(file: &Path) -> Result<FaultFile, String> {
    let told = |error: String| {
        format!(
            "{}: {error}; every call fails until it is mended",
            file.display()
        )
    };
    let text = fs::read_to_string(file).map_err(|error| told(error.to_string()))?;
    let parsed: FaultFile = serde_json::from_str(&text).map_err(|error| told(error.to_string()))?;
    for (index, fault) in parsed.faults.iter().enumerate() {
        fault
            .check()
            .map_err(|error| told(format!("fault {index}: {error}")))?;
    }
    Ok(parsed)
}

fn report(result: Result<(), String>) {
    if let Err(error) = result {
        eprintln!("mock NVML: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The functions a rule reaches.
    fn reached(fault: &Fault, minors: &[u32]) -> BTreeSet<&'static str> {
        let all = Function::ALL
            .iter()
            .filter(|function| fault.matches(function.name(), minors));
        all.map(|function| function.name()).collect()
    }

    fn fault(text: &str) -> Fault {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn patterns() {
        assert_eq!(
            reached(&fault(r#"{"function": "nvmlDeviceGetName"}"#), &[]),
            BTreeSet::from(["nvmlDeviceGetName"])
        );
        let init = reached(&fault(r#"{"function": "nvmlInit*"}"#), &[]);
        assert_eq!(
            init,
            BTreeSet::from(["nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags"])
        );
        assert!(reached(&fault(r#"{"minor": 3, "lost": true}"#), &[2]).is_empty());
        assert!(!reached(&fault(r#"{"minor": 3, "lost": true}"#), &[2, 3]).is_empty());
    }

    #[test]
    fn commands_are_named_like_functions() {
        let fault = fault(r#"{"function": "nvidia-smi compute-policy*", "code": 3}"#);
        assert_eq!(fault.check(), Ok(()));
        let struck = |command: &&&str| fault.matches(command, &[0]);
        assert_eq!(
            COMMANDS.iter().filter(struck).collect::<Vec<_>>(),
            [&LIST_POLICIES, &SET_TIME_SLICE]
        );
        assert!(reached(&fault, &[0]).is_empty());
    }

    #[test]
    fn after_and_times() {
        let fault = fault(r#"{"code": 15, "after": 2, "times": 1}"#);
        assert_eq!(
            (0..5).map(|_| fault.strikes()).collect::<Vec<_>>(),
            [false, false, true, false, false]
        );
    }

    #[test]
    fn slips_are_named() {
        for (text, word) in [
            (r#"{"code": "GONE"}"#, "GONE"),
            (r#"{"lost": true}"#, "minor"),
            (
                r#"{"function": "nvmlDeviceGetNames", "code": 1}"#,
                "nvmlDeviceGetNames",
            ),
            (
                r#"{"function": "nvidia-smi compute-mode", "code": 1}"#,
                "nvidia-smi compute-mode",
            ),
            (r#"{"minor": 1}"#, "delay_ms"),
            (
                r#"{"function": "nvmlInit*", "code": 1, "when": "after"}"#,
                "nvmlInit",
            ),
        ] {
            assert!(fault(text).check().unwrap_err().contains(word), "{text}");
        }
    }
}
