//! Collectives: a fixed number of threads, identified by rank, that meet in collective operations.
//! All members call the same operations in the same order. Members that have CPUs to themselves
//! spin rather than sleep during short waits.

use alloc::vec;

use crate::time::Deadline;
use crate::{Error, check, raw};

/// A value that fits a word, which members can exchange.
pub trait Word: Copy {
    /// Converts the value into a word.
    fn into_word(self) -> u64;
    /// Converts a word back into the value.
    fn from_word(word: u64) -> Self;
}

macro_rules! word {
    ($($kind:ty),*) => {
        $(impl Word for $kind {
            fn into_word(self) -> u64 {
                self as u64
            }
            fn from_word(word: u64) -> Self {
                word as Self
            }
        })*
    };
}
word!(u32, u64, usize, i64);

impl Word for f64 {
    fn into_word(self) -> u64 {
        self.to_bits()
    }
    fn from_word(word: u64) -> Self {
        Self::from_bits(word)
    }
}

/// A collective. It is unusable after an operation has timed out.
pub struct Collective {
    collective: *mut abi::Collective,
    size: usize,
}

// SAFETY: the kernel's collective is built for concurrent use by many threads.
unsafe impl Sync for Collective {}
// SAFETY: the handle is valid on every thread of the program.
unsafe impl Send for Collective {}

/// Largest number of members whose words are gathered without an allocation.
const FEW: usize = 64;

impl Collective {
    /// Creates a collective with this many members.
    ///
    /// # Errors
    /// [`Error::Invalid`] for zero members; [`Error::OutOfMemory`].
    pub fn new(members: usize) -> Result<Self, Error> {
        let mut collective = core::ptr::null_mut();
        let count = u32::try_from(members).map_err(|_| Error::OutOfMemory)?;
        // SAFETY: `collective` is a valid place for the handle during the call.
        check(unsafe { raw::aero_collective_create(count, &raw mut collective) })?;
        Ok(Self { collective, size: members })
    }

    /// Returns the number of members.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Waits until all members have arrived. Returns true for exactly one of them, the elected
    /// member. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn barrier(&self, deadline: Deadline) -> Result<bool, Error> {
        // SAFETY: the handle names a live collective, which is destroyed only in `drop`.
        check(unsafe { raw::aero_collective_barrier(self.collective, deadline.0) }).map(|last| last == 1)
    }

    /// Contributes a word and receives the words of all members, by rank. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; [`Error::Invalid`] if the rank does not exist or `words` is too short.
    pub fn share(&self, rank: usize, word: u64, words: &mut [u64], deadline: Deadline) -> Result<(), Error> {
        if words.len() < self.size {
            return Err(Error::Invalid);
        }
        // SAFETY: the handle names a live collective, and `words` has room for one word per member.
        check(unsafe {
            raw::aero_collective_share(self.collective, self.rank(rank)?, word, words.as_mut_ptr(), deadline.0)
        })?;
        Ok(())
    }

    /// Returns the value that member `root` passes, to all members. Blocks.
    ///
    /// # Errors
    /// As for [`Collective::share`].
    pub fn broadcast<W: Word>(&self, rank: usize, root: usize, value: W, deadline: Deadline) -> Result<W, Error> {
        let mut word = value.into_word();
        let (rank, root) = (self.rank(rank)?, self.rank(root)?);
        // SAFETY: the handle names a live collective, and `word` is initialised and writable.
        check(unsafe { raw::aero_collective_broadcast(self.collective, rank, root, &raw mut word, deadline.0) })?;
        Ok(W::from_word(word))
    }

    /// Combines the members' values in rank order, so that the result is the same for all members
    /// and in every run. Blocks.
    ///
    /// # Errors
    /// As for [`Collective::share`].
    pub fn reduce<W: Word>(
        &self,
        rank: usize,
        value: W,
        deadline: Deadline,
        combine: impl Fn(W, W) -> W,
    ) -> Result<W, Error> {
        let (mut few, mut many);
        let words: &mut [u64] = if self.size <= FEW {
            few = [0; FEW];
            &mut few
        } else {
            many = vec![0; self.size];
            &mut many
        };
        self.share(rank, value.into_word(), words, deadline)?;
        Ok(words[..self.size].iter().copied().map(W::from_word).reduce(combine).unwrap_or(value))
    }

    /// Gives the collective a set of CPUs: member `rank` runs on `cpus[rank % cpus.len()]` from its
    /// next [`Collective::follow`] on.
    ///
    /// # Errors
    /// [`Error::NoSuchCpu`], in which case nothing changes; [`Error::Invalid`] for an empty set.
    pub fn set_cpus(&self, cpus: &[u32]) -> Result<(), Error> {
        // SAFETY: the handle names a live collective, and pointer and length are those of a live
        // slice.
        check(unsafe { raw::aero_collective_set_cpus(self.collective, cpus.as_ptr(), cpus.len()) }).map(drop)
    }

    /// Moves the calling member to the CPU that the collective assigns to it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the rank does not exist.
    pub fn follow(&self, rank: usize) -> Result<(), Error> {
        // SAFETY: the handle names a live collective, which is destroyed only in `drop`.
        check(unsafe { raw::aero_collective_follow(self.collective, self.rank(rank)?) }).map(drop)
    }

    fn rank(&self, rank: usize) -> Result<u32, Error> {
        if rank < self.size { Ok(rank as u32) } else { Err(Error::Invalid) }
    }
}

impl Drop for Collective {
    fn drop(&mut self) {
        // SAFETY: the handle names a live collective and is not used again.
        unsafe { raw::aero_collective_destroy(self.collective) };
    }
}
