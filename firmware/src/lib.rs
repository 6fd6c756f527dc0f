//! Parsers for the data that firmware and boot loaders hand over.
//!
//! Every byte here comes from outside: nothing is trusted, nothing panics, and a defect becomes a
//! [`Notices`] entry beside the best reading of the rest. The parsers do not access memory
//! themselves; a [`PhysicalMemory`] supplies the bytes, so that the same code runs in the kernel
//! and under the host's fuzz tests.
//!
//! - [`acpi`]: RSDP, RSDT/XSDT, MADT, SRAT, SLIT, FADT.
//! - [`sfi`]: the tables that Knights Corner has instead of ACPI's.
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

/// Access to physical memory, as far as it is readable.
pub trait PhysicalMemory {
    /// Returns `length` bytes at `address`, or `None` if they are not all readable.
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]>;
}

/// Defects found, for the kernel's log. Once the list is full, further ones are dropped.
#[derive(Default, Debug)]
pub struct Notices(pub ArrayVec<Notice, MAX_NOTICES>);

impl Notices {
    /// Adds a notice.
    pub fn add(&mut self, text: &'static str, value: u64) {
        let _ = self.0.try_push(Notice { text, value });
    }
}
