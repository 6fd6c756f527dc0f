//! The execution groups of an HRT.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use protocol::group::Begun;

use crate::memory::Mapping;
use crate::vcpu::Vcpu;

/// The CPU of an execution group, which threads of the process take turns at running.
pub struct Partner {
    /// Its number.
    pub number: u64,
    /// Its state, locked by the thread that runs it; `None` once the HRT has been reset.
    pub cpu: Mutex<Option<PartnerCpu>>,
    /// When the call began, in cycles; 0 while there is none.
    pub since: AtomicU64,
    /// The partner is to leave the HRT in the call that began then.
    pub gives_up: AtomicU64,
    /// How often its CPU has entered the HRT, and how often it had when it was last looked at.
    pub entries: [AtomicU64; 2],
}

/// What a partner thread has while it runs its CPU.
pub struct PartnerCpu {
    /// The CPU.
    pub vcpu: Vcpu,
    /// Stack of the functions.
    pub _stack: Mapping,
    /// The call that was given up and still has to end.
    pub unfinished: Option<Begun>,
}

/// The execution groups of an HRT.
#[derive(Default)]
pub struct Partners {
    /// All that were ever made; their places are their numbers.
    pub all: Mutex<Vec<Arc<Partner>>>,
    /// Those without a thread.
    pub free: Mutex<Vec<Arc<Partner>>>,
    /// Held while one is made.
    pub making: Mutex<()>,
    /// Waits for the thread that runs the CPU of the group whose function crashed the kernel.
    pub join_crashed: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// The thread that ends calls at their limit.
    pub watch: Mutex<Option<JoinHandle<()>>>,
}

impl Partners {
    /// Makes the CPU that is being started leave the HRT, which cannot have it: the watch takes it
    /// for one that is late, and interrupts it. `is_starting` tells that of a group's number.
    pub fn give_up_start(&self, is_starting: impl Fn(u64) -> bool) {
        for partner in locked(&self.all).iter().filter(|partner| is_starting(partner.number)) {
            partner.since.store(1, Ordering::Release);
        }
    }
}

/// Locks a mutex, also one whose holder panicked.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
