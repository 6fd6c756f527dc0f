//! The first instructions: PVH and Multiboot2 entries in 32-bit mode.
//!
//! Stages are visible on the serial line as letters of the kernel's name: `A` the image runs, `e`
//! the CPU is fit, `r` paging is on, `o` the image is relocated. The last letter shows where a boot
//! stopped.

use core::arch::global_asm;

use super::board::Pc;
use crate::boot::start;

/// Multiboot2 header (Multiboot2 Specification 2.0, 3.1) with tags: relocatable, entry address,
/// end. Its entry address and the PVH note are in the image's linker script, because they are
/// physical addresses.
const MULTIBOOT2_HEADER_MAGIC: u32 = 0xe852_50d6;
const MULTIBOOT2_HEADER_LENGTH: u32 = 16 + 24 + 16 + 8;

global_asm!(
    ".pushsection .multiboot2, \"a\"",
    ".balign 8",
    ".long {header_magic}",
    ".long 0",
    ".long {header_length}",
    ".long {header_checksum}",
    // Relocatable (tag 10): anywhere from 32 MiB below 4 GiB, 2 MiB aligned, lowest first.
    ".word 10, 0",
    ".long 24, 0x2000000, 0xf0000000, 0x200000, 1",
    // Entry address (tag 3).
    ".word 3, 1",
    ".long 12, multiboot2_entry_physical",
    ".balign 8",
    ".word 0, 0",
    ".long 8",
    ".popsection",
    // Only the note's alignment; the linker script has the rest (System V ABI, chapter 5, "Note
    // Section").
    ".pushsection .note.pvh, \"a\", @note",
    ".balign 4",
    ".popsection",
    header_magic = const MULTIBOOT2_HEADER_MAGIC,
    header_checksum = const 0u32.wrapping_sub(MULTIBOOT2_HEADER_MAGIC).wrapping_sub(MULTIBOOT2_HEADER_LENGTH),
    header_length = const MULTIBOOT2_HEADER_LENGTH,
);

crate::long_mode_entry! {
    stage: ["mov dx, 0x3f8", "mov al, \\letter", "out dx, al"],
    entry: [
        ".globl pvh_entry",
        "pvh_entry:",
        "mov eax, {pvh_magic}",
        ".globl multiboot2_entry",
        "multiboot2_entry:",
        "cli",
        "cld",
        "mov edi, eax",
        "mov esi, ebx",
    ],
    fit: [
        // Check for 64-bit mode and no-execute (SDM Vol. 2A, CPUID 80000001h: EDX bits 29 and 20).
        "mov eax, 0x80000000",
        "cpuid",
        "cmp eax, 0x80000001",
        "jb 8f",
        "mov eax, 0x80000001",
        "cpuid",
        "and edx, 0x20100000",
        "cmp edx, 0x20100000",
        "je boot_fit",
        // The CPU is unfit: print the reason and halt.
        "8:",
        "address esi, boot_unfit",
        "mov dx, 0x3f8",
        "9: lodsb",
        "test al, al",
        "jz 7f",
        "out dx, al",
        "jmp 9b",
        "7: hlt",
        "jmp 7b",
        // The first byte, NAK, tells `aero` that nothing follows this line.
        "boot_unfit: .byte {refusal}",
        ".asciz \"\\r\\nAerokernel: this CPU has no 64-bit mode or no NX; use another CPU (QEMU: -cpu max)\\r\\n\"",
    ],
    start: start::<Pc>,
    link_address: LINK_ADDRESS,
    pvh_magic = const firmware::pvh::MAGIC,
    refusal = const wire::console::NEGATIVE_ACKNOWLEDGE,
}

/// The image's address in the linker script.
const LINK_ADDRESS: usize = crate::cpu::paging::PHYSICAL_OFFSET + 0x20_0000;
