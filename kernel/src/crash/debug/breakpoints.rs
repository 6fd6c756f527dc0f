//! The debugger's breakpoints: those planted in the code and those of the hardware. The host writes
//! them while all other CPUs are stopped.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use arch_contract::debug::{HARDWARE_BREAKPOINTS, HardwareBreakpoint};
use arch_contract::fault::Registers;

use crate::arch::*;

/// The hardware breakpoints, written only by the host.
struct Breakpoints(UnsafeCell<[Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS]>);

// SAFETY: the host writes while all other CPUs are stopped, and they read when they resume, after
// its order.
unsafe impl Sync for Breakpoints {}

static BREAKPOINTS: Breakpoints = Breakpoints(UnsafeCell::new([None; HARDWARE_BREAKPOINTS]));

/// Returns the hardware breakpoints, which are common to all CPUs.
///
/// # Safety
/// Called by the host, for which this is the only reference, or by a CPU that resumes and only
/// reads.
pub unsafe fn hardware() -> &'static mut [Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS] {
    // SAFETY: the caller is the host with its only reference, or only reads while no host writes.
    unsafe { &mut *BREAKPOINTS.0.get() }
}

/// Returns whether no hardware breakpoint is set at an index.
pub fn is_free(index: usize) -> bool {
    // SAFETY: hosts write only while this CPU is stopped or has not entered the debugger's code.
    unsafe { (*BREAKPOINTS.0.get())[index] }.is_none()
}

/// Loads the host's hardware breakpoints into this CPU.
pub fn set_here() {
    // SAFETY: the host wrote them before its order, and this CPU reads them after it.
    Debug::set_hardware_breakpoints(unsafe { &*BREAKPOINTS.0.get() });
}

/// Maximum number of breakpoints planted in the code. The table holds their addresses, 0 for a free
/// place; only the host writes it.
pub const BREAKPOINT_LIMIT: usize = 256;

struct Planted {
    addresses: [AtomicUsize; BREAKPOINT_LIMIT],
    originals: [AtomicU8; BREAKPOINT_LIMIT],
}

// A table of atomics, because a stopped machine must not allocate or lock. They need no ordering of
// their own: other CPUs look only after the order by which they resume.
static PLANTED: Planted = Planted {
    addresses: [const { AtomicUsize::new(0) }; BREAKPOINT_LIMIT],
    originals: [const { AtomicU8::new(0) }; BREAKPOINT_LIMIT],
};

fn planted_at(address: usize) -> Option<usize> {
    PLANTED.addresses.iter().position(|place| place.load(Ordering::Relaxed) == address)
}

/// Moves the instruction pointer back to a planted breakpoint that was just executed. Returns false
/// if there is none.
pub fn before_breakpoint(registers: &mut Registers) -> bool {
    // The instruction has one byte, and the trap comes after it.
    let at = registers.instruction_pointer.wrapping_sub(1);
    let is_planted = planted_at(at).is_some();
    if is_planted {
        registers.instruction_pointer = at;
    }
    is_planted
}

/// Moves the instruction pointer back to a breakpoint that was executed and has been removed since.
/// Returns false if there is none.
pub fn before_gone(registers: &mut Registers) -> bool {
    let at = registers.instruction_pointer.wrapping_sub(1);
    let mut now = [Debug::BREAKPOINT];
    // A breakpoint instruction that is still there was compiled in, as by `Debug::breakpoint`, and
    // is not the debugger's. The read may fail, because a program's code may be gone.
    let is_gone =
        planted_at(at).is_none() && AddressSpace::probe_read(at, &mut now).is_ok() && now[0] != Debug::BREAKPOINT;
    if is_gone {
        // The instruction restored there has not been executed yet.
        registers.instruction_pointer = at;
    }
    is_gone
}

/// Returns whether a breakpoint of the debugger is planted at `address`.
pub fn is_planted(address: usize) -> bool {
    // Address 0 would be found, because 0 marks the free places.
    address != 0 && planted_at(address).is_some()
}

/// Plants a breakpoint in the code. Returns false if nothing is mapped there, or there are too many
/// breakpoints.
pub fn plant(address: usize) -> bool {
    // A second breakpoint there would take the first one's instruction for the original code.
    if is_planted(address) {
        return true;
    }
    let Some(index) = planted_at(0) else { return false };
    let mut original = [0];
    // Address 0 marks the free places.
    if address == 0 || AddressSpace::probe_read(address, &mut original).is_err() {
        return false;
    }
    // SAFETY: only a debugger plants breakpoints, while all CPUs are stopped; a CPU that executes
    // one enters the debugger, which executes the original instruction in its place.
    if unsafe { AddressSpace::write_protected(address, &[Debug::BREAKPOINT]) }.is_err() {
        return false;
    }
    // Entered only now, so that a write that fails leaves no entry.
    PLANTED.originals[index].store(original[0], Ordering::Relaxed);
    PLANTED.addresses[index].store(address, Ordering::Relaxed);
    true
}

/// Removes a breakpoint from the code. Returns false if there is none.
pub fn remove(address: usize) -> bool {
    let Some(index) = planted_at(address).filter(|_| address != 0) else { return false };
    PLANTED.addresses[index].store(0, Ordering::Relaxed);
    let mut now = [0];
    // Code that was unmapped or rewritten since holds no breakpoint of ours.
    if AddressSpace::probe_read(address, &mut now).is_ok() && now[0] == Debug::BREAKPOINT {
        let original = [PLANTED.originals[index].load(Ordering::Relaxed)];
        // SAFETY: this restores the byte that `plant` replaced, while all CPUs are stopped.
        return unsafe { AddressSpace::write_protected(address, &original) }.is_ok();
    }
    true
}

/// Removes all planted breakpoints from the code.
pub fn remove_planted() {
    for place in &PLANTED.addresses {
        let address = place.load(Ordering::Relaxed);
        if address != 0 {
            remove(address);
        }
    }
}

/// Replaces planted breakpoints in a copy of the code by the original bytes.
pub fn hide(address: usize, bytes: &mut [u8]) {
    for (place, original) in PLANTED.addresses.iter().zip(&PLANTED.originals) {
        let offset = place.load(Ordering::Relaxed).wrapping_sub(address);
        // For a place below `address` the offset wraps around and is too large.
        if place.load(Ordering::Relaxed) != 0 && offset < bytes.len() {
            bytes[offset] = original.load(Ordering::Relaxed);
        }
    }
}

/// Breakpoint operations for tests.
#[cfg(feature = "faults")]
pub mod faults {
    use arch_contract::debug::{HARDWARE_BREAKPOINTS, HardwareBreakpoint, Watch};

    use crate::arch::*;

    /// Makes this CPU trap after each write to the byte at `address`; `None` ends that.
    pub fn watch_here(address: Option<usize>) {
        let mut breakpoints = [None; HARDWARE_BREAKPOINTS];
        breakpoints[0] = address.map(|address| HardwareBreakpoint { address, length: 1, watch: Watch::Write });
        Debug::set_hardware_breakpoints(&breakpoints);
    }
}
