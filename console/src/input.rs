//! Input of the serial console, from the serial interrupt to the shell.

use core::sync::atomic::{AtomicBool, Ordering};

use arch_contract::{ConsoleEvent, LineTrigger};
use kernel::arch::*;
use kernel::interrupts;
use kernel::lock::SpinLock;
use kernel::memory::{OutOfMemory, try_box};
use kernel::output;
use kernel::time::Deadline;
use kernel::wait::Channel;
use wire::console::CONTROL_C;

use crate::session::{self, Place};

/// Bytes queued before the device has to hold back further input.
const CAPACITY: usize = 4096;
/// Interval at which a console without an interrupt is polled.
const POLL: core::time::Duration = core::time::Duration::from_millis(10);

/// Serialises the CPUs that move bytes from the device to the channel.
static PUMP: SpinLock<()> = SpinLock::new(());

/// Set while the device holds back input because the channel is full.
static HELD_BACK: AtomicBool = AtomicBool::new(false);

/// The input of the serial console.
pub struct Input {
    bytes: &'static Channel<u8>,
    has_interrupt: bool,
}

/// Handles the console's interrupt. Serves the device until it no longer raises its line: an
/// edge-triggered line interrupts again only after it has been released.
fn interrupt(bytes: &Channel<u8>) {
    loop {
        pump(bytes);
        output::device_interrupted();
        if !ConsoleDevice::is_raised() {
            return;
        }
    }
}

/// Moves bytes from the device to the channel while there is room. Once the channel is full, the
/// input interrupt is disabled and the device holds back further input until [`Input::next`] finds
/// the channel empty.
fn pump(bytes: &Channel<u8>) {
    // The line may be steered to a CPU other than the reader's. The lock keeps the bytes in the
    // order in which they come from the device.
    let _alone = PUMP.lock();
    while bytes.len() < CAPACITY {
        let Some(byte) = ConsoleDevice::read() else { return };
        if byte == CONTROL_C {
            session::interrupt(Place::Serial);
        }
        // The channel has room: only this function sends, on one CPU at a time.
        let _ = bytes.try_send(byte);
    }
    HELD_BACK.store(true, Ordering::Relaxed);
    ConsoleDevice::ignore(ConsoleEvent::Input);
}

impl Input {
    /// Opens the input of the serial console.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn open() -> Result<Self, OutOfMemory> {
        let bytes: &'static Channel<u8> = alloc::boxed::Box::leak(try_box(Channel::new(CAPACITY)?)?);
        let registered = ConsoleDevice::line()
            .map(|line| interrupts::register_line(line, LineTrigger::Default, 0, bytes, interrupt));
        let has_interrupt = match registered {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                log::warn!("console: its interrupt line cannot be used: {error}; polling instead");
                false
            }
            None => {
                log::warn!("console: it has no interrupt line; polling instead");
                false
            }
        };
        if has_interrupt {
            output::use_interrupts();
            ConsoleDevice::watch(ConsoleEvent::Input);
            // Bytes that arrived before the interrupt was enabled raise no interrupt of their own.
            pump(bytes);
        }
        Ok(Self { bytes, has_interrupt })
    }

    /// Returns the next byte. Blocks until there is one.
    pub fn next(&self) -> u8 {
        loop {
            if let Some(byte) = self.bytes.try_receive() {
                return byte;
            }
            pump(self.bytes);
            if HELD_BACK.swap(false, Ordering::Relaxed) {
                ConsoleDevice::watch(ConsoleEvent::Input);
            }
            let deadline = if self.has_interrupt { Deadline::NEVER } else { Deadline::after(POLL) };
            if let Ok(byte) = self.bytes.receive_until(deadline) {
                return byte;
            }
        }
    }
}
