//! Files that an HRT's kernel writes: its trace, and its state after a crash. Nothing here touches
//! errno or allocates once the HRT runs: a function that was interrupted may be using both.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};

use protocol::call::File;

use crate::memory::{END_OF_LOW, Mapping};
use crate::system_call;

/// No file has been made.
const NONE: i64 = -1;

/// The files of an HRT.
#[derive(Default)]
pub struct Files {
    trace: Option<Kept>,
    crash: Option<Kept>,
}

/// A file that is made when the first bytes come.
struct Kept {
    path: CString,
    descriptor: AtomicI64,
}

impl Kept {
    /// `None` for a path that no file can have.
    fn new(path: PathBuf) -> Option<Self> {
        let path = CString::new(path.into_os_string().into_vec()).ok()?;
        Some(Self { path, descriptor: AtomicI64::new(NONE) })
    }

    /// Makes the file unless it is there; returns its descriptor.
    fn open(&self) -> Option<u64> {
        let mut descriptor = self.descriptor.load(Ordering::Acquire);
        if descriptor == NONE {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
            let arguments = [libc::AT_FDCWD as u64, self.path.as_ptr() as u64, flags as u64, 0o600, 0, 0];
            // SAFETY: the path is a string that ends with a zero byte.
            descriptor = unsafe { system_call::make(libc::SYS_openat as u64, arguments) } as i64;
            self.descriptor.store(descriptor, Ordering::Release);
        }
        u64::try_from(descriptor).ok()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Ok(descriptor) = u64::try_from(self.descriptor.load(Ordering::Acquire)) {
            // SAFETY: the descriptor is this file's, and nothing uses it any more.
            unsafe { system_call::make(libc::SYS_close as u64, [descriptor, 0, 0, 0, 0, 0]) };
        }
    }
}

impl Files {
    /// Keeps the files that have a path.
    pub fn new(trace: Option<PathBuf>, crash: Option<PathBuf>) -> Self {
        Self { trace: trace.and_then(Kept::new), crash: crash.and_then(Kept::new) }
    }

    /// The path of the crash file, if there is one.
    pub fn crash(&self) -> Option<PathBuf> {
        let kept = self.crash.as_ref().filter(|kept| kept.descriptor.load(Ordering::Acquire) >= 0)?;
        Some(OsStr::from_bytes(kept.path.as_bytes()).into())
    }

    /// Adds bytes of the HRT's memory to a file. Returns false if the file is not kept, or if Linux
    /// does not take the bytes.
    pub fn write(&self, number: u64, memory: &Mapping, at: u64, length: u64) -> bool {
        let kept = match File::from_number(number) {
            Some(File::Trace) => &self.trace,
            Some(File::Crash) => &self.crash,
            None => return false,
        };
        let Some(kept) = kept else { return false };
        let is_inside = at.checked_add(length).is_some_and(|end| end <= (memory.size() as u64).min(END_OF_LOW));
        if length == 0 || !is_inside {
            return is_inside;
        }
        let Some(descriptor) = kept.open() else { return false };
        let mut done = 0;
        while done < length {
            let arguments = [descriptor, memory.address() + at + done, length - done, 0, 0, 0];
            // SAFETY: Linux only reads the bytes, which lie in the mapping.
            let written = unsafe { system_call::make(libc::SYS_write as u64, arguments) } as i64;
            match written {
                1.. => done += written as u64,
                _ if written == -i64::from(libc::EINTR) => {}
                _ => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_of_the_memory_go_into_a_file_that_is_kept() {
        let path = std::env::temp_dir().join(format!("aero-hvm-files-{}", std::process::id()));
        let files = Files::new(None, Some(path.clone()));
        let memory = Mapping::private(4096).unwrap();
        assert!(memory.write(4000, &[7; 96]));
        let crash = File::Crash as u64;
        assert!(files.write(crash, &memory, 0, 0) && !path.exists() && files.crash().is_none());
        assert!(!files.write(File::Trace as u64, &memory, 0, 1) && !files.write(9, &memory, 0, 1));
        assert!(!files.write(crash, &memory, 4000, 97) && !files.write(crash, &memory, u64::MAX, 2));
        assert!(files.write(crash, &memory, 4000, 96) && files.write(crash, &memory, 0, 4));
        let kept = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((kept.len(), kept[95], kept[96]), (100, 7, 0));
        assert_eq!(files.crash(), Some(path));
    }
}
