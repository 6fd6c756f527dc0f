//! From 32-bit protected mode to the kernel's first Rust code, at whatever physical address the
//! image was loaded: the start-up page tables, 64-bit mode, the move to the direct map's addresses,
//! relocation, the boot stack.

/// Size of the boot CPU's stack until its first thread runs, in bytes.
pub const BOOT_STACK_SIZE: usize = 64 * 1024;

/// The image's first instructions, in section `.boot`; in Intel syntax.
///
/// - `stage`: body of an assembler macro `stage` that shows its parameter `letter`: `A` when the
///   image runs, `e` when the CPU is found fit, `r` when paging is on, `o` when the image is
///   relocated. It may change eax and edx.
/// - `entry`: 32-bit code that runs first. It disables interrupts and leaves in edi and esi the
///   arguments of `start`; esi is also the address of a word of memory that can be borrowed.
/// - `fit`: 32-bit code that jumps to `boot_fit`, or stops if the CPU is unfit. `address REGISTER,
///   SYMBOL` loads a symbol's address.
/// - `start`: `extern "C" fn(u32, u64) -> !`, entered in 64-bit mode with the first 4 GiB mapped at
///   0 and in the direct map.
/// - `link_address`: the image's address in the linker script.
/// - The remaining arguments are constants for the given code.
#[macro_export]
macro_rules! long_mode_entry {
    (
        stage: [$($stage:literal),* $(,)?],
        entry: [$($entry:literal),* $(,)?],
        fit: [$($fit:literal),* $(,)?],
        start: $start:path,
        link_address: $link_address:expr
        $(, $name:ident = const $value:expr)* $(,)?
    ) => {
        ::core::arch::global_asm!(
            // This code runs at whatever physical address the image was loaded, so addresses are
            // relative to ebp.
            ".pushsection .boot, \"ax\"",
            ".code32",
            // Only AT&T syntax accepts a difference of symbols as a displacement.
            ".macro address register, symbol",
            ".att_syntax prefix",
            "leal \\symbol - boot_base(%ebp), %\\register",
            ".intel_syntax noprefix",
            ".endm",
            ".macro stage letter",
            $($stage,)*
            ".endm",
            $($entry,)*
            "stage 0x41",
            // Find our own address. The call needs a stack: borrow the word that esi points to.
            "mov ecx, [esi]",
            "lea esp, [esi + 4]",
            "call boot_base",
            "boot_base: pop ebp",
            "mov [esi], ecx",
            "address esp, boot_stack_top",
            $($fit,)*
            "boot_fit:",
            "stage 0x65",
            // Map the first 4 GiB with 2 MiB pages, at 0 and in the direct map.
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
            // Put the far return to the 64-bit code segment on the stack before the switch: after
            // it only the RETF may follow, because Knights Corner executes no 32-bit code in long
            // mode (SSDG, 4.2.3).
            "address eax, boot_gdt",
            "push 0",
            "push eax",
            "push 0x00170000",
            "lgdt [esp + 2]",
            "address eax, boot_long_mode",
            "push 8",
            "push eax",
            "mov eax, 0x20",
            "mov cr4, eax",
            "mov cr3, ebx",
            "mov ecx, 0xc0000080",
            "mov eax, 0x900",
            "xor edx, edx",
            "wrmsr",
            "mov eax, 0x80010031",
            "mov cr0, eax",
            "retf",
            ".balign 8, 0x90",
            "boot_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
            ".code64",
            "boot_long_mode:",
            "mov eax, 16",
            "mov ds, eax",
            "mov es, eax",
            "mov ss, eax",
            "stage 0x72",
            // Move to the direct map's addresses and leave the lower half for good.
            "movabs rbx, {boot_offset}",
            "lea rax, [rip + 6f]",
            "add rax, rbx",
            "jmp rax",
            "6:",
            $crate::relocate_and_start!(),
            "boot_end:",
            ".popsection",
            ".pushsection .bss.boot, \"aw\", @nobits",
            ".balign 4096",
            ".globl boot_tables",
            "boot_tables: .skip 6 * 4096",
            $crate::boot_stack!(),
            ".popsection",
            boot_offset = const $crate::cpu::paging::PHYSICAL_OFFSET,
            boot_link_address = const $link_address,
            boot_stack_size = const $crate::boot::long_mode::BOOT_STACK_SIZE,
            boot_start = sym $start,
            $($name = const $value,)*
        );
    };
}

/// The end of an image's first instructions, in 64-bit mode at the direct map's addresses: takes
/// the boot stack, relocates the image and calls `boot_start` with edi and esi, which must be the
/// arguments of [`start`](crate::boot::start). Uses the assembler macro `stage` of
/// [`long_mode_entry!`] and its operands `boot_link_address` and `boot_start`.
#[macro_export]
macro_rules! relocate_and_start {
    () => {
        concat!(
            "lea rsp, [rip + boot_stack_top]\n",
            // Relocate: an even entry is the address of a word to relocate, an odd one has a bit
            // for each of the 63 words that follow the previous ones (generic ABI, SHT_RELR).
            // Packing the image checks that there are no other relocations.
            "lea rcx, [rip + __image_start]\n",
            "movabs rax, {boot_link_address}\n",
            "sub rcx, rax\n",
            "lea rdx, [rip + __relocations_start]\n",
            "lea r8, [rip + __relocations_end]\n",
            "7: cmp rdx, r8\n",
            "jae 8f\n",
            "mov rax, [rdx]\n",
            "add rdx, 8\n",
            "test al, 1\n",
            "jnz 4f\n",
            "add [rax + rcx], rcx\n",
            "lea r9, [rax + rcx + 8]\n",
            "jmp 7b\n",
            "4: mov r10, r9\n",
            "5: shr rax, 1\n",
            "jz 9f\n",
            "test al, 1\n",
            "jz 3f\n",
            "add [r10], rcx\n",
            "3: add r10, 8\n",
            "jmp 5b\n",
            "9: add r9, 63 * 8\n",
            "jmp 7b\n",
            "8:\n",
            "stage 0x6f\n",
            "mov edi, edi\n",
            "mov esi, esi\n",
            "xor ebp, ebp\n",
            "push rbp\n",
            "push rbp\n",
            "call {boot_start}\n",
            "ud2\n",
        )
    };
}

/// The boot CPU's stack, in an image's zeroed data. Uses the operand `boot_stack_size` of
/// [`long_mode_entry!`].
#[macro_export]
macro_rules! boot_stack {
    () => {
        "boot_stack: .skip {boot_stack_size}\n.globl boot_stack_top\nboot_stack_top:"
    };
}
