//! Collectives: a fixed number of members, by rank, that meet in collective operations.
//!
//! Every member calls the same operations in the same order. A member that comes first waits for the others without
//! giving its CPU up for a while, because on CPUs of their own they come soon; where somebody else wants the CPU, or the
//! others take long, it sleeps.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::arch::{Architecture, Machine};
use crate::cpu::{self, CacheLine};
use crate::lock::SpinLock;
use crate::memory::OutOfMemory;
use crate::scheduler;
use crate::thread::{self, NoSuchCpu};
use crate::time::Deadline;
use crate::wait::{Outcome, TimedOut, WaitList, list};

/// Looks for the others before a member sleeps.
const SPINS: usize = 2_000;

/// A collective.
pub struct Collective {
    size: usize,
    /// Members that have not come to the current round.
    missing: CacheLine<AtomicUsize>,
    /// Number of finished rounds.
    round: CacheLine<AtomicUsize>,
    sleepers: SpinLock<WaitList>,
    /// Number of members in `sleepers`, or about to be.
    sleeping: AtomicUsize,
    /// What each member gives, for even and for odd rounds: a member cannot be two rounds ahead of another.
    given: [Box<[CacheLine<AtomicU64>]>; 2],
    /// CPU of each member, plus one; 0 where it is.
    cpus: Box<[AtomicUsize]>,
}

impl Collective {
    /// A collective of `size` members, at least one.
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

    /// Number of members.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Waits until all members are there. True for one of them: the last to come.
    ///
    /// # Errors
    /// [`TimedOut`]; the collective is of no use afterwards, because the member's coming cannot be taken back.
    #[inline]
    pub fn barrier(&self, deadline: Deadline) -> Result<bool, TimedOut> {
        let round = self.round.load(Ordering::Relaxed);
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.missing.store(self.size, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::SeqCst);
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
            Machine::spin_hint();
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

    /// Gives a word and gets the words of all members, by rank: `each` is called with each of them, once all are there.
    ///
    /// # Errors
    /// As [`Collective::barrier`].
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

    /// The word that the member of rank `root` gives, for all.
    ///
    /// # Errors
    /// As [`Collective::barrier`].
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

    /// The members' words put together by rank, the same for all.
    ///
    /// # Errors
    /// As [`Collective::barrier`].
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

    /// Elects one member: true for it.
    ///
    /// # Errors
    /// As [`Collective::barrier`].
    pub fn elect(&self, deadline: Deadline) -> Result<bool, TimedOut> {
        self.barrier(deadline)
    }

    /// Gives the collective another set of CPUs: member `rank` shall run on the CPU at `rank % count`. Each member moves in its next
    /// [`Collective::follow`].
    ///
    /// # Errors
    /// [`NoSuchCpu`]; nothing changes then. An empty set changes nothing.
    pub fn set_cpus(&self, cpus: impl Iterator<Item = usize> + Clone) -> Result<(), NoSuchCpu> {
        if let Some(absent) = cpus.clone().find(|&cpu| cpu::get(cpu).is_none()) {
            return Err(NoSuchCpu(absent));
        }
        for (place, cpu) in self.cpus.iter().zip(cpus.cycle()) {
            place.store(cpu + 1, Ordering::Release);
        }
        Ok(())
    }

    /// Moves the calling member to where the collective wants it.
    pub fn follow(&self, rank: usize) {
        let wanted = self.cpus.get(rank).map_or(0, |place| place.load(Ordering::Acquire));
        if let Some(cpu) = wanted.checked_sub(1) {
            // The CPU was looked up by `set_cpus`, and CPUs do not go.
            let _ = thread::migrate(cpu);
        }
    }
}
