//! How the kernel ends: panics and fatal exceptions. All CPUs stop; a report with registers and backtraces follows.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::fault::{Access, Fault, FaultKind, Registers};
use arch_contract::{MAX_CPUS, PowerAction};

use crate::arch::{Architecture, Machine};
use crate::command_line::AfterCrash;
use crate::cpu;
use crate::debug;
use crate::memory::stack::Stack;
use crate::output;
use crate::program;
use crate::symbols;
use crate::thread::{self, Thread};
use crate::time::spin_until;

/// First line of a report; `aero` looks for it.
pub const REPORT_START: &str = "*** Aerokernel crash report ***";
/// Sent before the report, so that `aero` can tell it from a command's output: ASCII cancel.
const CANCEL: u8 = 0x18;
/// Last line of a report.
pub const REPORT_END: &str = "*** end of report ***";
/// Exit status of an emulated machine after a crash.
pub const CRASH_STATUS: u8 = 3;
/// Most frames of a backtrace.
const FRAME_LIMIT: usize = 32;
/// How long the other CPUs may take to stop.
const STOP_LIMIT: Duration = Duration::from_millis(200);

const NO_CPU: usize = usize::MAX;
static CRASHED_CPU: AtomicUsize = AtomicUsize::new(NO_CPU);
static NESTED: AtomicBool = AtomicBool::new(false);
static AFTER: AtomicU8 = AtomicU8::new(AfterCrash::Halt as u8);

/// Where each stopped CPU was: instruction and frame pointer.
static STOPPED: [(AtomicUsize, AtomicUsize); MAX_CPUS] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; MAX_CPUS];

/// Sets what happens after a crash.
pub(crate) fn set_after_crash(after: AfterCrash) {
    AFTER.store(after as u8, Ordering::Relaxed);
}

/// A Rust panic: the image's panic handler calls this.
pub fn panicked(info: &PanicInfo<'_>) -> ! {
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

struct FaultText<'a>(&'a Fault);

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
            FaultKind::Other { vector, code } => write!(f, "{} (vector {vector}, code {code:#x})", fault.name),
        }
    }
}

/// The running thread and the stack, its own or a fiber's, in whose guard an address lies.
fn guard_owner(address: usize) -> Option<(&'static Thread, Stack)> {
    let thread = thread::try_current()?;
    let stacks = [Some(thread.stack()), thread.fibers().running_stack()];
    let stack = stacks.into_iter().flatten().find(|stack| stack.guard().contains(&address))?;
    Some((thread, stack))
}

/// Another CPU crashed and stopped this one: the arch crate's callback.
pub(crate) fn stopped(registers: &Registers) -> ! {
    let place = &STOPPED[cpu::this().index];
    place.1.store(registers.frame_pointer, Ordering::Relaxed);
    place.0.store(registers.instruction_pointer, Ordering::Release);
    Machine::halt_forever()
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
        Err(first) if first != here => Machine::halt_forever(),
        Err(_) => {
            if !NESTED.swap(true, Ordering::SeqCst) {
                output::print(format_args!("\n{what}\n  while reporting the crash; giving up\n{REPORT_END}\n"));
            }
            end()
        }
    }
    Machine::stop_other_cpus();
    output::enter_crash();
    let others = || cpu::all().filter(|cpu| cpu.index != here);
    let all_stopped = spin_until(STOP_LIMIT, || others().all(|cpu| STOPPED[cpu.index].0.load(Ordering::Acquire) != 0));
    output::write_bytes(&[CANCEL]);
    crate::println!("\n{REPORT_START}\n{what}");
    match thread::try_current() {
        Some(thread) => crate::println!("on CPU {here}, thread {} \"{}\"", thread.id(), thread.name()),
        None => crate::println!("on CPU {here}, before there were threads"),
    }
    if fault.is_some() {
        print_registers(registers);
    }
    crate::println!("backtrace, image at {:#x}:", crate::start::boot_information().image.start);
    print_backtrace(registers.instruction_pointer, registers.frame_pointer);
    for cpu in others() {
        let place = &STOPPED[cpu.index];
        match place.0.load(Ordering::Acquire) {
            0 => crate::println!("CPU {} did not stop", cpu.index),
            instruction_pointer => {
                crate::println!("CPU {} was at:", cpu.index);
                print_backtrace(instruction_pointer, place.1.load(Ordering::Relaxed));
            }
        }
    }
    if !all_stopped {
        crate::println!("not all CPUs stopped: what they did after the crash may not be in this report");
    }
    crate::println!("{REPORT_END}");
    end()
}

fn end() -> ! {
    match AFTER.load(Ordering::Relaxed) {
        after if after == AfterCrash::Exit as u8 => output::power(PowerAction::PowerOff, CRASH_STATUS),
        after if after == AfterCrash::Reboot as u8 => output::power(PowerAction::Reboot, CRASH_STATUS),
        _ => Machine::halt_forever(),
    }
}

fn print_registers(registers: &Registers) {
    for (names, values) in Registers::names().chunks(4).zip(registers.general.chunks(4)) {
        for (name, value) in names.iter().zip(values) {
            output::print(format_args!("  {name:>3} {value:016x}"));
        }
        output::print(format_args!("\n"));
    }
    crate::println!("  rip {:016x}  flags {:08x}", registers.instruction_pointer, registers.flags);
}

pub(crate) fn print_backtrace(instruction_pointer: usize, frame_pointer: usize) {
    let mut number = 0;
    let mut previous = 0;
    let mut repeated = 0;
    walk_stack(instruction_pointer, frame_pointer, |address| {
        number += 1;
        if address == previous {
            repeated += 1;
            return;
        }
        previous = address;
        let number = number - 1;
        crate::println!("  #{number} {}", symbols::resolve_frame(number, address));
    });
    if repeated > 0 {
        crate::println!("  ({repeated} frames that repeat the one before are left out)");
    }
}

/// Calls `each` with the instruction pointer and then the return addresses of a stack, innermost first, by its chain of
/// frame pointers. Reads by probes, so a broken chain only ends it.
pub fn walk_stack(instruction_pointer: usize, frame_pointer: usize, mut each: impl FnMut(usize)) {
    each(instruction_pointer);
    let mut frame = frame_pointer;
    for _ in 1..FRAME_LIMIT {
        let mut words = [0; 2 * size_of::<usize>()];
        if frame == 0 || !frame.is_multiple_of(size_of::<usize>()) || Machine::probe_read(frame, &mut words).is_err() {
            return;
        }
        let (next, return_address) = words.split_at(size_of::<usize>());
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, usize::from_ne_bytes);
        let (next, return_address) = (word(next), word(return_address));
        if return_address == 0 {
            return;
        }
        each(return_address);
        // Callers' frames are at higher addresses of the same stack.
        if next <= frame {
            return;
        }
        frame = next;
    }
}
