//! Failures of programs: the program is reported and ends, the kernel goes on.

use core::fmt;
use core::sync::atomic::Ordering;

use arch_contract::fault::{Fault, FaultKind, Registers};
use arrayvec::ArrayString;

use super::{Outcome, Program, REASON_LIMIT, caller, current};
use crate::arch::*;
use crate::backtrace;
use crate::cpu;
use crate::scheduler;
use crate::thread;

/// Reports the calling thread's program and ends it as failed; does not return. Returns `None` if
/// the thread belongs to no program.
///
/// # Panics
/// In an interrupt handler.
pub fn fail_current(reason: fmt::Arguments<'_>) -> Option<core::convert::Infallible> {
    // The current thread is the one that was interrupted, possibly halfway through kernel code, so
    // it must not be ended.
    assert!(!cpu::in_interrupt(), "a program's interrupt handler failed: {reason}");
    // SAFETY: the reference is not kept, and the calling thread, which ends below, keeps the
    // program until then.
    let program = unsafe { current() }?;
    let registers = Contexts::registers_here();
    report(program, reason, &registers);
    scheduler::exit()
}

/// Reports the program whose handler runs and ends it as failed. The handler goes on.
pub fn fail_handler(reason: fmt::Arguments<'_>) {
    // SAFETY: the reference is not kept beyond this call, and the handler or thread keeps the
    // program until then.
    if let Some(program) = unsafe { caller() }
        && !program.is_ending()
    {
        report(program, reason, &Contexts::registers_here());
    }
}

/// Handles a fault that may be a program's own: reports and ends the program, and does not return.
/// Returns if the fault is not a program's. Called on the fault's stack with interrupts off.
pub(crate) fn contain(fault: &Fault, text: fmt::Arguments<'_>) {
    // SAFETY: the reference is not kept beyond this call, and the faulting thread keeps the program
    // until then.
    let Some(program) = (unsafe { current() }) else { return };
    let is_the_machines = matches!(fault.kind, FaultKind::NonMaskable | FaultKind::Machine);
    // With interrupts off or in a handler, the kernel may hold locks or be halfway through a
    // change.
    let in_middle = !fault.registers.interrupts_enabled() || cpu::this().in_interrupt.load(Ordering::Relaxed);
    if is_the_machines || in_middle {
        return;
    }
    match (fault.kind, program.instruction_set()) {
        (FaultKind::InvalidInstruction, Some(wanted)) => {
            let here = Core::instruction_set();
            report(program, format_args!("{text}; it was built for {wanted}, this CPU has {here}"), &fault.registers);
        }
        _ => report(program, text, &fault.registers),
    }
    Traps::fault_contained();
    scheduler::exit()
}

fn report(program: &Program, reason: fmt::Arguments<'_>, registers: &Registers) {
    let thread = thread::running();
    let mut kept = ArrayString::<REASON_LIMIT>::new();
    // Text beyond the limit is cut off.
    let _ = fmt::write(&mut Cut(&mut kept), reason);
    let cpu = cpu::this_index();
    crate::println!(
        "program {} ({}): {reason}\nin thread {} \"{}\" on CPU {cpu}, image at {:#x}; backtrace:",
        program.name,
        program.id,
        thread.id(),
        thread.name(),
        program.image_start()
    );
    backtrace::print(registers);
    program.end(Outcome::Failed(kept));
}

/// A writer that takes as much text as there is room for, with newlines replaced by spaces.
struct Cut<'a>(&'a mut ArrayString<REASON_LIMIT>);

impl fmt::Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let shown = if character == '\n' { ' ' } else { character };
            self.0.try_push(shown).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}
