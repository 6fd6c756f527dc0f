//! Crashes: panics and fatal exceptions. All CPUs stop, and a report with registers and backtraces
//! follows.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use arch_contract::PowerAction;
use arch_contract::fault::{Fault, FaultKind, Registers};
use wire::console::{CANCEL, CRASH_STATUS, REPORT_END, REPORT_START};

use super::fault_text::FaultText;
use super::state;
use crate::arch::*;
use crate::backtrace;
use crate::command_line::AfterCrash;
use crate::cpu;
use crate::debug;
use crate::export;
use crate::hybrid;
use crate::output;
use crate::program;
use crate::sandbox;
use crate::thread;
use crate::time::spin_until;

/// Time the other CPUs have to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);

static NESTED: AtomicBool = AtomicBool::new(false);

/// Handles a Rust panic. The image's panic handler calls this.
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    sandbox::end_by_panic(format_args!("{}", PanicText(info)));
    debug::before_crash();
    let registers = Contexts::registers_here();
    crash(format_args!("{}", PanicText(info)), &registers, None)
}

struct PanicText<'a>(&'a PanicInfo<'a>);

impl fmt::Display for PanicText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panic: {}", self.0.message())?;
        match self.0.location() {
            Some(location) => write!(f, "\n  at {}:{}", location.file(), location.line()),
            None => Ok(()),
        }
    }
}

/// Handles a trap that has no other handler; the arch crate calls this. A program's fault ends only
/// the program; any other fault is a crash.
pub(crate) fn fault(fault: &Fault) -> ! {
    if !state::has_crashed() {
        program::contain(fault, format_args!("{}", FaultText(fault)));
    }
    crash(format_args!("{}", FaultText(fault)), &fault.registers, Some(fault))
}

/// Stops this CPU for good, because another one has crashed. The arch crate calls this.
pub(crate) fn stopped(registers: &Registers) -> ! {
    debug::stop_for_good(registers)
}

fn crash(what: fmt::Arguments<'_>, registers: &Registers, fault: Option<&Fault>) -> ! {
    Core::disable_interrupts();
    // Until CPUs have data, only the boot CPU runs.
    let here = if Core::local() == 0 { 0 } else { cpu::this().index };
    match state::begin(here) {
        Ok(()) => {}
        Err(first) if first != here => stopped(registers),
        Err(_) => {
            if !NESTED.swap(true, Ordering::SeqCst) {
                output::print(format_args!("\n{what}\n  while reporting the crash; giving up\n{REPORT_END}\n"));
                examine(registers, fault);
            }
            end()
        }
    }
    Ipi::stop_others();
    output::enter_crash();
    let others = || hybrid::running_cpus().filter(|cpu| cpu.index != here);
    let all_stopped = spin_until(STOP_LIMIT, || others().all(|cpu| debug::stopped_registers(cpu.index).is_some()));
    output::write_bytes(&[CANCEL]);
    crate::println!("\n{REPORT_START}\n{what}");
    match thread::try_running() {
        Some(thread) => crate::println!("on CPU {here}, thread {} \"{}\"", thread.id(), thread.name()),
        None => crate::println!("on CPU {here}, before there were threads"),
    }
    if fault.is_some() {
        output::print(format_args!("{registers}"));
    }
    crate::println!("backtrace, image at {:#x}:", crate::boot::information().image.start);
    backtrace::print(registers);
    for cpu in others() {
        match debug::stopped_registers(cpu.index) {
            None => crate::println!("CPU {} did not stop", cpu.index),
            Some(registers) => {
                crate::println!("CPU {} was at:", cpu.index);
                backtrace::print(registers);
            }
        }
    }
    if !all_stopped {
        crate::println!("not all CPUs stopped: what they did after the crash may not be in this report");
    }
    crate::println!("{REPORT_END}");
    debug::with_crashed(registers, || export::write(what));
    Platform::crashed();
    examine(registers, fault);
    end()
}

/// Lets a person examine the stopped machine, if one may be at the console.
fn examine(registers: &Registers, fault: Option<&Fault>) {
    if state::halts_after_crash() {
        let is_access = fault.is_some_and(|fault| matches!(fault.kind, FaultKind::Page { .. }));
        debug::after_crash(registers, is_access);
    }
}

fn end() -> ! {
    match state::after_crash() {
        AfterCrash::Exit => output::power(PowerAction::PowerOff, CRASH_STATUS),
        AfterCrash::Reboot => output::power(PowerAction::Reboot, CRASH_STATUS),
        AfterCrash::Halt => Core::halt_forever(),
    }
}
