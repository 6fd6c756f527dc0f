//! QEMU's debug consoles (`-device isa-debugcon`): ports that take bytes for files of whoever started the machine.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use arch_contract::Export;

/// The ports by what they take, 0 where there is none.
static PORTS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

fn port(what: Export) -> &'static AtomicU32 {
    &PORTS[what as usize]
}

/// Notes that QEMU was given the device at this port.
pub fn set(what: Export, number: u16) {
    port(what).store(u32::from(number), Ordering::Relaxed);
}

/// True if there is a port.
pub fn is_there(what: Export) -> bool {
    port(what).load(Ordering::Relaxed) != 0
}

/// Writes bytes, if there is a port.
pub fn write(what: Export, bytes: &[u8]) {
    if !is_there(what) {
        return;
    }
    let port = port(what).load(Ordering::Relaxed) as u16;
    // One instruction, since each on its own would be an exit of a virtual machine.
    // SAFETY: whoever started the machine says that the port takes bytes; reads these.
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(readonly, nostack, preserves_flags)
        );
    }
}
