//! Collectives: a fixed number of threads, by rank, that meet in collective operations. All members call the same operations in
//! the same order. Where the members have CPUs of their own, nobody sleeps for a short wait.

use alloc::vec;

use crate::time::Deadline;
use crate::{Error, check, raw};

/// What fits a word, and so what members can give each other.
pub trait Word: Copy {
    /// As a word.
    fn into_word(self) -> u64;
    /// From a word.
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

/// A collective. After an operation has timed out it is of no more use.
pub struct Collective {
    collective: *mut abi::Collective,
    size: usize,
}

// SAFETY: a handle; the kernel's collective is made for many threads.
unsafe impl Sync for Collective {}
// SAFETY: as above.
unsafe impl Send for Collective {}

/// Members whose words are gathered without an allocation.
const FEW: usize = 64;

impl Collective {
    /// A collective of so many members.
    ///
    /// # Errors
    /// [`Error::Invalid`] for none; [`Error::OutOfMemory`].
    pub fn new(members: usize) -> Result<Self, Error> {
        let mut collective = core::ptr::null_mut();
        let count = u32::try_from(members).map_err(|_| Error::OutOfMemory)?;
        // SAFETY: a place for the handle.
        check(unsafe { raw::aero_collective_create(count, &raw mut collective) })?;
        Ok(Self { collective, size: members })
    }

    /// Number of members.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Waits until all members are there. True for one of them: the elected. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub fn barrier(&self, deadline: Deadline) -> Result<bool, Error> {
        // SAFETY: a live collective.
        check(unsafe { raw::aero_collective_barrier(self.collective, deadline.0) }).map(|last| last == 1)
    }

    /// Gives a word and gets those of all members, by rank. Blocks.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; [`Error::Invalid`] if there is no such rank, or too little room in `words`.
    pub fn share(&self, rank: usize, word: u64, words: &mut [u64], deadline: Deadline) -> Result<(), Error> {
        if words.len() < self.size {
            return Err(Error::Invalid);
        }
        // SAFETY: a live collective, and room for the words.
        check(unsafe {
            raw::aero_collective_share(self.collective, self.rank(rank)?, word, words.as_mut_ptr(), deadline.0)
        })?;
        Ok(())
    }

    /// What member `root` gives, for all. Blocks.
    ///
    /// # Errors
    /// As [`Collective::share`].
    pub fn broadcast<W: Word>(&self, rank: usize, root: usize, value: W, deadline: Deadline) -> Result<W, Error> {
        let mut word = value.into_word();
        let (rank, root) = (self.rank(rank)?, self.rank(root)?);
        // SAFETY: a live collective.
        check(unsafe { raw::aero_collective_broadcast(self.collective, rank, root, &raw mut word, deadline.0) })?;
        Ok(W::from_word(word))
    }

    /// The members' values put together in the order of their ranks, so the same for all, and the same each time. Blocks.
    ///
    /// # Errors
    /// As [`Collective::share`].
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

    /// Gives the collective a set of CPUs: member `rank` shall run on `cpus[rank % cpus.len()]`, from its next
    /// [`Collective::follow`] on.
    ///
    /// # Errors
    /// [`Error::NoSuchCpu`]; nothing changes then. [`Error::Invalid`] for an empty set.
    pub fn set_cpus(&self, cpus: &[u32]) -> Result<(), Error> {
        // SAFETY: a live collective; the slice's own bounds.
        check(unsafe { raw::aero_collective_set_cpus(self.collective, cpus.as_ptr(), cpus.len()) }).map(drop)
    }

    /// Moves the calling member to the CPU its collective wants it on.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such rank.
    pub fn follow(&self, rank: usize) -> Result<(), Error> {
        // SAFETY: a live collective.
        check(unsafe { raw::aero_collective_follow(self.collective, self.rank(rank)?) }).map(drop)
    }

    fn rank(&self, rank: usize) -> Result<u32, Error> {
        if rank < self.size { Ok(rank as u32) } else { Err(Error::Invalid) }
    }
}

impl Drop for Collective {
    fn drop(&mut self) {
        // SAFETY: a live collective, not used again.
        unsafe { raw::aero_collective_destroy(self.collective) };
    }
}
