//! How the system calls of code in the HRT are made.

use crate::replay;
use crate::system_call;
use crate::vcpu::Vcpu;

/// What a context does after a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It goes on, with the registers as they are.
    On,
    /// It leaves its code for good; the thread is done with the HRT.
    Leave,
}

/// Makes system calls for code in the HRT, on the partner thread.
pub trait Serve {
    /// Makes the system call that the CPU asks for: its number is in RAX, its arguments are in RDI,
    /// RSI, RDX, R10, R8 and R9. The result goes to RAX; the registers are used as they are then.
    fn system_call(&mut self, cpu: &mut Vcpu) -> Flow;

    /// Executes the instruction at which the CPU stands as this thread would, because Linux refuses
    /// an access of it in the HRT. Returns false if that cannot be.
    fn execute(&mut self, cpu: &mut Vcpu) -> bool;

    /// Called each time before the CPU enters the HRT.
    #[inline]
    fn before_entry(&mut self, _cpu: &mut Vcpu) {}

    /// Called when a signal has made the CPU leave the HRT.
    #[inline]
    fn interrupted(&mut self, _cpu: &mut Vcpu) {}

    /// Whether the code is a function, which has to return within the HRT's limit.
    fn is_function(&self) -> bool;
}

/// Forwards the calls of a function of this process.
pub struct Forward;

impl Serve for Forward {
    fn system_call(&mut self, cpu: &mut Vcpu) -> Flow {
        let registers = cpu.registers();
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        // SAFETY: the code in the HRT is code of this process, which makes the call as it would
        // here; what the call's effects would be lost on is refused.
        registers.rax = unsafe { system_call::forward(registers.rax, arguments) };
        Flow::On
    }

    fn execute(&mut self, cpu: &mut Vcpu) -> bool {
        replay::instruction(cpu)
    }

    fn is_function(&self) -> bool {
        true
    }
}
