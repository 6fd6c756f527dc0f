//! What is said of measured durations, in one format for both systems that are compared.
//!
//! - [`Samples`]: durations of single operations, the first ones and the counter's own cost left out.
//! - [`Row`]: their statistics; [`Meta`]: the machine they are true of. Both write themselves as JSON.
//! - [`Counter`]: what a time counter counts. [`compute`]: work that is always the same.
#![no_std]

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

/// The unit of rows that are no durations, but a share of something.
pub const PERMILLE: &str = "permille";

/// The machine figures are true of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Meta {
    /// Whose primitives, with their version.
    pub system: String,
    /// What executes the instructions: `tcg`, `kvm`, another hypervisor, `unknown`, or `none`.
    pub accelerator: String,
    /// The CPU's model, as it calls itself.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: usize,
    /// The time counter's rate.
    pub clock_hz: u64,
    /// True if the counter counts executed instructions.
    pub icount: bool,
    /// True if CPUs without work look for some all the time instead of halting.
    #[cfg_attr(feature = "serde", serde(default))]
    pub idle_polls: bool,
    /// What reading the counter twice costs; subtracted from every duration.
    pub overhead: u64,
    /// Repetitions before those that count.
    pub warm_up: usize,
}

impl Meta {
    /// What its CPUs do that others do not, as a heading says it behind their number.
    pub fn idle_words(&self) -> &'static str {
        if self.idle_polls { " that poll when idle" } else { "" }
    }
}
