//! Collectives: a fixed number of members, identified by rank, that meet in collective operations.
//!
//! Every member calls the same operations in the same order. An early member first spins, because
//! members on CPUs of their own arrive soon. It sleeps if another thread wants its CPU or the
//! others take long.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::arch::*;
use crate::cpu::{self, CacheLine};
use crate::lock::SpinLock;
use crate::memory::OutOfMemory;
use crate::scheduler;
use crate::thread::{self, NoSuchCpu};
use crate::time::Deadline;
use crate::wait::{Outcome, TimedOut, WaitList, list};

/// Number of polls for the other members before a member sleeps.
const SPINS: usize = 2_000;

/// A collective of a fixed number of members.
pub struct Collective {
    size: usize,
    /// Number of members that have not arrived in the current round.
    missing: CacheLine<AtomicUsize>,
    /// Number of finished rounds.
    round: CacheLine<AtomicUsize>,
    sleepers: SpinLock<WaitList>,
    /// Number of members in `sleepers`, or about to enter it.
    sleeping: AtomicUsize,
    /// The word each member gives, for even and for odd rounds. Two sets are enough, because no
    /// member can be two rounds ahead of another.
    given: [Box<[CacheLine<AtomicU64>]>; 2],
    /// The CPU of each member, plus one; 0 if the member stays where it is.
    cpus: Box<[AtomicUsize]>,
}

impl Collective {
    /// Creates a collective of `size` members, at least one.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(size: usize) -> Result<Self, OutOfMemory> {
        fn boxed<T>(size: usize, make: impl FnMut() -> T) -> Result<Box<[T]>, OutOfMemory> {
            let mut items = Vec::new();
            items.try_reserve_exact(size).map_err(|_| OutOfMemory)?;
            items.resize_with(size, make);
            Ok(items.into_boxed_slice())
        }
        let size = size.max(1);
        let words = || boxed(size, || CacheLine(AtomicU64::new(0)));
        Ok(Self {
            size,
            missing: CacheLine(AtomicUsize::new(size)),
            round: CacheLine(AtomicUsize::new(0)),
            sleepers: SpinLock::new(WaitList::new()),
            sleeping: AtomicUsize::new(0),
            given: [words()?, words()?],
            cpus: boxed(size, || AtomicUsize::new(0))?,
        })
    }

    /// Returns the number of members.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Waits until all members have arrived. Returns true for one of them, the last to arrive.
    ///
    /// # Errors
    /// [`TimedOut`]; the collective is unusable afterwards, because the member's arrival cannot be
    /// withdrawn.
    #[inline]
    pub fn barrier(&self, deadline: Deadline) -> Result<bool, TimedOut> {
        let round = self.round.load(Ordering::Relaxed);
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Reset before the round is published, since the next round may begin at once.
            self.missing.store(self.size, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::SeqCst);
            // A sleeper raises `sleeping` and then loads the round. As all four accesses are
            // `SeqCst`, either the sleeper is seen here or it sees the new round.
            if self.sleeping.load(Ordering::SeqCst) != 0 {
                self.wake_sleepers();
            }
            return Ok(true);
        }
        for _ in 0..SPINS {
            if self.round.load(Ordering::Acquire) != round {
                return Ok(false);
            }
            if scheduler::others_are_ready() {
                break;
            }
            Core::spin_hint();
        }
        self.sleep(round, deadline).map(|()| false)
    }

    #[cold]
    fn wake_sleepers(&self) {
        let mut sleepers = self.sleepers.lock();
        sleepers.take_all().wake(sleepers);
    }

    #[cold]
    fn sleep(&self, round: usize, deadline: Deadline) -> Result<(), TimedOut> {
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        let mut outcome = Outcome::Woken;
        while self.round.load(Ordering::SeqCst) == round && outcome == Outcome::Woken {
            let guard = self.sleepers.lock();
            if self.round.load(Ordering::SeqCst) != round {
                break;
            }
            outcome = list::wait_in(&self.sleepers, guard, |sleepers| sleepers, deadline, || ());
        }
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
        if self.round.load(Ordering::SeqCst) == round { Err(TimedOut) } else { Ok(()) }
    }

    /// Gives a word and gets the words of all members: `each` is called with every word, by rank,
    /// once all have arrived.
    ///
    /// # Errors
    /// See [`Collective::barrier`].
    pub fn share(&self, rank: usize, word: u64, deadline: Deadline, each: impl FnMut(u64)) -> Result<(), TimedOut> {
        let round = self.round.load(Ordering::Relaxed);
        let given = &self.given[round % 2];
        if let Some(place) = given.get(rank) {
            place.store(word, Ordering::Relaxed);
        }
        self.barrier(deadline)?;
        given.iter().map(|place| place.load(Ordering::Relaxed)).for_each(each);
        Ok(())
    }

    /// Returns to every member the word that the member of rank `root` gives.
    ///
    /// # Errors
    /// See [`Collective::barrier`].
    pub fn broadcast(&self, rank: usize, root: usize, word: u64, deadline: Deadline) -> Result<u64, TimedOut> {
        let (mut index, mut result) = (0, 0);
        self.share(rank, word, deadline, |given| {
            if index == root {
                result = given;
            }
            index += 1;
        })?;
        Ok(result)
    }

    /// Combines the members' words in the order of rank. The result is the same for every member.
    ///
    /// # Errors
    /// See [`Collective::barrier`].
    pub fn reduce(
        &self,
        rank: usize,
        word: u64,
        deadline: Deadline,
        combine: impl Fn(u64, u64) -> u64,
    ) -> Result<u64, TimedOut> {
        let mut result = None;
        self.share(rank, word, deadline, |given| {
            result = Some(result.map_or(given, |so_far| combine(so_far, given)));
        })?;
        Ok(result.unwrap_or(word))
    }

    /// Elects one member. Returns true for that member.
    ///
    /// # Errors
    /// See [`Collective::barrier`].
    pub fn elect(&self, deadline: Deadline) -> Result<bool, TimedOut> {
        self.barrier(deadline)
    }

    /// Gives the collective another set of CPUs: member `rank` is to run on the CPU at position
    /// `rank % count` of the set. Each member migrates in its next [`Collective::follow`].
    ///
    /// # Errors
    /// [`NoSuchCpu`] if one of them does not run; nothing changes then. An empty set changes
    /// nothing.
    pub fn set_cpus(&self, cpus: impl Iterator<Item = usize> + Clone) -> Result<(), NoSuchCpu> {
        if let Some(absent) = cpus.clone().find(|&cpu| cpu::get(cpu).is_none()) {
            return Err(NoSuchCpu(absent));
        }
        for (place, cpu) in self.cpus.iter().zip(cpus.cycle()) {
            place.store(cpu + 1, Ordering::Release);
        }
        Ok(())
    }

    /// Migrates the calling member to the CPU that [`Collective::set_cpus`] gave it, if any.
    pub fn follow(&self, rank: usize) {
        let wanted = self.cpus.get(rank).map_or(0, |place| place.load(Ordering::Acquire));
        if let Some(cpu) = wanted.checked_sub(1) {
            // `set_cpus` looked the CPU up, and CPUs never go away, so this cannot fail.
            let _ = thread::migrate(cpu);
        }
    }
}
