//! Looking at the kernel while it runs: its state, what happened and when, where each CPU is.

pub mod backtrace;
pub mod snapshot;
pub mod stopped;
pub mod symbols;
pub mod telemetry;
pub mod trace;
pub mod watchdog;
