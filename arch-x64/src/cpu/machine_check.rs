//! Machine checks: hardware errors that the CPU reports by an exception once that is enabled (SDM
//! Vol. 3B, chapter 16).
//!
//! Without CR4.MCE a machine check shuts the CPU down without any report.

use core::fmt;

use raw_cpuid::CpuId;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

/// Global capabilities: the number of banks, and whether a global control register exists
/// (16.3.1.1).
const CAPABILITIES: u32 = 0x179;
const BANK_COUNT: u64 = 0xff;
const HAS_CONTROL: u64 = 1 << 8;
/// Global status: the state of the interrupted code; a further machine check while the "in
/// progress" bit is set shuts the CPU down (16.3.1.2).
const STATUS: u32 = 0x17a;
/// Global control (16.3.1.3).
const CONTROL: u32 = 0x17b;
/// Control register of the first bank; each bank has four registers in a row: control, status,
/// address and miscellaneous information (16.3.2).
const BANKS: u32 = 0x400;
const BANK_REGISTERS: u32 = 4;
const BANK_STATUS: u32 = 1;
const BANK_ADDRESS: u32 = 2;
const BANK_MISC: u32 = 3;
/// Bits of a bank's status: an error is logged; its miscellaneous information and address are valid
/// (16.3.2.2).
const VALID: u64 = 1 << 63;
const MISC_VALID: u64 = 1 << 59;
const ADDRESS_VALID: u64 = 1 << 58;
/// Enables all kinds of errors.
const EVERYTHING: u64 = u64::MAX;

/// Returns whether this CPU has the exception, and whether it has banks that describe the error.
fn features() -> (bool, bool) {
    CpuId::new().get_feature_info().map_or((false, false), |features| (features.has_mce(), features.has_mca()))
}

fn read(register: u32) -> u64 {
    // SAFETY: callers know from CPUID and the capabilities that the register exists.
    unsafe { Msr::new(register).read() }
}

fn write(register: u32, value: u64) {
    let mut register = Msr::new(register);
    // SAFETY: callers know that the register exists; the values written are those the manual gives
    // for initialisation and after a report.
    unsafe { register.write(value) };
}

fn banks() -> impl Iterator<Item = (u32, u32)> {
    let count = (read(CAPABILITIES) & BANK_COUNT) as u32;
    (0..count).map(|bank| (bank, BANKS + bank * BANK_REGISTERS))
}

/// Enables machine checks on this CPU. Called once per CPU, after traps have handlers (16.9 gives
/// the order).
pub fn enable() {
    let (has_exception, has_banks) = features();
    if has_banks {
        if read(CAPABILITIES) & HAS_CONTROL != 0 {
            write(CONTROL, EVERYTHING);
        }
        for (bank, first) in banks() {
            // On some CPUs bank 0's control belongs to the firmware, which has set it.
            if bank != 0 {
                write(first, EVERYTHING);
            }
            write(first + BANK_STATUS, 0);
        }
    }
    if has_exception {
        // SAFETY: the exception's handler is installed and has a stack of its own.
        unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION)) };
    }
}

/// Writes what this CPU's banks logged about a machine check just taken, a line per error, and
/// clears the global status so that the next one is reported too.
pub fn describe(write_to: &mut dyn fmt::Write) -> fmt::Result {
    if !features().1 {
        return Ok(());
    }
    write!(write_to, "\n  global status {:#x}", read(STATUS))?;
    for (bank, first) in banks() {
        let status = read(first + BANK_STATUS);
        if status & VALID == 0 {
            continue;
        }
        write!(write_to, "\n  bank {bank}: status {status:#018x}")?;
        if status & ADDRESS_VALID != 0 {
            write!(write_to, ", address {:#x}", read(first + BANK_ADDRESS))?;
        }
        if status & MISC_VALID != 0 {
            write!(write_to, ", misc {:#x}", read(first + BANK_MISC))?;
        }
    }
    write(STATUS, 0);
    Ok(())
}
