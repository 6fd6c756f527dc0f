//! The threads of a stopped machine: all of them, one by its number, and where each is.

use arch_contract::fault::Registers;

use crate::arch::{Architecture, Machine};
use crate::cpu::{self, Cpu};
use crate::debug;
use crate::thread;

/// Calls `each` with all threads of a stopped machine and their CPUs.
pub fn for_each_thread(mut each: impl FnMut(&thread::Thread, usize)) {
    for cpu in cpu::all() {
        cpu.registry.lock().iter().for_each(|thread| each(thread, cpu.index));
    }
}

/// Calls `work` with a thread of a stopped machine and its CPU; `None` if there is no such thread.
pub fn with_thread<T>(id: u64, work: impl FnOnce(&thread::Thread, usize) -> T) -> Option<T> {
    let mut work = Some(work);
    cpu::all().find_map(|cpu| {
        let registry = cpu.registry.lock();
        let thread = registry.iter().find(|thread| thread.id() == id)?;
        work.take().map(|work| work(thread, cpu.index))
    })
}

/// Where a thread of a stopped machine is, or goes on; `None` if there is no such thread.
pub fn registers_of(id: u64) -> Option<Registers> {
    let of = |cpu: &Cpu| {
        if debug::stopped_thread(cpu.index).is_some_and(|running| running.id() == id) {
            return debug::stopped_registers(cpu.index).copied();
        }
        None
    };
    cpu::all().find_map(of).or_else(|| with_thread(id, |thread, _| suspended_registers(thread)))
}

/// Where a thread of a stopped machine that does not run goes on.
pub fn suspended_registers(thread: &thread::Thread) -> Registers {
    // SAFETY: on a stopped machine nothing changes it. Of a thread that runs it is what was once, and no address in it is followed.
    Machine::suspended_at(unsafe { &*thread.context.get() })
}
