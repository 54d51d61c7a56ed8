//! Events: other processes append them to a file; sessions wait for them.
//!
//! `var/lib/nvdra-mock/events` grows by one record of 32 bytes an event: minor, zero (u32), kind, data (u64), GPU
//! instance, compute instance (u32), all little-endian. A set receives events written after its registration.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const RECORD: usize = 32;
/// How long a wait goes without looking whether the session still is open.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How often the file is looked at where the kernel does not tell of changes.
const WITHOUT_NOTICE: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub minor: u32,
    pub kind: u64,
    pub data: u64,
    pub instance: u32,
    pub compute: u32,
}

impl Event {
    fn read(record: &[u8; RECORD]) -> Event {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| record[at + byte]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| record[at + byte]));
        Event {
            minor: word(0),
            kind: long(8),
            data: long(16),
            instance: word(24),
            compute: word(28),
        }
    }
}

/// Who wants to hear of what.
pub struct EventSet {
    file: PathBuf,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// The next record to look at.
    at: u64,
    /// By minor: kinds, and the length of the file when they were registered.
    wanted: BTreeMap<u32, (u64, u64)>,
}

impl EventSet {
    pub fn new(file: PathBuf) -> EventSet {
        EventSet {
            file,
            heard: Mutex::default(),
        }
    }

    pub fn register(&self, minor: u32, kinds: u64) {
        let now = std::fs::metadata(&self.file).map_or(0, |about| about.len());
        let mut heard = self
            .heard
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if heard.wanted.is_empty() {
            heard.at = now;
        }
        heard.wanted.entry(minor).or_insert((0, now)).0 |= kinds;
    }

    /// Whether events of this GPU are waited for.
    pub fn has(&self, minor: u32) -> bool {
        let heard = self
            .heard
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        heard.wanted.contains_key(&minor)
    }

    /// The next event, if one comes in time; nothing too when `goes_on` says that nobody waits any more.
    pub fn wait(&self, timeout: Duration, goes_on: impl Fn() -> bool) -> Option<Event> {
        // What is there already needs no notice, which takes long to open and to close.
        let event = self.next();
        if event.is_some() || timeout.is_zero() {
            return event;
        }
        let deadline = Instant::now() + timeout;
        let notice = notice(self.file.parent()?);
        loop {
            if let Some(event) = self.next() {
                return Some(event);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !goes_on() {
                return None;
            }
            match &notice {
                Some(notice) => sleep_until_noticed(notice, left.min(LOOK_AGAIN)),
                None => std::thread::sleep(left.min(WITHOUT_NOTICE)),
            }
        }
    }

    fn next(&self) -> Option<Event> {
        let file = File::open(&self.file).ok()?;
        let mut heard = self
            .heard
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut record = [0; RECORD];
        while file.read_exact_at(&mut record, heard.at).is_ok() {
            let (at, event) = (heard.at, Event::read(&record));
            heard.at += RECORD as u64;
            let wanted = heard.wanted.get(&event.minor);
            if wanted.is_some_and(|(kinds, since)| kinds & event.kind != 0 && at >= *since) {
                return Some(event);
            }
        }
        None
    }
}

/// A descriptor that becomes readable when something in the folder changes.
fn notice(folder: &Path) -> Option<OwnedFd> {
    let name = CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: no pointers; the result is checked.
    let raw = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
    if raw < 0 {
        return None;
    }
    // SAFETY: a descriptor that was just made and that nobody else owns.
    let notice = unsafe { OwnedFd::from_raw_fd(raw) };
    let changes = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_MOVED_TO;
    // SAFETY: a NUL-terminated path of ours.
    let watch = unsafe { libc::inotify_add_watch(raw, name.as_ptr(), changes) };
    (watch >= 0).then_some(notice)
}

fn sleep_until_noticed(notice: &OwnedFd, longest: Duration) {
    let mut poll = libc::pollfd {
        fd: notice.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let milliseconds = longest.as_micros().div_ceil(1000) as libc::c_int;
    // SAFETY: one pollfd of ours.
    if unsafe { libc::poll(&mut poll, 1, milliseconds) } > 0 {
        let mut told = [0u8; 4096];
        // SAFETY: a buffer of ours, with its length; what it is told is of no interest.
        unsafe { libc::read(notice.as_raw_fd(), told.as_mut_ptr().cast(), told.len()) };
    }
}
