//! The first line of a fault report.

use core::fmt;

use arch_contract::fault::{Access, Fault, FaultKind};

use crate::arch::*;
use crate::hybrid;
use crate::memory::stack::Stack;
use crate::thread::{self, Thread};

/// Displays a fault as the first line of its report.
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
                write!(f, "{}: {access} {address:#x}, which is not mapped or does not allow it", fault.name)?;
                if address < arch_contract::PAGE_SIZE { write!(f, " (a null pointer?)") } else { Ok(()) }
            }
            FaultKind::Breakpoint => write!(f, "breakpoint, and no debugger"),
            FaultKind::NonMaskable => {
                f.write_str("non-maskable interrupt: sent from outside, or a sign that hardware has failed")
            }
            FaultKind::InvalidInstruction | FaultKind::Other | FaultKind::Machine => {
                if let Some(explained) = hybrid::explain(fault) {
                    return f.write_str(explained);
                }
                write!(f, "{} (vector {}, code {:#x})", fault.name, fault.vector, fault.code)?;
                Traps::describe(fault, f)
            }
        }
    }
}

/// Returns the running thread and the stack, its own or its fiber's, whose guard contains
/// `address`.
fn guard_owner(address: usize) -> Option<(&'static Thread, Stack)> {
    let thread = thread::try_running()?;
    let stacks = [Some(thread.stack()), thread.fibers().running_stack()];
    let stack = stacks.into_iter().flatten().find(|stack| stack.guard().contains(&address))?;
    Some((thread, stack))
}
