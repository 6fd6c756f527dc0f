//! The trampoline: a page of code and parameters below 1 MiB that takes a secondary CPU from real
//! mode to the kernel.

use core::arch::global_asm;
use core::ptr::copy_nonoverlapping;
use core::sync::atomic::{AtomicUsize, Ordering};

use arch_contract::boot::PhysicalRange;
use arch_contract::{IpiError, PAGE_SIZE, StartCpuError};
use firmware::Notices;
use firmware::memory_map::{self, RangeList};

use super::landing::{self, Landing};
use super::memory;
use crate::cpu::paging::physical_to_virtual;
use crate::cpu::{apic, interrupts};

// Real mode to 64-bit mode in one step (SDM Vol. 3A, 10.8.5). The start-up page tables map the
// trampoline page at its physical address.
global_asm!(
    ".pushsection .rodata.trampoline, \"a\"",
    ".balign 16",
    ".code16",
    "trampoline_start:",
    "cli",
    "cld",
    "movw %cs, %ax",
    "movw %ax, %ds",
    "lgdtl trampoline_gdt_pointer - trampoline_start",
    "movl trampoline_cr4 - trampoline_start, %eax",
    "movl %eax, %cr4",
    "movl trampoline_cr3 - trampoline_start, %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "xorl %edx, %edx",
    "movl trampoline_efer - trampoline_start, %eax",
    "wrmsr",
    "movl trampoline_cr0 - trampoline_start, %eax",
    "movl %eax, %cr0",
    "ljmpl *(trampoline_far - trampoline_start)",
    ".code64",
    "trampoline_long:",
    "movl $16, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "movq trampoline_stack(%rip), %rdx",
    "movq trampoline_cpu(%rip), %rdi",
    "movq trampoline_local(%rip), %rsi",
    "movq trampoline_tables(%rip), %rcx",
    "movq trampoline_entry(%rip), %r8",
    "movq trampoline_landing(%rip), %rax",
    "jmpq *%rax",
    ".balign 8",
    "trampoline_gdt:",
    ".quad 0",
    ".quad 0x00af9b000000ffff",
    ".quad 0x00cf93000000ffff",
    "trampoline_gdt_pointer:",
    ".word 23",
    "trampoline_gdt_base: .long 0",
    "trampoline_far: .long 0",
    ".word 8",
    ".balign 8",
    "trampoline_data:",
    "trampoline_cr0: .long 0",
    "trampoline_cr3: .long 0",
    "trampoline_cr4: .long 0",
    "trampoline_efer: .long 0",
    "trampoline_stack: .quad 0",
    "trampoline_cpu: .quad 0",
    "trampoline_local: .quad 0",
    "trampoline_entry: .quad 0",
    "trampoline_tables: .quad 0",
    "trampoline_landing: .quad 0",
    "trampoline_end:",
    ".popsection",
    options(att_syntax)
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_long: u8;
    static trampoline_gdt: u8;
    static trampoline_gdt_base: u8;
    static trampoline_far: u8;
    static trampoline_data: u8;
    static trampoline_end: u8;
}

/// The trampoline's parameters, in the order of its labels.
#[repr(C)]
struct Data {
    cr0: u32,
    cr3: u32,
    cr4: u32,
    efer: u32,
    landing: Landing,
}

/// CR0: protected mode, extension type, numeric error, write protect, paging (SDM Vol. 3A, 2.5).
const CR0: u32 = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: physical address extension.
const CR4: u32 = 1 << 5;
/// EFER: long mode enable, no-execute enable (SDM Vol. 3A, 2.2.1).
const EFER: u32 = 1 << 8 | 1 << 11;

/// The trampoline must lie below a PC's video memory.
const TRAMPOLINE_LIMIT: u64 = 0xa_0000;

/// Physical address of the trampoline page, 0 if there is none.
static PAGE: AtomicUsize = AtomicUsize::new(0);

/// Takes a page below 1 MiB out of free memory for the trampoline.
pub(super) fn take_page(free: &mut RangeList, notices: &mut Notices) -> Option<u64> {
    let last_page = |range: &PhysicalRange| {
        let end = range.end.min(TRAMPOLINE_LIMIT);
        (range.start + PAGE_SIZE as u64 <= end).then(|| end - PAGE_SIZE as u64)
    };
    let Some(page) = free.iter().filter_map(last_page).max() else {
        notices.add("no free page below 1 MiB: only the boot CPU can run; limit", TRAMPOLINE_LIMIT);
        return None;
    };
    memory_map::remove(free, PhysicalRange { start: page, end: page + PAGE_SIZE as u64 }, notices);
    PAGE.store(page as usize, Ordering::Relaxed);
    Some(page)
}

/// Writes code and parameters into the trampoline page and returns its page number for the start-up
/// message.
fn prepare(landing: &Landing) -> Option<u8> {
    let page = PAGE.load(Ordering::Relaxed);
    if page == 0 {
        return None;
    }
    let start = &raw const trampoline_start;
    let offset = |label: *const u8| label as usize - start as usize;
    let to = physical_to_virtual(page as u64);
    let data = Data {
        cr0: CR0,
        // They map the page at its own address and the kernel at its usual one.
        cr3: u32::try_from(memory::start_up_tables()).ok()?,
        cr4: CR4,
        efer: EFER,
        landing: *landing,
    };
    // SAFETY: `take_page` reserves the page for the trampoline, it is larger than the code, and no
    // CPU runs in it now because the boot CPU starts the others one at a time.
    unsafe {
        copy_nonoverlapping(start, to, offset(&raw const trampoline_end));
        let patch = |label: *const u8, value: usize| to.add(offset(label)).cast::<u32>().write_unaligned(value as u32);
        patch(&raw const trampoline_gdt_base, page + offset(&raw const trampoline_gdt));
        patch(&raw const trampoline_far, page + offset(&raw const trampoline_long));
        to.add(offset(&raw const trampoline_data)).cast::<Data>().write_unaligned(data);
    }
    u8::try_from(page / PAGE_SIZE).ok()
}

/// Waits until the start-up message is repeated. The SDM asks for 200 us (Vol. 3A, 9.4.4); a wait
/// is a quarter of that. The 10 ms pause after INIT is only needed by CPUs from before 1995 and is
/// left out.
const WAITS_BEFORE_REPEAT: u32 = 6;

/// Sends a CPU from the trampoline page to its landing. `wait` waits briefly and returns false once
/// the time is up.
///
/// # Errors
/// [`StartCpuError::NoTrampoline`], [`StartCpuError::NoAnswer`].
pub(super) fn send(hardware_id: u32, landing: &Landing, wait: &mut dyn FnMut() -> bool) -> Result<(), StartCpuError> {
    let page = prepare(landing).ok_or(StartCpuError::NoTrampoline)?;
    landing::expect_answer();
    let send = |message: fn(u32, u8) -> Result<(), IpiError>| {
        let were_enabled = interrupts::are_enabled();
        interrupts::disable();
        let result = message(hardware_id, page).map_err(|_| StartCpuError::NoAnswer);
        if were_enabled {
            interrupts::enable();
        }
        result
    };
    send(|id, _| apic::send_init(id))?;
    wait();
    send(apic::send_startup)?;
    let mut waits = 0;
    while !landing::has_answered() {
        if waits == WAITS_BEFORE_REPEAT {
            send(apic::send_startup)?;
        }
        waits += 1;
        if !wait() {
            // Put the CPU back into reset, so that it cannot wake up later on a page and a stack
            // that are in use for something else by then.
            let _ = send(|id, _| apic::send_init(id));
            return Err(StartCpuError::NoAnswer);
        }
    }
    Ok(())
}
