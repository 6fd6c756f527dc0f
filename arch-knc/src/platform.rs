//! The card's registers.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use arch_contract::{MapError, PAGE_SIZE};
use arch_x64::boot::memory::start_up_tables;
use arch_x64::cpu::paging::{TableSource, map_device, physical_to_virtual, virtual_to_physical};

/// Physical address of the register blocks, DBOX followed by SBOX, and the blocks' offsets and
/// total size [SSDG].
const REGISTERS: u64 = 0x8_007c_0000;
const DBOX: usize = 0;
const SBOX: usize = 0x1_0000;
const SIZE: usize = 0x2_0000;
/// DBOX: two ASCII characters that the host can read, low byte first.
const POSTCODE: usize = DBOX + 0x242c;
/// SBOX scratchpad 4: ICC divider in 29:25; 0 means 20.
const SPAD4: usize = SBOX + 0xab30;
/// SBOX: feedback divider in 8:1, feed-forward code in 10:9.
const CURRENT_RATIO: usize = SBOX + 0x402c;
/// Reference clock of the core's PLL, in Hz.
const REFERENCE_HZ: u64 = 4_000_000_000;
const DEFAULT_DIVIDER: u64 = 20;

/// Virtual address of the registers, 0 while they are not mapped.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// A table of 2 MiB pages for the GiB that contains the registers.
#[repr(align(4096))]
struct EarlyTable(UnsafeCell<[u64; 512]>);

// SAFETY: only `map_early` writes the table, before another CPU runs.
unsafe impl Sync for EarlyTable {}

static EARLY_TABLE: EarlyTable = EarlyTable(UnsafeCell::new([0; 512]));

/// Maps the registers in the start-up page tables. Once those have been replaced, [`map`] takes
/// over.
pub fn map_early() {
    const GIB: u64 = 1 << 30;
    const PAGE_2M: u64 = 1 << 21;
    /// Entry flags: present and writable; for a page also write-through, uncached and large (SDM
    /// Vol. 3A, 4.5).
    const TABLE: u64 = 0x3;
    const PAGE: u64 = 0x9b;
    // The start-up table of the direct map's first 512 GiB follows the root table.
    let second = physical_to_virtual(start_up_tables() + PAGE_SIZE as u64).cast::<u64>();
    let table = EARLY_TABLE.0.get().cast::<u64>();
    let place = (REGISTERS % GIB / PAGE_2M) as usize;
    // SAFETY: only unused entries of the active tables change, and only the boot CPU runs.
    unsafe {
        table.add(place).write(REGISTERS & !(PAGE_2M - 1) | PAGE);
        second.add((REGISTERS / GIB) as usize).write_volatile(virtual_to_physical(table.cast()) | TABLE);
    }
    MAPPED.store(physical_to_virtual(REGISTERS) as usize, Ordering::Release);
}

/// Maps the registers in the kernel's own page tables. Called once.
///
/// # Errors
/// See [`MapError`].
pub fn map(tables: TableSource) -> Result<(), MapError> {
    // The start-up mapping is gone with its page tables; without another one, the last POST code
    // shown stays.
    MAPPED.store(0, Ordering::Release);
    let registers = map_device(REGISTERS, SIZE, tables)?;
    MAPPED.store(registers as usize, Ordering::Release);
    Ok(())
}

fn register(offset: usize) -> Option<*mut u32> {
    let registers = MAPPED.load(Ordering::Acquire);
    (registers != 0).then(|| (registers + offset) as *mut u32)
}

fn read(offset: usize) -> u32 {
    // SAFETY: the register lies in the blocks that are mapped at `MAPPED`, and reading it has no
    // side effects.
    register(offset).map_or(0, |register| unsafe { register.read_volatile() })
}

/// Shows two characters to the host.
pub fn show_post_code(characters: [u8; 2]) {
    if let Some(register) = register(POSTCODE) {
        // SAFETY: the register lies in the blocks that are mapped at `MAPPED`, and only shows what
        // is written to it.
        unsafe { register.write_volatile(u32::from(u16::from_le_bytes(characters))) };
    }
}

/// Rate of the core clock, and of the time counter, in Hz; 0 if the registers name none. 1.1 GHz on
/// a 3120A.
pub fn core_hz() -> u64 {
    core_hz_of(read(SPAD4), read(CURRENT_RATIO))
}

const fn core_hz_of(scratchpad: u32, ratio: u32) -> u64 {
    let divider = match (scratchpad >> 25 & 0x1f) as u64 {
        0 => DEFAULT_DIVIDER,
        divider => divider,
    };
    let feedback = (ratio >> 1 & 0xff) as u64;
    let feed_forward = match ratio >> 9 & 3 {
        3 => 1,
        2 => 2,
        _ => 4,
    };
    REFERENCE_HZ / divider * feedback / feed_forward
}

/// Register values measured on a 3120A, which runs at 1100 MHz [3120A].
const _: () = assert!(core_hz_of(0x2800_e6cf, 0x0416_0416) == 1_100_000_000);
