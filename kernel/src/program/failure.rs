//! What a program does wrong: it is reported and ends, the kernel goes on.

use core::fmt;
use core::sync::atomic::Ordering;

use arch_contract::fault::{Fault, FaultKind, Registers};
use arrayvec::ArrayString;

use super::{Outcome, Program, REASON_LIMIT, caller, current};
use crate::arch::{Architecture, Machine};
use crate::backtrace;
use crate::cpu;
use crate::scheduler;
use crate::thread;

/// The interrupt flag in [`Fault`]'s flags.
const INTERRUPTS_ON: u64 = 1 << 9;
/// Faults that are no single thread's: non-maskable interrupt, double fault, machine check.
const MACHINE_FAULTS: [u8; 3] = [2, 8, 18];

/// The vector of an instruction that the CPU does not have.
const INVALID_OPCODE: u8 = 6;

/// Ends the calling thread's program as failed, reports it, and does not return. `None`: it belongs to none.
pub fn fail_current(reason: fmt::Arguments<'_>) -> Option<core::convert::Infallible> {
    // The thread there is whichever was interrupted, and what it was doing is half done.
    assert!(!cpu::in_interrupt(), "a program's interrupt handler failed: {reason}");
    // SAFETY: the thread ends here.
    let program = unsafe { current() }?;
    let registers = Machine::registers_here();
    report(program, reason, &registers);
    scheduler::exit()
}

/// Ends the program whose handler runs as failed, and reports it. The handler goes on.
pub fn fail_handler(reason: fmt::Arguments<'_>) {
    // SAFETY: not kept beyond this.
    if let Some(program) = unsafe { caller() }
        && !program.is_ending()
    {
        report(program, reason, &Machine::registers_here());
    }
}

/// A fault: if it is a program's own, ends that and does not return. On the fault's stack, interrupts off.
pub(crate) fn contain(fault: &Fault, text: fmt::Arguments<'_>) {
    // SAFETY: not kept beyond this.
    let Some(program) = (unsafe { current() }) else { return };
    let is_the_threads = match fault.kind {
        FaultKind::Other { vector, .. } => !MACHINE_FAULTS.contains(&vector),
        FaultKind::Page { .. } | FaultKind::Breakpoint => true,
    };
    // With interrupts off, the kernel may have been in the middle of something.
    let in_middle = fault.registers.flags & INTERRUPTS_ON == 0 || cpu::this().in_interrupt.load(Ordering::Relaxed);
    if !is_the_threads || in_middle {
        return;
    }
    match (fault.kind, program.instruction_set()) {
        (FaultKind::Other { vector: INVALID_OPCODE, .. }, Some(wanted)) => {
            let here = Machine::instruction_set();
            report(program, format_args!("{text}; it was built for {wanted}, this CPU has {here}"), &fault.registers);
        }
        _ => report(program, text, &fault.registers),
    }
    Machine::fault_contained();
    scheduler::exit()
}

fn report(program: &Program, reason: fmt::Arguments<'_>, registers: &Registers) {
    let thread = thread::running();
    let mut kept = ArrayString::<REASON_LIMIT>::new();
    // What does not fit is cut.
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

/// Takes as much text as there is room for.
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
