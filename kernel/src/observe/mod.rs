//! Observing the running kernel: its state, its events with their times, and where each CPU
//! executes.

pub mod backtrace;
pub mod snapshot;
pub mod stopped;
pub mod symbols;
pub mod telemetry;
pub mod trace;
pub mod watchdog;
