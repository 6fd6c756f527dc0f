//! Parsers for what firmware and boot loaders hand over.
//!
//! Every byte here comes from outside: nothing is trusted, nothing panics, and what is wrong becomes a
//! [`Notices`] entry next to the best reading of the rest. Nothing here touches memory by itself; a
//! [`PhysicalMemory`] supplies the bytes, so the same code runs in the kernel and under the host's fuzz tests.
//!
//! - [`acpi`]: RSDP, RSDT/XSDT, MADT, SRAT, SLIT, FADT.
//! - [`sfi`]: what Knights Corner has instead.
//! - [`pvh`], [`multiboot2`] and [`linux`]: the boot loaders' information.
//! - [`memory_map`]: from a loader's list to sorted, disjoint, page-aligned usable memory.
//! - [`words`]: the command line as key=value words.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod acpi;
mod bytes;
pub mod linux;
pub mod memory_map;
pub mod multiboot2;
pub mod pvh;
pub mod sfi;
pub mod words;

use arch_contract::boot::{MAX_NOTICES, Notice};
use arrayvec::ArrayVec;

/// Gives access to physical memory, as far as it can be read at all.
pub trait PhysicalMemory {
    /// `length` bytes at `address`, or `None` if they are not all readable.
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]>;
}

/// What was wrong, for the kernel's log. Further ones are dropped when full.
#[derive(Default, Debug)]
pub struct Notices(pub ArrayVec<Notice, MAX_NOTICES>);

impl Notices {
    /// Adds one.
    pub fn add(&mut self, text: &'static str, value: u64) {
        let _ = self.0.try_push(Notice { text, value });
    }
}
