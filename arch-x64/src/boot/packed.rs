//! The image in memory, and the symbols and programs packed behind it.

use core::ptr::addr_of;

use arch_contract::PAGE_SIZE;
use arch_contract::boot::PhysicalRange;
use wire::packed::{ALIGNMENT, PROGRAMS_MAGIC, SYMBOLS_MAGIC};

use crate::cpu::paging::virtual_to_physical;

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
    /// Symbols packed behind the image: a u32 magic, a u32 length, and that many bytes. See
    /// `host/build`'s pack module.
    static __symbols_start: u8;
}

/// Largest symbol table accepted, in bytes.
const SYMBOLS_LIMIT: u32 = 16 << 20;
/// Largest size of the packed programs accepted, in bytes.
const PROGRAMS_LIMIT: u32 = 1 << 30;

/// Returns the symbols and programs packed behind the image. Without symbols there are no programs
/// either.
pub fn parts() -> (&'static [u8], &'static [u8]) {
    // SAFETY: the linker script reserves 8 bytes there, and the packer puts the symbols behind
    // them.
    let symbols = unsafe { packed_part(addr_of!(__symbols_start), SYMBOLS_MAGIC, SYMBOLS_LIMIT) };
    if symbols.is_empty() {
        return (symbols, symbols);
    }
    let end = symbols.as_ptr_range().end;
    let next = end.wrapping_add(end.align_offset(ALIGNMENT));
    // SAFETY: the packer always puts a header for the programs behind the symbols.
    (symbols, unsafe { packed_part(next, PROGRAMS_MAGIC, PROGRAMS_LIMIT) })
}

/// Returns one packed part; empty if the magic or the length is wrong.
///
/// # Safety
/// A u32 magic and a u32 length are readable at `at`, and if the magic is right, that many bytes
/// follow.
unsafe fn packed_part(at: *const u8, magic: u32, limit: u32) -> &'static [u8] {
    // SAFETY: the caller guarantees a readable header and, behind the right magic, as many bytes as
    // it says.
    unsafe {
        let header = at.cast::<u32>();
        let (found, length) = (header.read_unaligned(), header.add(1).read_unaligned());
        let start = header.add(2).cast();
        match found == magic && length <= limit {
            true => core::slice::from_raw_parts(start, length as usize),
            false => core::slice::from_raw_parts(start, 0),
        }
    }
}

/// Physical memory of the image, including everything packed behind it.
pub fn image(symbols: &[u8], programs: &[u8]) -> PhysicalRange {
    PhysicalRange {
        start: virtual_to_physical(addr_of!(__image_start)),
        end: match symbols {
            [] => virtual_to_physical(addr_of!(__image_end)),
            _ => virtual_to_physical(programs.as_ptr_range().end).next_multiple_of(PAGE_SIZE as u64),
        },
    }
}

/// The writable part of the image.
pub fn image_data() -> PhysicalRange {
    PhysicalRange {
        start: virtual_to_physical(addr_of!(super::memory::__constants_end)),
        end: virtual_to_physical(addr_of!(__symbols_start)),
    }
}
