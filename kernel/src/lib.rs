//! The Aerokernel: the thin kernel layer under a hybrid runtime.
//!
//! Everything here is arch-neutral and runs on any implementer of `arch_contract::Architecture`, an ordinary Linux
//! process included. No user mode, no processes, no demand paging. Three principles:
//! - *The fast path is local*: a CPU's run queue, timers and object caches are touched by that CPU only, with
//!   interrupts off; other CPUs leave notes in its mailbox.
//! - *No surprises at run time*: a thread stays on its CPU unless told to move; an idle CPU takes no tick.
//! - *Errors are values*: what can fail for want of memory or a reply in time says so in its type.
//!
//! From the start of the machine upwards:
//! - [`start`]: the boot, as a story; [`command_line`]: what it was told.
//! - [`cpu`]: what belongs to each CPU; [`lock`]: the spin lock; [`interrupts`]: handlers and lines.
//! - [`memory`]: NUMA zones, per-CPU caches, stacks.
//! - [`thread`]: spawn, join, migrate; [`fiber`]: cooperative contexts in a thread; [`task`]: closures on
//!   workers; [`group`]: collective operations; [`per_cpu`]: a value for each CPU; [`scheduler`]: who runs.
//! - [`wait`]: wait queue, event, mutex, condition variable, semaphore, barrier, reader-writer lock, channel.
//! - [`time`]: the clock and one-shot timers; [`call`]: functions on other CPUs.
//! - [`program`]: runtime developers' programs, loaded, watched and ended.
//! - [`output`]: console and log; [`mod@panic`]: how it ends; [`symbols`]: names of addresses; [`snapshot`]: the state;
//!   [`mod@trace`]: what happened, and when; [`watchdog`]: what does not; [`debug`]: all CPUs stopped for a debugger.
#![no_std]

extern crate alloc;

pub mod arch;
mod atomic;
pub mod backtrace;
pub mod call;
pub mod command_line;
pub mod cpu;
pub mod crash_file;
pub mod debug;
pub mod fiber;
pub mod frozen;
pub mod group;
pub mod interrupts;
pub mod lock;
pub mod memory;
pub mod output;
pub mod panic;
pub mod per_cpu;
pub mod program;
pub mod scheduler;
pub mod snapshot;
pub mod start;
pub mod symbols;
pub mod task;
pub mod telemetry;
pub mod thread;
pub mod time;
pub mod trace;
pub mod wait;
pub mod watchdog;
