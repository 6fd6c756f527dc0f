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
//! - [`start`]: the boot, as a story; [`boot`]: the machine's description; [`command_line`]: the options.
//! - [`cpu`]: what belongs to each CPU; [`lock`]: the spin lock; [`interrupts`]: handlers and lines; [`call`]: functions on
//!   other CPUs; [`time`]: the clock and one-shot timers.
//! - [`memory`]: NUMA zones, per-CPU caches, stacks; [`per_cpu`]: a value for each CPU.
//! - `threads/`: [`thread`]: spawn, join, migrate; [`scheduler`]: run queues and switches; [`wait`]: wait queue, event, mutex,
//!   condition variable, semaphore, barrier, reader-writer lock, channel; [`fiber`]: cooperative contexts in a thread; [`task`]:
//!   closures on workers; [`collective`]: collective operations.
//! - [`program`]: runtime developers' programs, loaded, watched and ended.
//! - [`output`]: console and log.
//! - `observe/`: [`snapshot`]: the state; [`mod@trace`]: what happened, and when; [`telemetry`]: both on a line; [`backtrace`],
//!   [`symbols`]: places and their names; [`stopped`]: threads of a stopped machine; [`watchdog`]: what does not happen.
//! - `crash/`: [`mod@panic`]: how it ends; [`debug`]: all CPUs stopped for a debugger; [`sandbox`]: commands on a stopped machine.
#![no_std]

extern crate alloc;

pub mod arch;
mod atomic;
pub mod boot;
pub mod call;
pub mod command_line;
pub mod cpu;
mod crash;
pub mod interrupts;
pub mod lock;
pub mod memory;
mod observe;
pub mod output;
pub mod per_cpu;
pub mod program;
pub mod start;
mod threads;
pub mod time;

// The themes are where files stand; what is used has one name each, without them.
use crash::export;
pub use crash::{debug, panic, sandbox};
pub use observe::{backtrace, snapshot, stopped, symbols, telemetry, trace, watchdog};
pub use threads::{collective, fiber, scheduler, task, thread, wait};
