//! QEMU's debug consoles (`-device isa-debugcon`): ports whose bytes go to files on the host.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use arch_contract::Export;

/// The ports, indexed by [`Export`]; 0 where there is none.
static PORTS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

fn port(what: Export) -> &'static AtomicU32 {
    &PORTS[what as usize]
}

/// Records the port of a debug console.
pub fn set(what: Export, number: u16) {
    port(what).store(u32::from(number), Ordering::Relaxed);
}

/// True if there is a port for such bytes.
pub fn is_there(what: Export) -> bool {
    port(what).load(Ordering::Relaxed) != 0
}

/// Writes bytes to the port, if there is one; otherwise drops them.
pub fn write(what: Export, bytes: &[u8]) {
    if !is_there(what) {
        return;
    }
    let port = port(what).load(Ordering::Relaxed) as u16;
    // One string instruction, because each single OUT would exit a virtual machine.
    // SAFETY: the command line names this port as a debug console; the instruction only reads the
    // slice.
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
