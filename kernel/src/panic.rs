//! How the kernel ends: panics and fatal exceptions. All CPUs stop; a report with registers and backtraces follows.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::PowerAction;
use arch_contract::fault::{Access, Fault, FaultKind, Registers};
use wire::console::{CANCEL, CRASH_STATUS, REPORT_END, REPORT_START};

use crate::arch::{Architecture, Machine};
use crate::backtrace;
use crate::command_line::AfterCrash;
use crate::cpu;
use crate::crash_file;
use crate::debug;
use crate::frozen;
use crate::memory::stack::Stack;
use crate::output;
use crate::program;
use crate::thread::{self, Thread};
use crate::time::spin_until;

/// Vector of the non-maskable interrupt.
const NON_MASKABLE: u8 = 2;
/// How long the other CPUs may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);

const NO_CPU: usize = usize::MAX;
static CRASHED_CPU: AtomicUsize = AtomicUsize::new(NO_CPU);
static NESTED: AtomicBool = AtomicBool::new(false);
static AFTER: AtomicU8 = AtomicU8::new(AfterCrash::Halt as u8);

/// Sets what happens after a crash.
pub(crate) fn set_after_crash(after: AfterCrash) {
    AFTER.store(after as u8, Ordering::Relaxed);
}

/// True if somebody may be at the console after a crash.
pub(crate) fn halts_after_crash() -> bool {
    AFTER.load(Ordering::Relaxed) == AfterCrash::Halt as u8
}

/// A Rust panic: the image's panic handler calls this.
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    frozen::end_by_panic(format_args!("{}", PanicText(info)));
    debug::before_crash();
    let registers = Machine::registers_here();
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

/// A trap nobody expected: the arch crate's callback.
pub(crate) fn fault(fault: &Fault) -> ! {
    if CRASHED_CPU.load(Ordering::Relaxed) == NO_CPU {
        program::contain(fault, format_args!("{}", FaultText(fault)));
    }
    crash(format_args!("{}", FaultText(fault)), &fault.registers, Some(fault))
}

/// A fault, as a report begins.
pub(crate) struct FaultText<'a>(pub &'a Fault);

impl fmt::Display for FaultText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.0;
        match fault.kind {
            FaultKind::Page { address, access } => {
                if let Some((thread, stack)) = guard_owner(address) {
                    let fiber = if stack == thread.stack() { "" } else { "a fiber of " };
                    return write!(
                        f,
                        "stack overflow in {fiber}thread {} \"{}\": its stack of {} bytes is full (access to {address:#x})",
                        thread.id(),
                        thread.name(),
                        stack.size()
                    );
                }
                let access = match access {
                    Access::Read => "read from",
                    Access::Write => "write to",
                    Access::Execute => "execution of",
                };
                write!(f, "{}: {access} {address:#x}, where nothing allows it", fault.name)?;
                if address < arch_contract::PAGE_SIZE { write!(f, " (a null pointer?)") } else { Ok(()) }
            }
            FaultKind::Breakpoint => write!(f, "breakpoint, and no debugger"),
            FaultKind::Other { vector: NON_MASKABLE, .. } => {
                f.write_str("non-maskable interrupt: somebody outside asks where the kernel is, or hardware has failed")
            }
            FaultKind::Other { vector, code } => {
                write!(f, "{} (vector {vector}, code {code:#x})", fault.name)?;
                Machine::fault_details(vector, f)
            }
        }
    }
}

/// The running thread and the stack, its own or a fiber's, in whose guard an address lies.
fn guard_owner(address: usize) -> Option<(&'static Thread, Stack)> {
    let thread = thread::try_running()?;
    let stacks = [Some(thread.stack()), thread.fibers().running_stack()];
    let stack = stacks.into_iter().flatten().find(|stack| stack.guard().contains(&address))?;
    Some((thread, stack))
}

/// Another CPU crashed and stopped this one: the arch crate's callback.
pub(crate) fn stopped(registers: &Registers) -> ! {
    debug::stop_for_good(registers)
}

/// True once a crash is being reported.
pub(crate) fn has_crashed() -> bool {
    CRASHED_CPU.load(Ordering::Relaxed) != NO_CPU
}

fn crash(what: fmt::Arguments<'_>, registers: &Registers, fault: Option<&Fault>) -> ! {
    Machine::disable_interrupts();
    // Before CPUs have data, there is only the boot CPU.
    let here = if Machine::local() == 0 { 0 } else { cpu::this().index };
    match CRASHED_CPU.compare_exchange(NO_CPU, here, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(first) if first != here => stopped(registers),
        Err(_) => {
            if !NESTED.swap(true, Ordering::SeqCst) {
                output::print(format_args!("\n{what}\n  while reporting the crash; giving up\n{REPORT_END}\n"));
                examine(registers, fault);
            }
            end()
        }
    }
    Machine::stop_other_cpus();
    output::enter_crash();
    let others = || cpu::all().filter(|cpu| cpu.index != here);
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
    crate::println!("backtrace, image at {:#x}:", crate::start::boot_information().image.start);
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
    debug::with_crashed(registers, || crash_file::export(what));
    examine(registers, fault);
    end()
}

/// Lets a person look at what is left, if there may be one.
fn examine(registers: &Registers, fault: Option<&Fault>) {
    if halts_after_crash() {
        let is_access = fault.is_some_and(|fault| matches!(fault.kind, FaultKind::Page { .. }));
        debug::after_crash(registers, is_access);
    }
}

fn end() -> ! {
    match AFTER.load(Ordering::Relaxed) {
        after if after == AfterCrash::Exit as u8 => output::power(PowerAction::PowerOff, CRASH_STATUS),
        after if after == AfterCrash::Reboot as u8 => output::power(PowerAction::Reboot, CRASH_STATUS),
        _ => Machine::halt_forever(),
    }
}
