//! Reports of measured durations, in one format for both of the systems compared.
//!
//! - [`Samples`]: durations of single operations, without the warm-up and the counter's own cost.
//! - [`Row`]: the statistics of samples; [`Meta`]: the machine they come from. Both write
//!   themselves as JSON.
//! - [`Counter`]: what a time counter counts. [`compute`]: a fixed amount of work.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod counter;
mod json;
mod samples;
mod statistics;
mod work;

pub use counter::Counter;
pub use json::{BEGIN, END};
pub use samples::{REPETITIONS, Samples, WARM_UP};
pub use statistics::{Decimal, Row};
pub use work::{compute, rounds_of};

use alloc::string::String;

/// The unit of rows that are shares rather than durations.
pub const PERMILLE: &str = "permille";

/// The machine that figures come from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Meta {
    /// The measured system and its version.
    pub system: String,
    /// The machine's accelerator: `tcg`, `kvm`, another hypervisor, `unknown`, or `none`.
    pub accelerator: String,
    /// The CPU's model, as the CPU names itself.
    pub cpu: String,
    /// The number of CPUs.
    pub cpus: usize,
    /// The time counter's rate, in Hz.
    pub clock_hz: u64,
    /// True if the counter counts executed instructions.
    pub icount: bool,
    /// True if idle CPUs poll for work instead of halting.
    #[cfg_attr(feature = "serde", serde(default))]
    pub idle_polls: bool,
    /// The cost of reading the counter twice, subtracted from every duration.
    pub overhead: u64,
    /// The number of warm-up repetitions.
    pub warm_up: usize,
}

impl Meta {
    /// Returns what a heading adds to the number of CPUs: whether they poll when idle.
    pub fn idle_words(&self) -> &'static str {
        if self.idle_polls { " that poll when idle" } else { "" }
    }
}
