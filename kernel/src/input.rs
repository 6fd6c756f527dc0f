//! Input of the first console, from its device's interrupt to the thread that reads it.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use arch_contract::{ConsoleEvent, LineTrigger};
use wire::console::CONTROL_C;

use crate::arch::*;
use crate::interrupts;
use crate::lock::SpinLock;
use crate::memory::{OutOfMemory, try_box};
use crate::output;
use crate::time::Deadline;
use crate::wait::{InterruptSafe, MessageQueue};

/// Bytes queued before the device has to hold back further input.
const CAPACITY: usize = 4096;
/// Interval at which a device without an interrupt is polled.
const POLL: Duration = Duration::from_millis(10);

/// The input of the first console.
pub struct Input {
    bytes: MessageQueue<u8>,
    has_interrupt: AtomicBool,
    /// Serialises the CPUs that move bytes from the device to the message queue.
    pump: SpinLock<()>,
    /// Set while the device holds back input because the message queue is full.
    is_held_back: AtomicBool,
    /// Set by Ctrl-C.
    is_interrupted: AtomicBool,
}

// SAFETY: the interrupt handler uses `try_send` of the message queue, atomics and a spin lock, and
// never allocates.
unsafe impl InterruptSafe for Input {}

/// Handles the device's interrupt. Serves the device until it no longer raises its line: an
/// edge-triggered line interrupts again only after it has been released.
fn interrupt(input: &Input) {
    loop {
        input.pump();
        output::device_interrupted();
        if !ConsoleDevice::is_raised() {
            return;
        }
    }
}

impl Input {
    /// Opens the input of the first console. Called once.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn open() -> Result<&'static Self, OutOfMemory> {
        let input: &'static Self = Box::leak(try_box(Self {
            bytes: MessageQueue::new(CAPACITY)?,
            has_interrupt: AtomicBool::new(false),
            pump: SpinLock::new(()),
            is_held_back: AtomicBool::new(false),
            is_interrupted: AtomicBool::new(false),
        })?);
        let registered = ConsoleDevice::line()
            .map(|line| interrupts::register_line(line, LineTrigger::Default, 0, input, interrupt));
        match registered {
            Some(Ok(())) => {
                input.has_interrupt.store(true, Ordering::Relaxed);
                output::use_interrupts();
                ConsoleDevice::watch(ConsoleEvent::Input);
                // Bytes that arrived before the interrupt was enabled raise no interrupt of their
                // own.
                input.pump();
            }
            Some(Err(error)) => log::warn!("console: its interrupt line cannot be used: {error}; polling instead"),
            None => log::warn!("console: it has no interrupt line; polling instead"),
        }
        Ok(input)
    }

    /// Moves bytes from the device to the message queue while there is room. Once the message queue
    /// is full, the input interrupt is disabled and the device holds back further input until
    /// [`Input::next`] finds the message queue empty.
    fn pump(&self) {
        // The line may be steered to a CPU other than the reader's. The lock keeps the bytes in the
        // order in which they come from the device.
        let _alone = self.pump.lock();
        while self.bytes.len() < CAPACITY {
            let Some(byte) = ConsoleDevice::read() else { return };
            if byte == CONTROL_C {
                self.is_interrupted.store(true, Ordering::Relaxed);
            }
            // The message queue has room: only this function sends, on one CPU at a time.
            let _ = self.bytes.try_send(byte);
        }
        self.is_held_back.store(true, Ordering::Relaxed);
        ConsoleDevice::ignore(ConsoleEvent::Input);
    }

    /// Returns the next byte. Blocks until there is one.
    pub fn next(&self) -> u8 {
        loop {
            if let Some(byte) = self.bytes.try_receive() {
                return byte;
            }
            self.pump();
            if self.is_held_back.swap(false, Ordering::Relaxed) {
                ConsoleDevice::watch(ConsoleEvent::Input);
            }
            let has_interrupt = self.has_interrupt.load(Ordering::Relaxed);
            let deadline = if has_interrupt { Deadline::NEVER } else { Deadline::after(POLL) };
            if let Ok(byte) = self.bytes.receive_until(deadline) {
                return byte;
            }
        }
    }

    /// Returns true if Ctrl-C was typed since [`Input::clear_interrupted`].
    pub fn is_interrupted(&self) -> bool {
        if !self.has_interrupt.load(Ordering::Relaxed) {
            self.pump();
        }
        self.is_interrupted.load(Ordering::Relaxed)
    }

    /// Forgets an earlier Ctrl-C.
    pub fn clear_interrupted(&self) {
        self.is_interrupted.store(false, Ordering::Relaxed);
    }
}
