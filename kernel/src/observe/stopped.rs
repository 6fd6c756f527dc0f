//! The threads of a stopped machine: listing them, finding one by its number, and their registers.

use arch_contract::fault::Registers;

use crate::arch::*;
use crate::cpu::{self, Cpu};
use crate::debug;
use crate::hybrid;
use crate::thread;

/// Calls `each` with every thread of a stopped machine and its CPU.
pub fn for_each_thread(mut each: impl FnMut(&thread::Thread, usize)) {
    for cpu in cpu::all_known() {
        cpu.registry.lock().iter().for_each(|thread| each(thread, cpu.index));
    }
}

/// Calls `work` with a thread of a stopped machine and its CPU. Returns `None` if there is no such
/// thread.
pub fn with_thread<T>(id: u64, work: impl FnOnce(&thread::Thread, usize) -> T) -> Option<T> {
    let mut work = Some(work);
    cpu::all_known().find_map(|cpu| {
        let registry = cpu.registry.lock();
        let thread = registry.iter().find(|thread| thread.id() == id)?;
        work.take().map(|work| work(thread, cpu.index))
    })
}

/// Returns the registers with which a thread of a stopped machine stopped or will resume; `None` if
/// there is no such thread.
pub fn registers_of(id: u64) -> Option<Registers> {
    let of = |cpu: &Cpu| {
        if debug::stopped_thread(cpu.index).is_some_and(|running| running.id() == id) {
            return debug::stopped_registers(cpu.index).copied();
        }
        None
    };
    let served = || hybrid::served(id).map(|served| served.registers);
    cpu::all_known().find_map(of).or_else(served).or_else(|| with_thread(id, |thread, _| suspended_registers(thread)))
}

/// Returns the registers with which a suspended thread of a stopped machine will resume.
pub fn suspended_registers(thread: &thread::Thread) -> Registers {
    // SAFETY: nothing changes a context on a stopped machine. The context of a running thread holds
    // outdated values, and no address in it is followed.
    Contexts::suspended_at(unsafe { &*thread.context.get() })
}
