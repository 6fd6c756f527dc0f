//! The first instructions, at which all CPUs of the HRT enter the image at once.

use core::arch::global_asm;
use core::mem::offset_of;

use arch_x64::boot::landing::Landing;
use arch_x64::boot::start;
use arch_x64::cpu::paging::PHYSICAL_OFFSET;
use protocol::boot::{FIRST_APIC_ID, HEADER_MAGIC, HEADER_TAG, HEADER_TAG_SIZE, INFORMATION_TAG, MAGIC_AGAIN, flags};
use protocol::call::CHARACTER_PORT;

use crate::again;
use crate::board::Hvm;
use crate::parked::{SENT, SENT_ID};
use crate::upcall::VECTOR;

/// The image's address in the linker script.
const LINK_ADDRESS: usize = PHYSICAL_OFFSET + 0x20_0000;
/// Physical memory that the start-up page tables are to map: [`arch_x64::boot::memory`] reads the
/// loader's data through them.
const MAP_LIMIT: u64 = 4 << 30;
/// Length of the Multiboot2 header: its words, the HRT tag, the tag that ends it.
const HEADER_LENGTH: u32 = 16 + HEADER_TAG_SIZE + 8;

global_asm!(
    // Multiboot2 header (Multiboot2 Specification 2.0, 3.1) with the HRT tag.
    ".pushsection .multiboot2, \"a\"",
    ".balign 8",
    ".long {header_magic}, 0, {header_length}, {header_checksum}",
    ".word {tag}, 0",
    ".long {tag_size}",
    ".quad {flags}, {map_limit}, {offset}, hrt_entry_linked",
    // The monitor chooses the page for requests.
    ".quad 0, {vector}",
    ".word 0, 0",
    ".long 8",
    ".popsection",
    ".pushsection .boot, \"ax\"",
    ".macro stage letter",
    "mov edx, {character_port}",
    "mov al, \\letter",
    "out dx, al",
    ".endm",
    // RAX holds the magic number, RBX the physical address of the boot information.
    ".globl hrt_entry",
    "hrt_entry:",
    "cli",
    "cld",
    "mov edi, eax",
    "mov rsi, rbx",
    // Find the APIC id of the boot CPU in the information; without a tag this is the boot CPU.
    "movabs rax, {offset}",
    "lea r8, [rsi + rax + 8]",
    "2: mov eax, [r8]",
    "cmp eax, {information_tag}",
    "je 3f",
    "test eax, eax",
    "jz 4f",
    "mov eax, [r8 + 4]",
    "add rax, 7",
    "and rax, -8",
    "jz 4f",
    "add r8, rax",
    "jmp 2b",
    // This CPU's id (SDM Vol. 2A, CPUID: leaf 0Bh EDX, or leaf 1 EBX bits 31 to 24).
    "3: mov r8d, [r8 + {first_apic_id}]",
    "xor eax, eax",
    "cpuid",
    "cmp eax, 0xb",
    "jb 5f",
    "mov eax, 0xb",
    "xor ecx, ecx",
    "cpuid",
    "test ebx, ebx",
    "jz 5f",
    "mov r9d, edx",
    "jmp 6f",
    "5: mov eax, 1",
    "cpuid",
    "shr ebx, 24",
    "mov r9d, ebx",
    "6: cmp edi, {again}",
    "je hrt_again",
    "cmp r9d, r8d",
    "jne hrt_park",
    "4: stage 0x41",
    "stage 0x65",
    "lea rsp, [rip + boot_stack_top]",
    "stage 0x72",
    arch_x64::relocate_and_start!(),
    // The other CPUs wait until the kernel sends them to their landing.
    "hrt_park: pause",
    "cmp [rip + {sent_id}], r9d",
    "jne hrt_park",
    "lea rax, [rip + {sent}]",
    "mov rdi, [rax + {cpu}]",
    "mov rsi, [rax + {local}]",
    "mov rdx, [rax + {stack}]",
    "mov rcx, [rax + {tables}]",
    "mov r8, [rax + {function}]",
    "jmp [rax + {landing}]",
    // A CPU that had a triple fault. There is one stack for such CPUs.
    "hrt_again: mov eax, 1",
    "xchg [rip + {again_taken}], eax",
    "test eax, eax",
    "7: jnz 7b",
    "lea rax, [rip + {again_landing}]",
    "mov edi, r9d",
    "xor esi, esi",
    "mov rdx, [rax + {stack}]",
    "mov rcx, [rax + {tables}]",
    "mov r8, [rax + {function}]",
    "jmp [rax + {landing}]",
    ".popsection",
    ".pushsection .bss.boot, \"aw\", @nobits",
    ".balign 4096",
    arch_x64::boot_stack!(),
    ".popsection",
    header_magic = const HEADER_MAGIC,
    header_length = const HEADER_LENGTH,
    header_checksum = const 0u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(HEADER_LENGTH),
    tag = const HEADER_TAG,
    tag_size = const HEADER_TAG_SIZE,
    flags = const flags::MAP_1_GIB,
    map_limit = const MAP_LIMIT,
    offset = const PHYSICAL_OFFSET,
    vector = const VECTOR,
    character_port = const CHARACTER_PORT,
    information_tag = const INFORMATION_TAG,
    first_apic_id = const FIRST_APIC_ID,
    again = const MAGIC_AGAIN,
    again_taken = sym again::TAKEN,
    again_landing = sym again::LANDING,
    sent_id = sym SENT_ID,
    sent = sym SENT,
    cpu = const offset_of!(Landing, cpu),
    local = const offset_of!(Landing, local),
    stack = const offset_of!(Landing, stack),
    tables = const offset_of!(Landing, tables),
    function = const offset_of!(Landing, entry),
    landing = const offset_of!(Landing, landing),
    boot_link_address = const LINK_ADDRESS,
    boot_stack_size = const arch_x64::boot::long_mode::BOOT_STACK_SIZE,
    boot_start = sym start::<Hvm>,
);
