//! The first instructions: PVH and Multiboot2 entries in 32-bit mode, to 64-bit mode, to Rust.
//!
//! Stages are visible on the serial line as letters of the kernel's name: `A` the image runs, `e` the CPU is fit,
//! `r` paging is on, `o` the image is relocated. A boot that stops says by its last letter where.

use core::arch::global_asm;

use super::start::start;

/// Multiboot2 header (Multiboot2 Specification 2.0, 3.1) with tags: relocatable, entry address, end. Its entry
/// address and the PVH note are in the image's linker script, because they are physical addresses.
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
    // Everything here runs at whatever physical address the image was loaded, so addresses are relative to ebp.
    ".pushsection .boot, \"ax\"",
    ".code32",
    // Only AT&T syntax takes a difference of symbols as displacement.
    ".macro address register, symbol",
    ".att_syntax prefix",
    "leal \\symbol - boot_base(%ebp), %\\register",
    ".intel_syntax noprefix",
    ".endm",
    ".globl pvh_entry",
    "pvh_entry:",
    "mov eax, {pvh_magic}",
    ".globl multiboot2_entry",
    "multiboot2_entry:",
    "cli",
    "cld",
    "mov edi, eax",
    "mov esi, ebx",
    "mov al, 'A'",
    "mov dx, 0x3f8",
    "out dx, al",
    // Where are we? Borrow a word of the loader's information as a stack.
    "mov ecx, [ebx]",
    "lea esp, [ebx + 4]",
    "call boot_base",
    "boot_base: pop ebp",
    "mov [ebx], ecx",
    "address esp, boot_stack_top",
    // Does the CPU have 64-bit mode and no-execute (SDM Vol. 2A, CPUID 80000001h: EDX bits 29 and 20)?
    "mov eax, 0x80000000",
    "cpuid",
    "cmp eax, 0x80000001",
    "jb 8f",
    "mov eax, 0x80000001",
    "cpuid",
    "and edx, 0x20100000",
    "cmp edx, 0x20100000",
    "jne 8f",
    "mov al, 'e'",
    "mov dx, 0x3f8",
    "out dx, al",
    // First 4 GiB with 2 MiB pages, at 0 and at the direct map's place.
    "address ebx, boot_tables",
    "lea eax, [ebx + 0x1003]",
    "mov [ebx], eax",
    "mov [ebx + 256 * 8], eax",
    "lea eax, [ebx + 0x2003]",
    "mov ecx, 0",
    "3:",
    "mov [ebx + ecx * 8 + 0x1000], eax",
    "add eax, 0x1000",
    "inc ecx",
    "cmp ecx, 4",
    "jb 3b",
    "mov eax, 0x83",
    "mov ecx, 0",
    "4:",
    "mov [ebx + ecx * 8 + 0x2000], eax",
    "add eax, 0x200000",
    "inc ecx",
    "cmp ecx, 2048",
    "jb 4b",
    "mov eax, 0x20",
    "mov cr4, eax",
    "mov cr3, ebx",
    "mov ecx, 0xc0000080",
    "mov eax, 0x900",
    "xor edx, edx",
    "wrmsr",
    "mov eax, 0x80010031",
    "mov cr0, eax",
    // The 64-bit code segment, by way of the stack.
    "address eax, boot_gdt",
    "push 0",
    "push eax",
    "push 0x00170000",
    "lgdt [esp + 2]",
    "address eax, boot_long_mode",
    "push 8",
    "push eax",
    "retf",
    // The CPU is unfit: say so and stop.
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
    "boot_unfit: .asciz \"\\r\\nAerokernel: this CPU has no 64-bit mode or no NX; use another CPU (QEMU: -cpu max)\\r\\n\"",
    ".balign 8",
    "boot_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
    ".code64",
    "boot_long_mode:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov dx, 0x3f8",
    "mov al, 'r'",
    "out dx, al",
    // To the direct map's addresses, leaving the lower half for good.
    "movabs rbx, {offset}",
    "lea rax, [rip + 6f]",
    "add rax, rbx",
    "jmp rax",
    "6:",
    "lea rsp, [rip + boot_stack_top]",
    // Relocate: every entry is R_X86_64_RELATIVE {{ where, kind, addend }}, checked when the image is packed.
    "lea rcx, [rip + __image_start]",
    "movabs rax, {link_address}",
    "sub rcx, rax",
    "lea rdx, [rip + __relocations_start]",
    "lea r8, [rip + __relocations_end]",
    "7: cmp rdx, r8",
    "jae 8f",
    "mov rax, [rdx]",
    "mov r9, [rdx + 16]",
    "add r9, rcx",
    "mov [rax + rcx], r9",
    "add rdx, 24",
    "jmp 7b",
    "8:",
    "mov dx, 0x3f8",
    "mov al, 'o'",
    "out dx, al",
    "mov edi, edi",
    "mov esi, esi",
    "xor ebp, ebp",
    "push rbp",
    "push rbp",
    "call {start}",
    "ud2",
    ".popsection",
    ".pushsection .bss.boot, \"aw\", @nobits",
    ".balign 4096",
    ".globl boot_tables",
    "boot_tables: .skip 6 * 4096",
    "boot_stack: .skip {stack_size}",
    ".globl boot_stack_top",
    "boot_stack_top:",
    ".popsection",
    header_magic = const MULTIBOOT2_HEADER_MAGIC,
    header_checksum = const 0u32.wrapping_sub(MULTIBOOT2_HEADER_MAGIC).wrapping_sub(MULTIBOOT2_HEADER_LENGTH),
    header_length = const MULTIBOOT2_HEADER_LENGTH,
    pvh_magic = const firmware::pvh::MAGIC,
    offset = const crate::paging::PHYSICAL_OFFSET,
    link_address = const LINK_ADDRESS,
    stack_size = const BOOT_STACK_SIZE,
    start = sym start,
);

/// Where the linker script puts the image.
const LINK_ADDRESS: usize = crate::paging::PHYSICAL_OFFSET + 0x20_0000;
/// Stack of the boot CPU until its first thread runs, in bytes.
const BOOT_STACK_SIZE: usize = 64 * 1024;

unsafe extern "C" {
    static boot_tables: u8;
}

/// Physical address of the start-up page tables: the first 4 GiB at 0 and at the direct map's place.
pub(super) fn start_up_tables() -> u64 {
    crate::paging::virtual_to_physical(&raw const boot_tables)
}
