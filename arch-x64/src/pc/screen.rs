//! QEMU's VGA: its PCI function, its mode set through the registers of Bochs' display interface
//! (QEMU, docs/specs/standard-vga.rst), and its frame buffer.

use core::sync::atomic::{AtomicUsize, Ordering};

use arch_contract::Framebuffer;
use x86_64::instructions::port::Port;

use crate::cpu::paging::{self, TableSource};

const WIDTH: usize = 1024;
const HEIGHT: usize = 768;

/// PCI's configuration ports (PCI Local Bus 3.0, 3.2.2.3.2).
const CONFIGURATION_ADDRESS: u16 = 0xcf8;
const CONFIGURATION_DATA: u16 = 0xcfc;
const CONFIGURATION_ENABLE: u32 = 1 << 31;
/// Vendor and device id of QEMU's VGA.
const STANDARD_VGA: u32 = 0x1111_1234;
/// Number of slots on the first bus.
const SLOTS: u32 = 32;
/// The command register, and the bit that makes the function respond at its memory addresses.
const COMMAND: u32 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
/// The first base address register, and the mask of its address bits.
const BASE_ADDRESS: u32 = 0x10;
const BASE_ADDRESS_MASK: u32 = !0xf;

/// The display interface's ports and registers.
const DISPLAY_INDEX: u16 = 0x1ce;
const DISPLAY_DATA: u16 = 0x1cf;
const DISPLAY_WIDTH: u16 = 1;
const DISPLAY_HEIGHT: u16 = 2;
const DISPLAY_BITS: u16 = 3;
const DISPLAY_ENABLE: u16 = 4;
const DISPLAY_VIRTUAL_WIDTH: u16 = 6;
/// Enabled, with a linear frame buffer.
const ENABLED: u16 = 0x41;

/// Address of the mapped frame buffer, 0 if there is none.
static START: AtomicUsize = AtomicUsize::new(0);

fn read_configuration(slot: u32, register: u32) -> u32 {
    // SAFETY: reading configuration space changes nothing; only the boot CPU does so, before it
    // starts others.
    unsafe {
        Port::new(CONFIGURATION_ADDRESS).write(CONFIGURATION_ENABLE | slot << 11 | register);
        Port::new(CONFIGURATION_DATA).read()
    }
}

fn write_configuration(slot: u32, register: u32, value: u32) {
    // SAFETY: the write only lets a function respond at the addresses the firmware assigned to it.
    unsafe {
        Port::new(CONFIGURATION_ADDRESS).write(CONFIGURATION_ENABLE | slot << 11 | register);
        Port::new(CONFIGURATION_DATA).write(value);
    }
}

fn set_display(register: u16, value: u16) {
    // SAFETY: callers have found the display, so these registers exist and affect only it.
    unsafe {
        Port::new(DISPLAY_INDEX).write(register);
        Port::new(DISPLAY_DATA).write(value);
    }
}

/// Finds the display, sets its mode, and maps its frame buffer.
pub fn init(source: TableSource) {
    let Some(slot) = (0..SLOTS).find(|&slot| read_configuration(slot, 0) == STANDARD_VGA) else { return };
    let base = read_configuration(slot, BASE_ADDRESS) & BASE_ADDRESS_MASK;
    if base == 0 {
        // The firmware has not assigned an address.
        return;
    }
    write_configuration(slot, COMMAND, read_configuration(slot, COMMAND) | COMMAND_MEMORY);
    let Ok(start) = paging::map_device(u64::from(base), WIDTH * HEIGHT * size_of::<u32>(), source) else { return };
    set_display(DISPLAY_ENABLE, 0);
    set_display(DISPLAY_WIDTH, WIDTH as u16);
    set_display(DISPLAY_HEIGHT, HEIGHT as u16);
    set_display(DISPLAY_BITS, u32::BITS as u16);
    set_display(DISPLAY_VIRTUAL_WIDTH, WIDTH as u16);
    set_display(DISPLAY_ENABLE, ENABLED);
    START.store(start as usize, Ordering::Release);
}

/// The frame buffer, if there is one.
pub fn framebuffer() -> Option<Framebuffer> {
    let start = START.load(Ordering::Acquire);
    (start != 0).then_some(Framebuffer { start, width: WIDTH, height: HEIGHT, stride: WIDTH })
}
