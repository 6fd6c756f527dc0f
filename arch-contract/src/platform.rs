//! What is around the CPUs: [`Clock`], [`ConsoleDevice`] and [`Platform`].

use core::fmt;

/// The clock that interrupts at a deadline.
pub trait Clock: 'static {
    /// Vector of the clock's interrupt.
    const VECTOR: u8;
    /// Human-readable kind of the clock ("APIC one-shot", "TSC deadline", ...).
    fn name() -> &'static str;
    /// Rate of [`crate::Core::cycles`] in Hz, known before the kernel starts.
    fn frequency_hz() -> u64;
    /// Requests an interrupt with vector [`Clock::VECTOR`] on this CPU when the time counter
    /// reaches `deadline_cycles`, at once if it already has; replaces the previous request. Called
    /// with interrupts disabled. The interrupt is early by at most the clock's resolution; the
    /// kernel then asks again.
    fn arm(deadline_cycles: u64);
    /// Cancels the request; an interrupt already under way may still arrive. Called with interrupts
    /// disabled.
    fn disarm();
}

/// The first console's device. The defaults are those of a device that is polled.
pub trait ConsoleDevice: 'static {
    /// Writes bytes by polling, from any context; drops what a stuck device refuses.
    fn write(bytes: &[u8]);
    /// Writes as many bytes as the device accepts immediately, and returns their number. Never
    /// waits; an absent device accepts and drops everything. Called under the kernel's lock, from
    /// any context.
    fn try_write(bytes: &[u8]) -> usize;
    /// Takes a byte typed at the console, if there is one. Called by the device's interrupt
    /// handler.
    fn read() -> Option<u8>;
    /// The line the device interrupts on, if it has one.
    fn line() -> Option<u32> {
        None
    }
    /// Enables the device's interrupt for this event.
    fn watch(_event: ConsoleEvent) {}
    /// Disables the device's interrupt for this event.
    fn ignore(_event: ConsoleEvent) {}
    /// True while the device raises its line. An edge-triggered line interrupts again only after it
    /// has been released, so the handler serves the device until this returns false.
    fn is_raised() -> bool {
        false
    }
}

/// Why a console's device raises its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleEvent {
    /// There are bytes to read.
    Input,
    /// The device accepts more bytes.
    Output,
}

/// Everything else around the CPUs: their start, a screen and a keyboard, the host of an emulated
/// machine, power.
pub trait Platform: 'static {
    /// Starts another CPU, which enters [`crate::Callbacks::cpu_main`] on `stack_top` with `local`
    /// as its local pointer. `hardware_id` comes from the CPU's description.
    ///
    /// The boot CPU calls it from a thread, for one CPU at a time. `wait` lets about 50
    /// microseconds pass and returns false once the time is up.
    ///
    /// # Errors
    /// See [`StartCpuError`]. A CPU that did not answer is left alone for good.
    fn start_cpu(
        cpu: usize,
        hardware_id: u32,
        stack_top: usize,
        local: usize,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<(), StartCpuError>;
    /// Human-readable kind of the interrupt controller.
    fn interrupt_controller() -> &'static str;

    /// The screen, if there is one.
    fn screen() -> Option<Framebuffer> {
        None
    }
    /// Makes the keyboard interrupt for each byte of its codes (PC scan codes, set 1), and returns
    /// its line, if there is a keyboard. Called once.
    fn keyboard_init() -> Option<u32> {
        None
    }
    /// Takes a byte of a key's code, if there is one. Called by the keyboard's interrupt handler.
    fn keyboard_read() -> Option<u8> {
        None
    }

    /// Prepares the telemetry line, on which the host requests the state; returns false if there is
    /// none. Called once.
    fn telemetry_init() -> bool {
        false
    }
    /// Takes a byte received on the telemetry line.
    fn telemetry_read() -> Option<u8> {
        None
    }
    /// Sends bytes on the telemetry line by polling; drops what the other end does not accept.
    fn telemetry_write(_bytes: &[u8]) {}

    /// Passes bytes to the host of an emulated machine, if there is a channel; otherwise drops
    /// them. Any context.
    fn export(_what: Export, _bytes: &[u8]) {}
    /// True if there is a channel for such bytes.
    fn exports(_what: Export) -> bool {
        false
    }
    /// Tells the machine's host that the kernel has crashed and has exported its crash file.
    fn crashed() {}
    /// Ends the machine. `status` reaches the host of an emulated machine if there is a channel for
    /// it.
    fn power(action: PowerAction, status: u8) -> !;
}

/// A screen's memory, one 32-bit word per pixel: from the lowest byte up, blue, green, red.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// Address of the top left pixel. Only the screen's owner writes there.
    pub start: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// Pixels from the beginning of one row to the beginning of the next.
    pub stride: usize,
}

/// Data passed to the host of an emulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// The tracer's records.
    Trace,
    /// A crash file.
    Crash,
}

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    /// Switch the machine off.
    PowerOff,
    /// Reset the machine.
    Reboot,
}

/// Why a CPU did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartCpuError {
    /// The CPU was sent its start-up signal and never ran.
    NoAnswer,
    /// No memory below 1 MiB (or whatever else the architecture needs) is free to start the CPU
    /// from.
    NoTrampoline,
    /// The CPU is not in the boot information.
    NoSuchCpu,
}

impl fmt::Display for StartCpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAnswer => "it did not answer its start-up signal in time",
            Self::NoTrampoline => "there is no free page below 1 MiB to start it from",
            Self::NoSuchCpu => "the firmware does not list it",
        })
    }
}
