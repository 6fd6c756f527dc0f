//! The PS/2 keyboard's controller (Intel 8042).

use x86_64::instructions::port::Port;

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;
/// ISA interrupt of the keyboard.
pub const ISA_INTERRUPT: u8 = 1;

/// Bits of the status: a byte is ready to read; the controller does not accept a byte yet; the byte
/// comes from the mouse.
const OUTPUT_FULL: u8 = 1 << 0;
const INPUT_FULL: u8 = 1 << 1;
const FROM_MOUSE: u8 = 1 << 5;
/// Value read from an absent controller.
const ABSENT: u8 = 0xff;

const READ_CONFIGURATION: u8 = 0x20;
const WRITE_CONFIGURATION: u8 = 0x60;
const ENABLE_KEYBOARD: u8 = 0xae;
/// Bits of the configuration: the keyboard interrupts; its clock is off; its codes are translated
/// to set 1.
const INTERRUPT: u8 = 1 << 0;
const CLOCK_OFF: u8 = 1 << 4;
const TRANSLATION: u8 = 1 << 6;

/// Polls for the controller until it counts as absent: some milliseconds.
const POLLS: u32 = 50_000;

fn status() -> u8 {
    // SAFETY: reading the status register has no effect on the controller.
    unsafe { Port::new(COMMAND).read() }
}

fn poll(mut done: impl FnMut() -> bool) -> bool {
    (0..POLLS).any(|_| {
        core::hint::spin_loop();
        done()
    })
}

fn send(port: u16, value: u8) -> bool {
    let ready = poll(|| status() & INPUT_FULL == 0);
    if ready {
        // SAFETY: callers send commands and data for the keyboard controller, none of which resets
        // the machine.
        unsafe { Port::new(port).write(value) };
    }
    ready
}

fn take() -> u8 {
    // SAFETY: the read takes a byte, which only `init` and then the keyboard's handler do.
    unsafe { Port::new(DATA).read() }
}

/// Enables the keyboard's interrupt; returns false if there is no keyboard controller.
pub fn init() -> bool {
    if status() == ABSENT {
        return false;
    }
    // Discard bytes typed before.
    let _ = poll(|| {
        let is_empty = status() & OUTPUT_FULL == 0;
        if !is_empty {
            take();
        }
        is_empty
    });
    if !send(COMMAND, READ_CONFIGURATION) || !poll(|| status() & OUTPUT_FULL != 0) {
        return false;
    }
    let configuration = (take() | INTERRUPT | TRANSLATION) & !CLOCK_OFF;
    send(COMMAND, WRITE_CONFIGURATION) && send(DATA, configuration) && send(COMMAND, ENABLE_KEYBOARD)
}

/// Takes a byte of a key's code (set 1), if there is one; drops the mouse's bytes.
pub fn receive() -> Option<u8> {
    loop {
        let status = status();
        if status == ABSENT || status & OUTPUT_FULL == 0 {
            return None;
        }
        let byte = take();
        if status & FROM_MOUSE == 0 {
            return Some(byte);
        }
    }
}
