//! Faults on demand: which calls fail, wait or hang, as a JSON file says that may change while a program runs.
//!
//! The file is `$NVDRA_MOCK_FAULTS` if that is set, else `etc/nvdra-mock-faults.json` in the driver root. It is looked
//! at again when 5 ms have passed since the last look, and read again when it is another file or was changed: a call
//! that starts 10 ms after a change knows it. How often a rule has struck is counted in each process, from the reading.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant};

use crate::code::{Answer, Code, named};
use crate::functions::Function;

const LOOK_AGAIN: Duration = Duration::from_millis(5);
const IN_ROOT: &str = "etc/nvdra-mock-faults.json";

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
    /// A symbol's name, or the beginning of one and `*`; absent: every function.
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
            Some(name) if !name.ends_with('*') && !Function::NAMES.contains(&name) => {
                Err(format!("this library has no function {name:?}"))
            }
            _ => Ok(()),
        }
    }

    fn matches(&self, function: Function, minors: &[u32]) -> bool {
        let name = function.name();
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
}

/// What tells one state of a file from another.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

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
        let file = std::env::var_os("NVDRA_MOCK_FAULTS").filter(|file| !file.is_empty());
        Watched {
            file: file.map_or_else(|| root.join(IN_ROOT), PathBuf::from),
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
    let struck = |fault: &&Fault| fault.when == when && fault.matches(function, minors);
    for fault in rules.iter().filter(struck) {
        if !fault.strikes() {
            continue;
        }
        if fault.delay_ms > 0 {
            std::thread::sleep(Duration::from_millis(fault.delay_ms));
        }
        if fault.hang {
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        match fault.code() {
            Ok(Some(Code::SUCCESS) | None) | Err(_) => {}
            Ok(Some(code)) => return Err(code),
        }
    }
    Ok(())
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

fn read(file: &Path, root: &Path) -> Result<Vec<Fault>, String> {
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
    if let Some(calls) = parsed.calls {
        report(crate::calls::count_into(&root.join(calls)));
    }
    Ok(parsed.faults)
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
            .filter(|function| fault.matches(**function, minors));
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
