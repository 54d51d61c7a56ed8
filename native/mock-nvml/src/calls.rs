//! Call counts of each function, in a file that other processes can read while the program runs.
//!
//! The file is mapped and shared, so counts of several processes add up. Its first 64 bytes are a title; then one
//! record of 64 bytes a function: 56 bytes name, padded with zeros, and the count as a little-endian u64.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::functions::Function;

const TITLE: &[u8] = b"nvdra mock NVML: calls, 64 bytes each, name 56 and count 8\n";
const RECORD: usize = 64;
const NAME: usize = 56;

/// The mapping, once there is one; it stays for the life of the process.
static MAPPED: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

/// Counts one call, if anybody asked for counts.
pub fn count(function: Function) {
    let base = MAPPED.load(Ordering::Acquire);
    if base.is_null() {
        return;
    }
    let offset = RECORD * (1 + function as usize) + NAME;
    // SAFETY: the mapping covers a record for every function, is never unmapped, and the offset is a multiple of 8.
    let counter = unsafe { AtomicU64::from_ptr(base.add(offset).cast()) };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts into this file from now on, keeping counts it has; only the first file asked for is used.
pub fn count_into(file: &Path) -> Result<(), String> {
    if !MAPPED.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    let at = |error: std::io::Error| format!("{}: {error}; calls are not counted", file.display());
    let handle = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)
        .map_err(at)?;
    let length = RECORD * (1 + Function::NAMES.len());
    if handle.metadata().map_err(at)?.len() < length as u64 {
        handle.set_len(length as u64).map_err(at)?;
    }
    // SAFETY: a fresh shared mapping of a file that is at least this long; nothing else in the process knows it.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            handle.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(at(std::io::Error::last_os_error()));
    }
    let base = base.cast::<u8>();
    write(base, TITLE);
    for (index, name) in Function::NAMES.iter().enumerate() {
        // SAFETY: the record lies inside the mapping.
        write(
            unsafe { base.add(RECORD * (1 + index)) },
            &name.as_bytes()[..name.len().min(NAME)],
        );
    }
    // Two threads may come this far together: the second mapping is of the same file and stays unused.
    let _ = MAPPED.compare_exchange(
        std::ptr::null_mut(),
        base,
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    Ok(())
}

fn write(at: *mut u8, bytes: &[u8]) {
    // SAFETY: callers pass a place in the mapping with 56 or more bytes of room.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
}
