//! The other CPUs' way to the kernel.

use arch_contract::StartCpuError;
use arch_contract::fault::{Fault, FaultKind};

use super::board::Board;
use super::landing::{self, Landing};
use super::start::prepare_this_cpu;
use crate::cpu::{Contexts, apic, block, interrupts, trap};

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

/// The way of a CPU that the machine has reset, because it could not even enter the handler of a
/// double fault (triple fault; SDM Vol. 3A, 6.15), back into the kernel, which reports it. It comes
/// with its hardware id in place of its index.
pub fn landing_after_reset<B: Board>(stack_top: usize) -> Landing {
    Landing::new(stack_top, 0, 0, report_reset::<B>)
}

extern "C" fn report_reset<B: Board>(hardware_id: usize, _: usize) -> ! {
    let id = hardware_id as u32;
    let (Some(index), Some(callbacks)) = (block::index_of(id), trap::callbacks()) else { interrupts::halt_forever() };
    prepare_this_cpu::<B>(index);
    apic::enable();
    block::claim(index, id);
    (callbacks.fault)(&Fault {
        kind: FaultKind::Machine,
        name: "triple fault, which lost the registers",
        vector: DOUBLE_FAULT,
        code: 0,
        registers: <Contexts as arch_contract::Contexts>::registers_here(),
    })
}

/// Vector of a double fault (SDM Vol. 3A, table 6-1).
const DOUBLE_FAULT: u8 = 8;
