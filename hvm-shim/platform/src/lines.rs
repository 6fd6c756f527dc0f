//! The lines to the ROS: rings of bytes for the console, telemetry and a debugger.

use core::sync::atomic::{AtomicBool, Ordering};

use arch_contract::boot::PhysicalRange;
use arch_x64::rings::Channel;
use wire::rings::channel::{KIND_DEBUGGER, KIND_TELEMETRY};

use crate::downcall;

/// The console's channel.
pub static CONSOLE: Channel = Channel::telling(downcall::tell_of_bytes);
/// The telemetry line.
pub static TELEMETRY: Line = Line::new(KIND_TELEMETRY);
/// The debugger's line.
pub static DEBUGGER: Line = Line::new(KIND_DEBUGGER);

/// A line that the monitor may leave out.
pub struct Line {
    /// Its channel.
    pub channel: Channel,
    kind: u32,
    is_there: AtomicBool,
}

impl Line {
    const fn new(kind: u32) -> Self {
        Self { channel: Channel::telling(downcall::tell_of_bytes), kind, is_there: AtomicBool::new(false) }
    }

    /// Looks for the line in a region of rings.
    pub fn open(&self, region: PhysicalRange) {
        self.is_there.store(self.channel.open(region, self.kind), Ordering::Relaxed);
    }

    /// Whether there is such a line.
    pub fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Relaxed)
    }
}

/// The rings as the console's device; both sides poll them.
pub struct Rings;

impl arch_contract::ConsoleDevice for Rings {
    fn write(bytes: &[u8]) {
        CONSOLE.send(bytes);
    }

    fn try_write(bytes: &[u8]) -> usize {
        CONSOLE.try_send(bytes)
    }

    fn read() -> Option<u8> {
        CONSOLE.receive()
    }
}

/// The rings as the debugger's line. For input, the monitor interrupts the first CPU by an NMI.
pub struct DebugLine;

impl arch_contract::DebugLine for DebugLine {
    fn init() -> bool {
        DEBUGGER.is_there()
    }

    fn read() -> Option<u8> {
        DEBUGGER.channel.receive()
    }

    fn write(byte: u8) {
        DEBUGGER.channel.send(&[byte]);
    }

    fn watch(watch: bool) {
        DEBUGGER.channel.interrupt_for_input(watch);
    }
}
