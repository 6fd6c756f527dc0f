//! The debugger's breakpoints: those planted in the code, and those of the hardware. Written by the host while all others are stopped.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use arch_contract::debug::{Debugging, HARDWARE_BREAKPOINTS, HardwareBreakpoint};
use arch_contract::fault::Registers;

use crate::arch::{Architecture, Machine};

/// Written by the host only.
struct Breakpoints(UnsafeCell<[Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS]>);

// SAFETY: the host writes while all others are stopped; they read when they go on.
unsafe impl Sync for Breakpoints {}

static BREAKPOINTS: Breakpoints = Breakpoints(UnsafeCell::new([None; HARDWARE_BREAKPOINTS]));

/// The hardware breakpoints of all CPUs.
///
/// # Safety
/// By the host, for which it is the only reference; or to look at them, on a CPU that goes on.
pub unsafe fn hardware() -> &'static mut [Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS] {
    // SAFETY: the caller's obligation.
    unsafe { &mut *BREAKPOINTS.0.get() }
}

/// True if no hardware breakpoint is set at an index any more.
pub fn is_free(index: usize) -> bool {
    // SAFETY: written by hosts only, while this CPU is stopped or has not come here.
    unsafe { (*BREAKPOINTS.0.get())[index] }.is_none()
}

/// Sets this CPU's, as the host wants them.
pub fn set_here() {
    // SAFETY: written by the host before its order.
    Machine::set_hardware_breakpoints(unsafe { &*BREAKPOINTS.0.get() });
}

/// Breakpoints that the debugger has put into the code, by address; 0 for none. Written by the host.
pub const BREAKPOINT_LIMIT: usize = 256;

struct Planted {
    addresses: [AtomicUsize; BREAKPOINT_LIMIT],
    originals: [AtomicU8; BREAKPOINT_LIMIT],
}

static PLANTED: Planted = Planted {
    addresses: [const { AtomicUsize::new(0) }; BREAKPOINT_LIMIT],
    originals: [const { AtomicU8::new(0) }; BREAKPOINT_LIMIT],
};

fn planted_at(address: usize) -> Option<usize> {
    PLANTED.addresses.iter().position(|place| place.load(Ordering::Relaxed) == address)
}

/// If one of the debugger's breakpoints was executed, the code goes on at it: true then.
pub fn before_breakpoint(registers: &mut Registers) -> bool {
    let at = registers.instruction_pointer.wrapping_sub(1);
    let is_planted = planted_at(at).is_some();
    if is_planted {
        registers.instruction_pointer = at;
    }
    is_planted
}

/// If a breakpoint was executed that is no longer there, the code goes on at it: true then.
pub fn before_gone(registers: &mut Registers) -> bool {
    let at = registers.instruction_pointer.wrapping_sub(1);
    let mut now = [Machine::BREAKPOINT];
    let is_gone =
        planted_at(at).is_none() && Machine::probe_read(at, &mut now).is_ok() && now[0] != Machine::BREAKPOINT;
    if is_gone {
        // The instruction that is there now has not been executed.
        registers.instruction_pointer = at;
    }
    is_gone
}

/// True if there is one of the debugger's breakpoints.
pub fn is_planted(address: usize) -> bool {
    address != 0 && planted_at(address).is_some()
}

/// Puts a breakpoint into the code; false if nothing is mapped there, or there are too many.
pub fn plant(address: usize) -> bool {
    if planted_at(address).is_some() {
        return true;
    }
    let Some(index) = planted_at(0) else { return false };
    let mut original = [0];
    if address == 0 || Machine::probe_read(address, &mut original).is_err() {
        return false;
    }
    if Machine::write_protected(address, &[Machine::BREAKPOINT]).is_err() {
        return false;
    }
    PLANTED.originals[index].store(original[0], Ordering::Relaxed);
    PLANTED.addresses[index].store(address, Ordering::Relaxed);
    true
}

/// Takes a breakpoint out of the code again; false if there is none.
pub fn remove(address: usize) -> bool {
    let Some(index) = planted_at(address).filter(|_| address != 0) else { return false };
    PLANTED.addresses[index].store(0, Ordering::Relaxed);
    let mut now = [0];
    // Code that is gone, or written anew since, has no breakpoint of ours.
    if Machine::probe_read(address, &mut now).is_ok() && now[0] == Machine::BREAKPOINT {
        return Machine::write_protected(address, &[PLANTED.originals[index].load(Ordering::Relaxed)]).is_ok();
    }
    true
}

/// Takes all out of the code.
pub fn remove_planted() {
    for place in &PLANTED.addresses {
        let address = place.load(Ordering::Relaxed);
        if address != 0 {
            remove(address);
        }
    }
}

/// Puts what the code has without breakpoints into a copy of it.
pub fn hide(address: usize, bytes: &mut [u8]) {
    for (place, original) in PLANTED.addresses.iter().zip(&PLANTED.originals) {
        let offset = place.load(Ordering::Relaxed).wrapping_sub(address);
        if place.load(Ordering::Relaxed) != 0 && offset < bytes.len() {
            bytes[offset] = original.load(Ordering::Relaxed);
        }
    }
}

/// What tests do with breakpoints.
#[cfg(feature = "faults")]
pub mod faults {
    use arch_contract::debug::{Debugging, HARDWARE_BREAKPOINTS, HardwareBreakpoint, Watch};

    use crate::arch::Machine;

    /// Makes this CPU trap behind each write to the byte at an address, or no longer.
    pub fn watch_here(address: Option<usize>) {
        let mut breakpoints = [None; HARDWARE_BREAKPOINTS];
        breakpoints[0] = address.map(|address| HardwareBreakpoint { address, length: 1, watch: Watch::Write });
        Machine::set_hardware_breakpoints(&breakpoints);
    }
}
