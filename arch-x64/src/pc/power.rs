//! Power-off and reset.

use core::sync::atomic::{AtomicU32, Ordering};

use arch_contract::PowerAction;
use x86_64::instructions::port::Port;

use crate::cpu::interrupts;

/// PM1 control: sleep type in 12:10, sleep enable in 13 (ACPI 6.5, 4.8.3.2).
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;
/// The keyboard controller's command "pulse reset line", and the chipset's reset control register.
const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;
const RESET_CONTROL: u16 = 0xcf9;
const RESET_HARD: u8 = 0x0e;

/// Power-off port in the low half, sleep type in the high half; 0 if unknown.
static POWER_OFF: AtomicU32 = AtomicU32::new(0);
/// Port of QEMU's isa-debug-exit device, 0 if there is none.
static DEBUG_EXIT: AtomicU32 = AtomicU32::new(0);

/// Records the FADT's power-off port and sleep type.
pub fn set_power_off(port: u16, sleep_type: u16) {
    POWER_OFF.store(u32::from(sleep_type) << 16 | u32::from(port), Ordering::Relaxed);
}

/// Records the port of QEMU's `-device isa-debug-exit,iobase=PORT`.
pub fn set_debug_exit(port: u16) {
    DEBUG_EXIT.store(u32::from(port), Ordering::Relaxed);
}

/// Powers off or resets the machine; halts if the machine ignores it.
pub fn act(action: PowerAction, status: u8) -> ! {
    super::serial::wait_until_sent();
    // SAFETY: the caller wants the machine to end, and writing these ports has no other effect.
    unsafe {
        match action {
            PowerAction::PowerOff => {
                let debug_exit = DEBUG_EXIT.load(Ordering::Relaxed) as u16;
                if debug_exit != 0 {
                    Port::<u8>::new(debug_exit).write(status);
                }
                let known = POWER_OFF.load(Ordering::Relaxed);
                if known != 0 {
                    let value = ((known >> 16) as u16) << SLEEP_TYPE_SHIFT | SLEEP_ENABLE;
                    Port::<u16>::new(known as u16).write(value);
                }
            }
            PowerAction::Reboot => {
                Port::<u8>::new(KEYBOARD_COMMAND).write(KEYBOARD_RESET);
                Port::<u8>::new(RESET_CONTROL).write(RESET_HARD);
            }
        }
    }
    super::serial::send(b"\r\nThe machine can be switched off.\r\n");
    interrupts::halt_forever()
}
