//! The contract's debugger part, implemented for a PC.

use arch_contract::ProbeError;
use arch_contract::debug::{Debugging, HARDWARE_BREAKPOINTS, HardwareBreakpoint, SystemRegisters, VectorLayout};

use super::{Machine, debug_line};
use crate::{apic, cpu, debug, paging, vectors};

impl Debugging for Machine {
    const BREAKPOINT: u8 = debug::BREAKPOINT;

    fn debug_line_init() -> bool {
        debug_line::init()
    }

    fn debug_line_read() -> Option<u8> {
        debug_line::LINE.receive()
    }

    fn debug_line_write(byte: u8) {
        debug_line::LINE.send(byte);
    }

    fn debug_line_watch(watch: bool) {
        debug_line::watch(watch);
    }

    fn debug_stop_others() {
        apic::broadcast_nmi();
    }

    fn wait_for_attention() {
        cpu::wait_for_nmi();
    }

    fn set_hardware_breakpoints(breakpoints: &[Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS]) {
        debug::set_hardware_breakpoints(breakpoints);
    }

    fn write_protected(address: usize, bytes: &[u8]) -> Result<(), ProbeError> {
        debug::write_protected(address, bytes)
    }

    fn is_device_memory(address: usize) -> bool {
        paging::DEVICE_WINDOW.contains(&address)
    }

    fn system_registers() -> SystemRegisters {
        debug::system_registers()
    }

    fn vector_layout() -> VectorLayout {
        vectors::layout()
    }

    unsafe fn save_vectors(area: *mut u8) {
        // SAFETY: the caller guarantees the size and alignment that `vector_layout` gives.
        unsafe { vectors::save(area) };
    }

    unsafe fn restore_vectors(area: *mut u8) {
        // SAFETY: the caller guarantees that `save_vectors` wrote the area.
        unsafe { vectors::restore(area) };
    }

    fn breakpoint() {
        debug::breakpoint();
    }
}
