//! Bytes typed at the console, from the serial interrupt to the shell.

use core::sync::atomic::{AtomicBool, Ordering};

use arch_contract::{ConsoleEvent, LineTrigger};
use kernel::arch::{Architecture, Machine};
use kernel::interrupts;
use kernel::lock::SpinLock;
use kernel::memory::{OutOfMemory, try_box};
use kernel::output;
use kernel::time::Deadline;
use kernel::wait::Channel;
use wire::console::CONTROL_C;

use crate::session::{self, Place};

/// Bytes kept before the device has to hold them back.
const CAPACITY: usize = 4096;
/// How often a console without an interrupt is looked at.
const POLL: core::time::Duration = core::time::Duration::from_millis(10);

/// Who moves bytes from the device to the channel.
static PUMP: SpinLock<()> = SpinLock::new(());

/// Set while the device keeps what the channel has no room for.
static HELD_BACK: AtomicBool = AtomicBool::new(false);

/// The console's input.
pub struct Input {
    bytes: &'static Channel<u8>,
    has_interrupt: bool,
}

/// The console's interrupt: serves its device until it asks for nothing more.
fn interrupt(bytes: &Channel<u8>) {
    loop {
        pump(bytes);
        output::device_interrupted();
        if !Machine::console_is_raised() {
            return;
        }
    }
}

/// Moves bytes from the device to the channel while there is room. What stays in the device is fetched when the
/// channel is empty: the device holds back further input meanwhile, and does not interrupt for it.
fn pump(bytes: &Channel<u8>) {
    // The line may be steered to another CPU than the reader's: what one of them takes first must be first in the channel.
    let _alone = PUMP.lock();
    while bytes.len() < CAPACITY {
        let Some(byte) = Machine::console_read() else { return };
        if byte == CONTROL_C {
            session::interrupt(Place::Serial);
        }
        // There is room: only this function adds, on one CPU at a time.
        let _ = bytes.try_send(byte);
    }
    HELD_BACK.store(true, Ordering::Relaxed);
    Machine::console_ignore(ConsoleEvent::Input);
}

impl Input {
    /// Opens the console's input.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn open() -> Result<Self, OutOfMemory> {
        let bytes: &'static Channel<u8> = alloc::boxed::Box::leak(try_box(Channel::new(CAPACITY)?)?);
        let registered = Machine::console_line()
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
            Machine::console_watch(ConsoleEvent::Input);
            // What came before the interrupt was enabled.
            pump(bytes);
        }
        Ok(Self { bytes, has_interrupt })
    }

    /// The next byte. Blocks.
    pub fn next(&self) -> u8 {
        loop {
            if let Some(byte) = self.bytes.try_receive() {
                return byte;
            }
            pump(self.bytes);
            if HELD_BACK.swap(false, Ordering::Relaxed) {
                Machine::console_watch(ConsoleEvent::Input);
            }
            let deadline = if self.has_interrupt { Deadline::NEVER } else { Deadline::after(POLL) };
            if let Ok(byte) = self.bytes.receive_until(deadline) {
                return byte;
            }
        }
    }
}
