//! Backtraces: the chain of frame pointers, continued across interrupts.
//!
//! A handler runs on a trap stack. Its chain leads to the frame of the interrupted function, but
//! where in that function the interrupt came is recorded only in what the trap left at the top of
//! its stack. So the walk reads that when the chain leaves a trap stack; this works from any
//! instruction of the handler. A thread that gives way has the trap frame on its own stack, with a
//! link in the chain. For the few instructions before that link exists and after it is gone, the
//! walk misses the interrupted function.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering;
use core::time::Duration;

use arch_contract::fault::{Registers, TrapFrame};

use crate::arch::*;
use crate::call;
use crate::cpu::{self, Cpu};
use crate::lock::SpinLock;
use crate::memory::stack::DEFAULT_SIZE;
use crate::sandbox;
use crate::stopped;
use crate::symbols;
use crate::thread;

/// Maximum number of frames in a backtrace.
pub const FRAME_LIMIT: usize = 32;
/// Time a CPU has to report the frames of one of its threads.
const ANSWER_LIMIT: Duration = Duration::from_millis(100);

/// A place in a backtrace. Displayed with its function's name and the offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Address of the next instruction.
    pub address: usize,
    /// How execution left this function.
    pub left_by: LeftBy,
}

/// How a function in a backtrace was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftBy {
    /// It was not left: it is the innermost.
    Nothing,
    /// By a trap, so the address is exact.
    Interrupt,
    /// By a call. The address is the return address, which can lie past the function's end.
    Call,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let back = usize::from(self.left_by == LeftBy::Call);
        let inside = symbols::resolve(self.address.wrapping_sub(back));
        let function = inside.function.map(|(name, offset)| (name, offset + back));
        symbols::Symbol { address: self.address, function, ..inside }.fmt(f)?;
        if self.left_by == LeftBy::Interrupt { f.write_str(", interrupted") } else { Ok(()) }
    }
}

/// Returns the frames of the control flow with these registers, innermost first, at most
/// [`FRAME_LIMIT`]. Memory is read by probes, so a broken chain only ends the backtrace.
pub fn frames(registers: &Registers) -> impl Iterator<Item = Frame> + use<> {
    let mut walk = Walk { frame_pointer: registers.frame_pointer, trap: Trap::with(registers.stack_pointer) };
    let innermost = Frame { address: registers.instruction_pointer, left_by: LeftBy::Nothing };
    core::iter::successors(Some(innermost), move |frame| walk.caller(frame)).take(FRAME_LIMIT)
}

/// Returns the frames of a thread's stack, innermost first, and whether they are certain; `None` if
/// there is no such thread. The frames of a running thread start where its CPU was interrupted to
/// take them.
pub fn of_thread(id: u64) -> Option<(Vec<Frame>, bool)> {
    if sandbox::is_active() {
        return stopped::registers_of(id).map(|registers| (frames(&registers).collect(), true));
    }
    let is_there = |cpu: &&Cpu| cpu.registry.lock().iter().any(|thread| thread.id() == id);
    let cpu = cpu::all_known().find(is_there)?;
    let found = Arc::new(SpinLock::new(Vec::new()));
    let _ = found.lock().try_reserve(FRAME_LIMIT);
    let theirs = found.clone();
    let walk = move || {
        let here = cpu::this();
        let registry = here.registry.lock();
        let Some(thread) = registry.iter().find(|thread| thread.id() == id) else { return };
        let is_interrupted = here.in_interrupt.load(Ordering::Relaxed) && !here.thread_serves.load(Ordering::Relaxed);
        let registers = match thread.state() {
            thread::State::Running if is_interrupted => Traps::interrupted(),
            thread::State::Running => Contexts::registers_here(),
            // SAFETY: the thread is suspended, and only its CPU, which runs this function with
            // interrupts off, can resume it and change its context.
            _ => Contexts::suspended_at(unsafe { &*thread.context.get() }),
        };
        let mut list = theirs.lock();
        let room = list.capacity();
        list.extend(frames(&registers).take(room));
    };
    let answered = call::on(cpu.index, walk, ANSWER_LIMIT).is_ok();
    let list = core::mem::take(&mut *found.lock());
    Some((list, answered))
}

/// Prints the frames with these registers, one per line.
pub fn print(registers: &Registers) {
    let mut previous = 0;
    let mut repeated = 0;
    for (number, frame) in frames(registers).enumerate() {
        if frame.address == previous {
            repeated += 1;
            continue;
        }
        previous = frame.address;
        crate::println!("  #{number} {frame}");
    }
    if repeated > 0 {
        crate::println!("  ({repeated} frames that repeat the one before are left out)");
    }
}

/// Prints only the innermost frame.
pub fn print_innermost(registers: &Registers) {
    if let Some(frame) = frames(registers).next() {
        crate::println!("  #0 {frame}");
    }
}

/// The state of a walk.
struct Walk {
    frame_pointer: usize,
    /// The trap in whose handler the walk is.
    trap: Option<Trap>,
}

impl Walk {
    fn caller(&mut self, callee: &Frame) -> Option<Frame> {
        if let Some(trap) = self.trap.take_if(|trap| !trap.is_on_stack(self.frame_pointer)) {
            self.trap = Trap::with(read(trap.stack_pointer_at())?);
            return Some(Frame { address: read(trap.instruction_pointer_at())?, left_by: LeftBy::Interrupt });
        }
        let at = self.frame_pointer;
        let next = read(at)?;
        let address = read(at.checked_add(size_of::<usize>())?).filter(|&address| address != 0)?;
        // The frames of callers lie at higher addresses of the same stack.
        let leaves_trap = self.trap.as_ref().is_some_and(|trap| !trap.is_on_stack(next));
        self.frame_pointer = if next > at || leaves_trap { next } else { 0 };
        // A thread that gives way was linked by the interrupt entry to where it was interrupted.
        let was_interrupted = callee.left_by == LeftBy::Call && Traps::is_interrupt_entry(callee.address);
        Some(Frame { address, left_by: if was_interrupted { LeftBy::Interrupt } else { LeftBy::Call } })
    }
}

/// A trap, identified by the stack its handler runs on.
struct Trap {
    stack_top: usize,
    frame: TrapFrame,
}

impl Trap {
    /// Returns the trap whose stack contains `address`.
    fn with(address: usize) -> Option<Self> {
        let frame = Traps::FRAME?;
        let mut traps = cpu::all_known().flat_map(Cpu::trap_stack_tops).map(|stack_top| Self { stack_top, frame });
        traps.find(|trap| trap.is_on_stack(address))
    }

    fn is_on_stack(&self, address: usize) -> bool {
        (self.stack_top - DEFAULT_SIZE..self.stack_top).contains(&address)
    }

    fn instruction_pointer_at(&self) -> usize {
        self.stack_top - self.frame.instruction_pointer
    }

    fn stack_pointer_at(&self) -> usize {
        self.stack_top - self.frame.stack_pointer
    }
}

/// Reads an aligned word, if memory is mapped there.
fn read(at: usize) -> Option<usize> {
    let mut word = [0; size_of::<usize>()];
    if at == 0 || !at.is_multiple_of(word.len()) {
        return None;
    }
    AddressSpace::probe_read(at, &mut word).ok()?;
    Some(usize::from_ne_bytes(word))
}
