//! The calls into libc. They go through the libc *symbols* (`pwrite`, `fdatasync`, `posix`-style names), because preload shims that
//! inject faults hook those. Every block passes a descriptor that `File` keeps open and a buffer that outlives the call.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One pwrite. A short write is the caller's to judge (it is an error to us).
pub fn pwrite(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and length describe `bytes`, borrowed for the whole call; the descriptor is open as long as `file` is.
        let written = unsafe { libc::pwrite(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), offset as libc::off_t) };
        if written >= 0 {
            return Ok(written as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

pub fn pread(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel writes at most `bytes.len()` bytes into the exclusively borrowed `bytes`; the descriptor is open.
        let read = unsafe { libc::pread(file.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), offset as libc::off_t) };
        if read >= 0 {
            return Ok(read as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

pub fn fdatasync(file: &File) -> io::Result<()> {
    // SAFETY: only takes a descriptor, which is open as long as `file` is.
    check(unsafe { libc::fdatasync(file.as_raw_fd()) })
}

pub fn fsync(file: &File) -> io::Result<()> {
    // SAFETY: only takes a descriptor, which is open as long as `file` is.
    check(unsafe { libc::fsync(file.as_raw_fd()) })
}

/// Reserves space and sets the size. ENOSPC here is no failure of the journal: it blocks publishers.
pub fn fallocate(file: &File, len: u64) -> io::Result<()> {
    // SAFETY: only takes a descriptor and numbers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len as libc::off_t) })
}

/// `false` when another process holds the lock. It is released when the file is closed, also by kill -9.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: only takes a descriptor and a flag.
    match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Bytes that this user may still allocate on the file system of `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: all-zero bytes are a valid value of this plain C struct.
    let mut answer: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is a C string and `answer` a writable struct of the right type, both alive during the call.
    check(unsafe { libc::statvfs(path.as_ptr(), &mut answer) })?;
    Ok(answer.f_bavail as u64 * answer.f_frsize as u64)
}

/// Nanoseconds since boot, time asleep included.
pub fn boot_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a writable timespec; CLOCK_BOOTTIME exists on every Linux we run on, and a failure leaves it zero.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
