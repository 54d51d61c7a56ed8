//! Which processes have one of some character devices open. One pass over the proc file system serves all devices.

use std::io;
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::ffi::CStr;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxFlags, openat, statx};
use rustix::io::Errno;

/// Threads gain little beyond this: the kernel's own locks of /proc are shared.
const MOST_THREADS: usize = 8;

/// A thread takes this many processes at a time.
const BATCH: usize = 64;

/// Major and minor number.
pub type Device = (u32, u32);

/// What one pass found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Process id and index of the device, sorted, each pair once.
    pub holders: Vec<(u32, usize)>,
    /// The processes that were looked at.
    pub processes: usize,
    /// Processes of these whose descriptors could not be read, mostly for want of rights.
    pub unreadable: usize,
}

/// Finds the processes that have one of `devices` open, below `proc`.
///
/// A descriptor counts by the device number of its open file: the path by which it was opened, and the mount namespace,
/// do not matter. Processes that end meanwhile are left out. Mappings without a descriptor are not seen.
pub fn find_holders(proc: &Path, devices: &[Device]) -> io::Result<Scan> {
    let folder = open_folder(CWD, proc)?;
    let processes = process_ids(folder.as_fd())?;
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MOST_THREADS)
        .min(processes.len().div_ceil(BATCH).max(1));
    let found = thread::scope(|scope| {
        let workers: Vec<_> = (1..threads)
            .map(|_| scope.spawn(|| work(folder.as_fd(), &processes, &next, devices)))
            .collect();
        let mut found = work(folder.as_fd(), &processes, &next, devices);
        for worker in workers {
            match worker.join() {
                Ok(more) => {
                    found.holders.extend(more.holders);
                    found.unreadable += more.unreadable;
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        found
    });
    let mut holders = found.holders;
    holders.sort_unstable();
    holders.dedup();
    Ok(Scan {
        holders,
        processes: processes.len(),
        unreadable: found.unreadable,
    })
}

fn work(proc: BorrowedFd<'_>, processes: &[u32], next: &AtomicUsize, devices: &[Device]) -> Scan {
    let mut found = Scan::default();
    loop {
        let start = next.fetch_add(BATCH, Ordering::Relaxed);
        let Some(batch) = processes.get(start..(start + BATCH).min(processes.len())) else {
            return found;
        };
        for &pid in batch {
            let holders = &mut found.holders;
            let looked_at = look_at_process(proc, pid, |device| {
                let indices = (0..devices.len()).filter(|&index| devices[index] == device);
                holders.extend(indices.map(|index| (pid, index)));
            });
            match looked_at {
                Ok(()) | Err(Errno::NOENT | Errno::SRCH) => {} // it may have ended meanwhile
                Err(_) => found.unreadable += 1,
            }
        }
    }
}

fn look_at_process(
    proc: BorrowedFd<'_>,
    pid: u32,
    mut see: impl FnMut(Device),
) -> Result<(), Errno> {
    if look_at_descriptors(proc, &format!("{pid}/fd"), &mut see)? > 0 {
        return Ok(());
    }
    // A process whose first thread has ended shows its descriptors only at its other threads.
    let Ok(tasks) = open_folder(proc, format!("{pid}/task")) else {
        return Ok(());
    };
    for task in process_ids(tasks.as_fd())? {
        if task != pid && look_at_descriptors(tasks.as_fd(), &format!("{task}/fd"), &mut see)? > 0 {
            break;
        }
    }
    Ok(())
}

/// Calls `see` for each character device; returns the number of descriptors.
fn look_at_descriptors(
    proc: BorrowedFd<'_>,
    path: &str,
    see: &mut impl FnMut(Device),
) -> Result<usize, Errno> {
    let folder = open_folder(proc, path)?;
    let mut count = 0;
    for_each_name(folder.as_fd(), |name| {
        count += 1;
        // Without AT_STATX_DONT_SYNC a file on a network file system whose server is gone would hold the scan up.
        let Ok(file) = statx(
            folder.as_fd(),
            name,
            AtFlags::STATX_DONT_SYNC,
            StatxFlags::TYPE,
        ) else {
            return; // closed meanwhile
        };
        if FileType::from_raw_mode(file.stx_mode.into()) == FileType::CharacterDevice {
            see((file.stx_rdev_major, file.stx_rdev_minor));
        }
    })?;
    Ok(count)
}

fn process_ids(folder: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = Vec::new();
    for_each_name(folder, |name| {
        if let Some(id) = name.to_str().ok().and_then(|name| name.parse().ok()) {
            ids.push(id);
        }
    })?;
    Ok(ids)
}

fn for_each_name(folder: BorrowedFd<'_>, mut call: impl FnMut(&CStr)) -> Result<(), Errno> {
    let mut buffer = [const { MaybeUninit::uninit() }; 8192];
    let mut names = RawDir::new(folder, &mut buffer);
    while let Some(entry) = names.next() {
        let entry = entry?;
        if !entry.file_name().to_bytes().starts_with(b".") {
            call(entry.file_name());
        }
    }
    Ok(())
}

fn open_folder(at: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}
