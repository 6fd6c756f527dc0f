//! QEMU's debug console (`-device isa-debugcon`): a port that takes bytes for a file of whoever started the machine.

use core::sync::atomic::{AtomicU32, Ordering};

use x86_64::instructions::port::Port;

/// The port, 0 if there is none.
static PORT: AtomicU32 = AtomicU32::new(0);

/// Notes that QEMU was given the device at this port.
pub fn set(port: u16) {
    PORT.store(u32::from(port), Ordering::Relaxed);
}

/// Writes bytes, if there is a port.
pub fn write(bytes: &[u8]) {
    let port = PORT.load(Ordering::Relaxed) as u16;
    if port == 0 {
        return;
    }
    let mut port = Port::<u8>::new(port);
    for &byte in bytes {
        // SAFETY: whoever started the machine says that the port takes bytes.
        unsafe { port.write(byte) };
    }
}
