//! [`Stop`]: a debugger's interface to the stopped machine.

use core::sync::atomic::Ordering;

use arch_contract::MAX_CPUS;
use arch_contract::debug::{HARDWARE_BREAKPOINTS, HardwareBreakpoint, SystemRegisters};
use arch_contract::fault::Registers;

use super::{Order, Reason, SLOTS, attend, breakpoints, debugger, look, stopped_thread};
use crate::arch::*;

/// A stop of all CPUs, as the debugger works with it. It is the right to change the machine's state
/// as a whole, its memory too: the kernel lends one to the debugger that [`super::install`] was
/// called for, and to the prompt for stopped CPUs, for the time of a stop.
pub struct Stop {
    /// Reason of the stop.
    pub reason: Reason,
    /// CPU on which the reason occurred. It runs the debugger.
    pub host: usize,
    /// False if a CPU does not answer.
    pub all_stopped: bool,
    pub(super) orders: [Order; MAX_CPUS],
    /// If set, the orders of the previous stop still hold and those of this one are ignored.
    pub goes_on_as_before: bool,
}

impl Stop {
    /// Returns a CPU's registers.
    pub fn registers(&mut self, cpu: usize) -> &mut Registers {
        // SAFETY: the CPU is stopped, and `&mut self` makes this the host's only reference to its
        // registers.
        unsafe { &mut *SLOTS[cpu].registers.get() }
    }

    /// Returns a CPU's registers beyond those of [`Stop::registers`].
    pub fn system(&self, cpu: usize) -> &SystemRegisters {
        // SAFETY: the CPU is stopped and wrote the cell before; the host only reads it.
        unsafe { &*SLOTS[cpu].system.get() }
    }

    /// Returns a CPU's floating-point and vector state, laid out as
    /// [`Vectors::layout`](arch_contract::Vectors::layout) says.
    pub fn vectors(&mut self, cpu: usize) -> &mut [u8] {
        let area = SLOTS[cpu].vectors.load(Ordering::Relaxed);
        // SAFETY: the CPU is stopped, `&mut self` makes this the host's only reference, and the
        // area was allocated with that size before anything could stop.
        unsafe { core::slice::from_raw_parts_mut(area, Vectors::layout().size) }
    }

    /// Returns whether the CPU is stopped: it exists and has answered.
    pub fn is_stopped(&self, cpu: usize) -> bool {
        cpu == self.host || SLOTS[cpu].rendezvous.is_stopped()
    }

    /// Sets what a CPU does when the debugger is done.
    pub fn order(&mut self, cpu: usize, order: Order) {
        self.orders[cpu] = order;
    }

    /// Returns the hardware breakpoints, which are common to all CPUs.
    pub fn hardware_breakpoints(&mut self) -> &mut [Option<HardwareBreakpoint>; HARDWARE_BREAKPOINTS] {
        // SAFETY: this is the host, all other CPUs are stopped, and `&mut self` makes the reference
        // the only one.
        unsafe { breakpoints::hardware() }
    }

    /// Plants a breakpoint in the code. Returns false if nothing is mapped there, or there are too
    /// many breakpoints.
    pub fn plant(&mut self, address: usize) -> bool {
        breakpoints::plant(address)
    }

    /// Returns whether a breakpoint of the debugger is planted at `address`.
    pub fn has_planted(&self, address: usize) -> bool {
        breakpoints::is_planted(address)
    }

    /// Returns the number and name of the thread that runs on a CPU.
    pub fn running(&self, cpu: usize) -> (u64, &str) {
        stopped_thread(cpu).map_or((0, ""), |thread| (thread.id(), thread.name()))
    }

    /// Returns whether a CPU is on the stack of the thread that runs on it, or of that thread's
    /// fiber. It is not while it executes the last instructions of the thread before it, because
    /// the scheduler records the next one before it changes stacks.
    pub fn is_on_own_stack(&mut self, cpu: usize) -> bool {
        let pointer = self.registers(cpu).stack_pointer;
        stopped_thread(cpu).is_some_and(|thread| {
            let stacks = [Some(thread.stack()), thread.fibers().running_stack()];
            // The top counts too, because the stack pointer is there while the stack is empty.
            stacks.into_iter().flatten().any(|stack| (stack.bottom()..=stack.top()).contains(&pointer))
        })
    }

    /// Returns whether the machine has crashed, after which it cannot continue.
    pub fn has_crashed(&self) -> bool {
        crate::crash::state::has_crashed()
    }

    /// Lets the debugger work on the stop, if there is one and it has sent input. Returns false
    /// otherwise.
    pub fn attend_debugger(&mut self) -> bool {
        // `look` has left `attend` before the call below enters it: nested, the inner one would
        // wait for ever for the outer one.
        let Some(debugger) = debugger().filter(|debugger| look(*debugger)) else { return false };
        attend(|| debugger.stopped(self));
        true
    }

    /// Removes a planted breakpoint from the code. Returns false if there is none.
    pub fn remove(&mut self, address: usize) -> bool {
        breakpoints::remove(address)
    }

    /// Removes all breakpoints.
    pub fn remove_all(&mut self) {
        breakpoints::remove_planted();
        *self.hardware_breakpoints() = [None; HARDWARE_BREAKPOINTS];
    }

    /// Reads memory, with the debugger's breakpoints replaced by the original code. Returns the
    /// number of bytes that could be read.
    pub fn read(&self, address: usize, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done);
            // Up to the page's end: a page is readable as a whole or not at all.
            let length = (arch_contract::PAGE_SIZE - at % arch_contract::PAGE_SIZE).min(bytes.len() - done);
            // A read of a device's register can change the device's state.
            if AddressSpace::is_device_memory(at)
                || AddressSpace::probe_read(at, &mut bytes[done..done + length]).is_err()
            {
                break;
            }
            done += length;
        }
        breakpoints::hide(address, &mut bytes[..done]);
        done
    }

    /// Writes memory, even if it is read-only. Returns false if that is not possible.
    pub fn write(&mut self, address: usize, bytes: &[u8]) -> bool {
        // SAFETY: the stop is lent to a debugger only, whose person answers for the write, and all
        // CPUs that answer are stopped.
        !AddressSpace::is_device_memory(address) && unsafe { AddressSpace::write_protected(address, bytes) }.is_ok()
    }
}
