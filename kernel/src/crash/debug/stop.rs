//! [`Stop`]: what a debugger can do while all CPUs are stopped.

use core::sync::atomic::Ordering;

use arch_contract::MAX_CPUS;
use arch_contract::debug::{Debugging, HARDWARE_BREAKPOINTS, HardwareBreakpoint, SystemRegisters};
use arch_contract::fault::Registers;

use super::{Order, Reason, SLOTS, attend, breakpoints, debugger, look, stopped_thread};
use crate::arch::{Architecture, Machine};

/// All CPUs are stopped; the debugger works with this.
pub struct Stop {
    /// Why.
    pub reason: Reason,
    /// The CPU it happened on.
    pub host: usize,
    /// False if a CPU does not answer.
    pub all_stopped: bool,
    pub(super) orders: [Order; MAX_CPUS],
    /// The orders of the last stop still hold, those of this one do not.
    pub goes_on_as_before: bool,
}

impl Stop {
    /// A CPU's registers.
    pub fn registers(&mut self, cpu: usize) -> &mut Registers {
        // SAFETY: it is stopped, and this is the host's only reference.
        unsafe { &mut *SLOTS[cpu].registers.get() }
    }

    /// A CPU's further registers.
    pub fn system(&self, cpu: usize) -> &SystemRegisters {
        // SAFETY: as above.
        unsafe { &*SLOTS[cpu].system.get() }
    }

    /// A CPU's floating-point and vector state, as [`Debugging::vector_layout`] says.
    pub fn vectors(&mut self, cpu: usize) -> &mut [u8] {
        let area = SLOTS[cpu].vectors.load(Ordering::Relaxed);
        // SAFETY: as above; the area, allocated before anything stops, has that size.
        unsafe { core::slice::from_raw_parts_mut(area, Machine::vector_layout().size) }
    }

    /// True if the CPU is stopped: it is there, and has answered.
    pub fn is_stopped(&self, cpu: usize) -> bool {
        cpu == self.host || SLOTS[cpu].rendezvous.is_stopped()
    }

    /// Tells a CPU what to do when the debugger is done.
    pub fn order(&mut self, cpu: usize, order: Order) {
        self.orders[cpu] = order;
    }

    /// The hardware breakpoints of all CPUs.
    pub fn hardware_breakpoints(&mut self) -> &mut [Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS] {
        // SAFETY: this is the host, and all others are stopped.
        unsafe { breakpoints::hardware() }
    }

    /// Puts a breakpoint into the code; false if nothing is mapped there, or there are too many.
    pub fn plant(&mut self, address: usize) -> bool {
        breakpoints::plant(address)
    }

    /// True if there is one of the debugger's breakpoints.
    pub fn has_planted(&self, address: usize) -> bool {
        breakpoints::is_planted(address)
    }

    /// Number and name of the thread that runs on a CPU.
    pub fn running(&self, cpu: usize) -> (u64, &str) {
        stopped_thread(cpu).map_or((0, ""), |thread| (thread.id(), thread.name()))
    }

    /// True if a CPU uses the stack of the thread that runs on it, or of a fiber of that: not on the last instructions of the thread
    /// before it.
    pub fn is_on_own_stack(&mut self, cpu: usize) -> bool {
        let pointer = self.registers(cpu).stack_pointer;
        stopped_thread(cpu).is_some_and(|thread| {
            let stacks = [Some(thread.stack()), thread.fibers().running_stack()];
            stacks.into_iter().flatten().any(|stack| (stack.bottom()..=stack.top()).contains(&pointer))
        })
    }

    /// True if the machine has crashed: it cannot go on.
    pub fn has_crashed(&self) -> bool {
        crate::crash::state::has_crashed()
    }

    /// Lets a debugger work on the stop, if there is one and something has come from it; false if not.
    pub fn attend_debugger(&mut self) -> bool {
        let Some(debugger) = debugger().filter(|debugger| look(*debugger)) else { return false };
        attend(|| debugger.stopped(self));
        true
    }

    /// Takes a breakpoint out of the code again; false if there is none.
    pub fn remove(&mut self, address: usize) -> bool {
        breakpoints::remove(address)
    }

    /// Takes all breakpoints away.
    pub fn remove_all(&mut self) {
        breakpoints::remove_planted();
        *self.hardware_breakpoints() = [None; HARDWARE_BREAKPOINTS];
    }

    /// Reads memory, without the debugger's breakpoints in it; returns how many bytes could be read.
    pub fn read(&self, address: usize, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done);
            // Up to the next page: what can be read in one can be read whole.
            let length = (arch_contract::PAGE_SIZE - at % arch_contract::PAGE_SIZE).min(bytes.len() - done);
            if Machine::is_device_memory(at) || Machine::probe_read(at, &mut bytes[done..done + length]).is_err() {
                break;
            }
            done += length;
        }
        breakpoints::hide(address, &mut bytes[..done]);
        done
    }

    /// Writes memory, also where that is read-only; false if it cannot be.
    pub fn write(&mut self, address: usize, bytes: &[u8]) -> bool {
        !Machine::is_device_memory(address) && Machine::write_protected(address, bytes).is_ok()
    }
}
