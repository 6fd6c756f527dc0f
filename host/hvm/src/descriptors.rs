//! The numbers of an HVM's descriptors: a program that the library is put into expects the low ones
//! to be free.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers that are remembered, from the first one on.
const REMEMBERED: usize = 2048;

/// Where an HVM's descriptors are.
pub struct Descriptors {
    /// The lowest number that they may have, 0 for any.
    least: RawFd,
    /// A bit for each number from the lowest on that is one of them.
    ours: [AtomicU64; REMEMBERED / 64],
}

impl Descriptors {
    /// Those of an HVM, with numbers from this on, 0 for any.
    pub fn from(least: RawFd) -> Self {
        Self { least, ours: [const { AtomicU64::new(0) }; REMEMBERED / 64] }
    }

    /// Gives what has a descriptor one of its numbers, if there is one: `make` makes it of the new
    /// descriptor, which the old one is closed for.
    pub fn place<T: AsRawFd>(&self, low: T, make: impl FnOnce(RawFd) -> Option<T>) -> T {
        if self.least == 0 {
            return low;
        }
        // SAFETY: a new descriptor of the same file, which an exec closes.
        let high = unsafe { libc::fcntl(low.as_raw_fd(), libc::F_DUPFD_CLOEXEC, self.least) };
        if high < 0 {
            return low;
        }
        if let Some((word, bit)) = self.bit(high) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        make(high).unwrap_or(low)
    }

    /// Gives the calling thread a table of descriptors of its own, without those of the program:
    /// what it opens has no number there, and what the program closes and opens meanwhile is not
    /// taken for it.
    pub fn keep_apart(&self) {
        if self.least > 0 {
            // SAFETY: the thread uses none of the program's descriptors. Where Linux does not have
            // the call, the table stays shared.
            unsafe {
                libc::syscall(libc::SYS_close_range, 0, self.least - 1, libc::CLOSE_RANGE_UNSHARE);
            }
        }
    }

    /// Whether a descriptor is one of the HVM's.
    pub fn have(&self, descriptor: RawFd) -> bool {
        self.bit(descriptor).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// All of them, in their order.
    pub fn all(&self) -> impl Iterator<Item = u32> {
        (0..REMEMBERED as RawFd).map(|index| self.least + index).filter(|&number| self.have(number)).map(|it| it as u32)
    }

    fn bit(&self, descriptor: RawFd) -> Option<(&AtomicU64, u64)> {
        let index = usize::try_from(descriptor.checked_sub(self.least)?).ok().filter(|_| self.least != 0)?;
        Some((self.ours.get(index / 64)?, 1 << (index % 64)))
    }
}
