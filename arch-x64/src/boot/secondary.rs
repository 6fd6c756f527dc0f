//! The other CPUs' way to the kernel.

use arch_contract::StartCpuError;

use super::board::Board;
use super::landing::{self, Landing};
use super::start::prepare_this_cpu;
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
    B::send_cpu(hardware_id, &Landing::new(stack_top, cpu, local, start::<B>), wait)
}

/// The first Rust code of a secondary CPU, on its own stack.
extern "C" fn start<B: Board>(cpu: usize, local: usize) -> ! {
    prepare_this_cpu::<B>(cpu);
    apic::enable();
    block::claim(cpu, apic::id());
    block::set_local(local);
    B::enable_clock();
    block::mark_started();
    landing::enter_kernel(cpu)
}
