//! The contract's [`Core`](arch_contract::Core), and where CPU models differ in their instructions.

use core::arch::asm;
use core::fmt;
use core::marker::PhantomData;

use super::{block, identity, interrupts, system_call, thread_pointer};

/// Instructions in which the models of this CPU differ.
pub trait Model: 'static {
    /// See [`arch_contract::Core::spin_hint`].
    fn spin_hint();
    /// See [`arch_contract::Core::cycles_in_order`].
    fn cycles_in_order() -> u64;
    /// See [`arch_contract::Core::set_thread_pointer`].
    fn set_thread_pointer(address: usize);
}

/// A CPU with SSE2, whose instructions are all there.
pub struct WithSse2;

impl Model for WithSse2 {
    #[inline(always)]
    fn spin_hint() {
        core::hint::spin_loop();
    }

    #[inline(always)]
    fn cycles_in_order() -> u64 {
        cycles_in_order()
    }

    #[inline(always)]
    fn set_thread_pointer(address: usize) {
        thread_pointer::set(address);
    }
}

/// A CPU of some model.
pub struct Core<M>(PhantomData<M>);

impl<M: Model> arch_contract::Core for Core<M> {
    #[inline(always)]
    fn local() -> usize {
        block::local()
    }

    fn set_local(local: usize) {
        block::set_local(local);
    }

    #[inline(always)]
    fn current() -> usize {
        block::current()
    }

    #[inline(always)]
    fn set_current(thread: usize) {
        block::set_current(thread);
    }

    #[inline(always)]
    fn interrupts_enabled() -> bool {
        interrupts::are_enabled()
    }

    #[inline(always)]
    fn disable_interrupts() {
        interrupts::disable();
    }

    #[inline(always)]
    fn enable_interrupts() {
        interrupts::enable();
    }

    #[inline(always)]
    fn wait_for_interrupt() {
        interrupts::wait_for_interrupt();
    }

    #[inline(always)]
    fn spin_hint() {
        M::spin_hint();
    }

    fn halt_forever() -> ! {
        interrupts::halt_forever()
    }

    #[inline(always)]
    fn cycles() -> u64 {
        cycles()
    }

    #[inline(always)]
    fn cycles_in_order() -> u64 {
        M::cycles_in_order()
    }

    #[inline(always)]
    fn set_thread_pointer(address: usize) {
        M::set_thread_pointer(address);
    }

    #[inline(always)]
    fn system_call(number: usize) -> isize {
        system_call::execute(number)
    }

    fn execute_invalid_instruction() -> ! {
        identity::execute_invalid_instruction()
    }

    fn processor_name(write: &mut dyn fmt::Write) -> fmt::Result {
        identity::processor_name(write)
    }

    fn accelerator() -> &'static str {
        identity::accelerator()
    }

    fn instruction_set() -> &'static str {
        identity::instruction_set()
    }
}

/// Reads the time counter after all earlier instructions have executed and before any later one
/// begins (SDM Vol. 2, RDTSC). Always the same five instructions.
#[inline(always)]
pub fn cycles_in_order() -> u64 {
    let counter;
    // SAFETY: RDTSC and LFENCE only write two registers and order instructions; every CPU with SSE2
    // has LFENCE.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", "shl rdx, 32", "or rax, rdx", out("rax") counter, out("rdx") _, options(nostack));
    }
    counter
}

/// Reads the time counter. Always the same three instructions, so that the cost of a reading can be
/// subtracted.
#[inline(always)]
pub fn cycles() -> u64 {
    let counter;
    // SAFETY: the instructions write only the two declared registers.
    unsafe {
        asm!("rdtsc", "shl rdx, 32", "or rax, rdx", out("rax") counter, out("rdx") _, options(nomem, nostack));
    }
    counter
}
