//! I/O APICs (82093AA data sheet; SDM and chipset documents for later ones): routing of device
//! lines to vectors on CPUs.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arch_contract::{LineError, LineTrigger};
use arrayvec::ArrayVec;
use firmware::acpi::{Override, Platform};
use x86_64::instructions::port::Port;

use crate::cpu::block;
use crate::cpu::paging::{TableSource, map_device};

const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;
const ENTRY_MASKED: u32 = 1 << 16;
const ENTRY_LEVEL: u32 = 1 << 15;
const ENTRY_ACTIVE_LOW: u32 = 1 << 13;
const ENTRY_NON_MASKABLE: u32 = 0b100 << 8;
/// Largest APIC id that an I/O APIC entry can address without interrupt remapping.
const LARGEST_ID: u32 = 254;
/// Number of ISA lines, which are edge triggered and active high unless overridden.
const ISA_LINES: u32 = 16;

struct Controller {
    registers: *mut u8,
    first_line: u32,
    lines: u32,
}

/// The controllers and overrides, set up once at start-up and read-only afterwards.
struct Controllers(UnsafeCell<(ArrayVec<Controller, 16>, ArrayVec<Override, 32>)>);

// SAFETY: only the boot CPU writes the cell, in `init`, before it starts others; the kernel's lock
// around line changes serialises register accesses.
unsafe impl Sync for Controllers {}

static CONTROLLERS: Controllers = Controllers(UnsafeCell::new((ArrayVec::new_const(), ArrayVec::new_const())));
static LINES: AtomicU32 = AtomicU32::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

impl Controller {
    fn read(&self, register: u32) -> u32 {
        // SAFETY: `registers` maps this I/O APIC; the lock described at `Controllers` serialises
        // the two accesses.
        unsafe {
            self.registers.add(SELECT).cast::<u32>().write_volatile(register);
            self.registers.add(WINDOW).cast::<u32>().read_volatile()
        }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: `registers` maps this I/O APIC; the lock described at `Controllers` serialises
        // the two accesses.
        unsafe {
            self.registers.add(SELECT).cast::<u32>().write_volatile(register);
            self.registers.add(WINDOW).cast::<u32>().write_volatile(value);
        }
    }
}

/// Maps all I/O APICs and masks every line and the legacy PICs.
pub fn init(platform: &Platform, source: TableSource) {
    // SAFETY: only the boot CPU runs yet, so there is no other reference to the cell.
    let (controllers, overrides) = unsafe { &mut *CONTROLLERS.0.get() };
    for description in &platform.io_apics {
        let Ok(registers) = map_device(description.address, 0x20, source) else { continue };
        let mut controller = Controller { registers, first_line: description.first_line, lines: 0 };
        let version = controller.read(VERSION);
        if version == u32::MAX {
            continue;
        }
        controller.lines = (version >> 16 & 0xff) + 1;
        for line in 0..controller.lines {
            controller.write(FIRST_ENTRY + 2 * line, ENTRY_MASKED);
        }
        LINES.fetch_max(description.first_line + controller.lines, Ordering::Relaxed);
        controllers.push(controller);
    }
    COUNT.store(controllers.len(), Ordering::Relaxed);
    overrides.extend(platform.overrides.iter().copied());
    if platform.has_legacy_pics {
        mask_legacy_pics();
    }
}

/// Masks all lines of both 8259 PICs, after it moves their vectors away from the exceptions.
fn mask_legacy_pics() {
    let send = |port: u16, value: u8| {
        // SAFETY: these are the 8259s' command and data ports; a masked PIC interrupts no CPU.
        unsafe { Port::new(port).write(value) };
    };
    for (command, data, vectors) in [(0x20, 0x21, 0xe0u8), (0xa0, 0xa1, 0xe8)] {
        send(command, 0x11);
        send(data, vectors);
        send(data, if command == 0x20 { 4 } else { 2 });
        send(data, 1);
        send(data, 0xff);
    }
}

/// Number of device lines.
pub fn line_count() -> u32 {
    LINES.load(Ordering::Relaxed)
}

/// Number of I/O APICs.
pub fn controller_count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// The line an ISA interrupt arrives on.
pub fn line_of_isa(isa: u8) -> u32 {
    // SAFETY: the cell is read-only after `init`, so shared references are sound.
    let (_, overrides) = unsafe { &*CONTROLLERS.0.get() };
    overrides.iter().find(|entry| entry.isa == isa).map_or(u32::from(isa), |entry| entry.line)
}

fn controller_of(line: u32) -> Result<(&'static Controller, u32), LineError> {
    // SAFETY: the cell is read-only after `init`, so shared references are sound.
    let (controllers, _) = unsafe { &*CONTROLLERS.0.get() };
    let found = controllers
        .iter()
        .find(|controller| line.checked_sub(controller.first_line).is_some_and(|index| index < controller.lines));
    found.map(|controller| (controller, line - controller.first_line)).ok_or(LineError::NoSuchLine)
}

/// Routes a line to a CPU as an NMI (82093AA data sheet, 3.2.4: edge triggered, no vector).
pub fn route_non_maskable(line: u32, cpu: usize) -> Result<(), LineError> {
    let (controller, index) = controller_of(line)?;
    let apic_id = block::apic_id_of(cpu).filter(|&id| id <= LARGEST_ID).ok_or(LineError::NoSuchCpu)?;
    let register = FIRST_ENTRY + 2 * index;
    controller.write(register, ENTRY_MASKED);
    controller.write(register + 1, apic_id << 24);
    controller.write(register, ENTRY_NON_MASKABLE);
    Ok(())
}

/// The I/O APICs' lines.
pub struct Lines;

impl arch_contract::Lines for Lines {
    fn count() -> u32 {
        line_count()
    }

    fn route(line: u32, vector: u8, cpu: usize, trigger: LineTrigger) -> Result<(), LineError> {
        let (controller, index) = controller_of(line)?;
        let apic_id = block::apic_id_of(cpu).filter(|&id| id <= LARGEST_ID).ok_or(LineError::NoSuchCpu)?;
        // SAFETY: the cell is read-only after `init`, so shared references are sound.
        let (_, overrides) = unsafe { &*CONTROLLERS.0.get() };
        let special = overrides.iter().find(|entry| entry.line == line);
        let (active_low, level) = match special {
            Some(entry) => (entry.active_low, entry.level),
            None => (line >= ISA_LINES, line >= ISA_LINES),
        };
        let level = match trigger {
            LineTrigger::Default => level,
            LineTrigger::Edge => false,
            LineTrigger::Level => true,
        };
        let low =
            u32::from(vector) | if active_low { ENTRY_ACTIVE_LOW } else { 0 } | if level { ENTRY_LEVEL } else { 0 };
        let register = FIRST_ENTRY + 2 * index;
        // Mask the line while its entry is half written.
        controller.write(register, ENTRY_MASKED);
        controller.write(register + 1, apic_id << 24);
        controller.write(register, low);
        Ok(())
    }

    fn mask(line: u32) -> Result<(), LineError> {
        let (controller, index) = controller_of(line)?;
        controller.write(FIRST_ENTRY + 2 * index, ENTRY_MASKED);
        Ok(())
    }
}
