//! The Aerokernel: the thin kernel layer under a hybrid runtime.
//!
//! Everything here is arch-neutral and runs on any implementer of `arch_contract::Architecture`,
//! including an ordinary Linux process. There is no user mode, there are no processes, and there is
//! no demand paging. Three principles:
//! - *The fast path is local*: only its CPU touches a run queue, timers and object caches, with
//!   interrupts off; other CPUs leave notes in its mailbox.
//! - *No surprises at run time*: a thread stays on its CPU unless told to move; an idle CPU takes
//!   no tick.
//! - *Errors are values*: an operation that can fail for lack of memory or of a timely answer says
//!   so in its type.
//!
//! The modules, from the start of the machine upwards:
//! - [`start`]: the boot sequence; [`boot`]: the machine's description; [`command_line`]: the
//!   options.
//! - [`cpu`]: per-CPU data of the kernel; [`lock`]: the spin lock; [`interrupts`]: handlers and
//!   lines; [`call`]: cross-CPU function calls; [`time`]: the clock and one-shot timers.
//! - [`memory`]: NUMA zones, per-CPU caches, stacks; [`per_cpu`]: a value for each CPU.
//! - `threads/`: [`thread`]: spawn, join, migrate; [`scheduler`]: run queues and switches;
//!   [`wait`]: wait queue, event, mutex, condition variable, semaphore, barrier, reader-writer
//!   lock, message queue; [`fiber`]: cooperative contexts in a thread; [`task`]: closures on
//!   workers; [`collective`]: collective operations.
//! - [`program`]: runtime developers' programs: loading, supervising and ending them.
//! - [`hybrid`]: execution groups and event channels, with a regular OS beside this kernel.
//! - [`capability`]: rights over the machine as a whole.
//! - [`output`]: the first console's output and the log; [`input`]: its input.
//! - `observe/`: [`snapshot`]: the kernel's state; [`mod@trace`]: events with their times;
//!   [`telemetry`]: both over a serial line; [`backtrace`], [`symbols`]: call chains and function
//!   names; [`stopped`]: threads of a stopped machine; [`watchdog`]: CPUs and threads that hang.
//! - `crash/`: [`mod@panic`]: crash reports; [`debug`]: stopping all CPUs for a debugger;
//!   [`sandbox`]: commands on a stopped machine.
#![no_std]

extern crate alloc;

pub mod arch;
mod atomic;
pub mod boot;
pub mod call;
pub mod capability;
pub mod command_line;
pub mod cpu;
mod crash;
pub mod hybrid;
pub mod input;
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

// Directories group files by theme; the re-exports give each module one name without the theme.
use crash::export;
pub use crash::{debug, panic, sandbox};
pub use observe::{backtrace, snapshot, stopped, symbols, telemetry, trace, watchdog};
pub use threads::{collective, fiber, scheduler, task, thread, wait};
