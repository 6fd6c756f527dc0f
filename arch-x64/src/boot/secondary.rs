//! The other CPUs' way from the trampoline to the kernel.

use arch_contract::StartCpuError;

use super::board::Board;
use super::start::prepare_this_cpu;
use super::{memory, trampoline};
use crate::cpu::{apic, block};

/// Starts a CPU; see [`arch_contract::Platform::start_cpu`].
///
/// # Errors
/// See [`StartCpuError`].
pub fn start_cpu<B: Board>(
    cpu: usize,
    hardware_id: u32,
    stack_top: usize,
    local: usize,
    wait: &mut dyn FnMut() -> bool,
) -> Result<(), StartCpuError> {
    let page = trampoline::prepare(memory::start_up_tables(), stack_top, cpu, local, start::<B>)
        .ok_or(StartCpuError::NoTrampoline)?;
    trampoline::start(hardware_id, page, wait)
}

/// The first Rust code of a secondary CPU, on its own stack.
extern "C" fn start<B: Board>(cpu: usize, local: usize) -> ! {
    prepare_this_cpu::<B>(cpu);
    apic::enable();
    block::claim(cpu, apic::id());
    block::set_local(local);
    B::enable_clock();
    block::mark_started();
    trampoline::enter_kernel(cpu)
}
