//! Text, memory, time, topology.

use core::fmt;
use core::ptr::{self, NonNull};

use abi::{ANY, INVALID, NO_SUCH_CPU, OK, OUT_OF_MEMORY, Status, TIMED_OUT};
use kernel::arch::*;
use kernel::memory::{self, Placement};
use kernel::program::heap::FreeError;
use kernel::program::{self, Outcome, Program};
use kernel::time;
use kernel::{call, cpu, output, thread, trace};

use crate::attempt;
use crate::handles::program;
use crate::pointers::{array, for_text};

pub unsafe extern "C" fn aero_print(text: *const u8, length: usize) {
    // SAFETY: by the interface's contract, `text` is readable for `length` bytes and unchanged
    // during the call; any bits are a byte.
    if let Ok(bytes) = unsafe { array(text, length) } {
        for_text(bytes, |part| output::print(format_args!("{part}")));
    }
}

pub unsafe extern "C" fn aero_exit(status: i32) -> ! {
    // SAFETY: the reference is not kept beyond this block, and the program lives at least as long
    // as its calling thread.
    if let Some(program) = unsafe { program::current() } {
        program.end(Outcome::Exited(status));
    }
    // SAFETY: by the interface's contract, the program vouches for whatever its thread has lent
    // from the stack; only the program's own memory is at stake.
    unsafe { thread::exit() }
}

/// A program's text, displayed in a report.
struct Text<'a>(&'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        for_text(self.0, |part| result = result.and_then(|()| f.write_str(part)));
        result
    }
}

pub unsafe extern "C" fn aero_panic(text: *const u8, length: usize) -> ! {
    // SAFETY: by the interface's contract, `text` is readable for `length` bytes and unchanged
    // during the call; any bits are a byte.
    let text = unsafe { array(text, length) }.unwrap_or(b"without a text");
    program::fail_current(format_args!("panic: {}", Text(text)));
    // SAFETY: by the interface's contract, the program vouches for whatever its thread has lent
    // from the stack; only the program's own memory is at stake.
    unsafe { thread::exit() }
}

pub unsafe extern "C" fn aero_allocate(size: usize, align: usize, node: u32) -> *mut u8 {
    let Ok(program) = program() else { return ptr::null_mut() };
    let placement = if node == ANY { Placement::Near } else { Placement::Node(node as usize) };
    if size == 0 {
        return ptr::null_mut();
    }
    program.heap().allocate(size, align, placement).map_or(ptr::null_mut(), NonNull::as_ptr)
}

pub unsafe extern "C" fn aero_free(memory: *mut u8) {
    let (Ok(program), Some(block)) = (program(), NonNull::new(memory)) else { return };
    // SAFETY: by the interface's contract, the program does not use the block any more.
    match unsafe { program.heap().free(block) } {
        Ok(()) => (),
        Err(FreeError::NotABlock) => {
            program::fail_current(format_args!("freed {block:p}, which is not allocated"));
        }
        Err(FreeError::Overrun(overrun)) => {
            program::fail_current(format_args!("{overrun}"));
        }
    }
}

pub unsafe extern "C" fn aero_allocated_size(memory: *mut u8) -> usize {
    let (Ok(program), Some(block)) = (program(), NonNull::new(memory)) else { return 0 };
    program.heap().size_of(block).unwrap_or(0)
}

pub unsafe extern "C" fn aero_cpu_count() -> u32 {
    cpu::limit() as u32
}

pub unsafe extern "C" fn aero_cpu_this() -> u32 {
    cpu::this_index() as u32
}

pub unsafe extern "C" fn aero_cpu_node(cpu: u32) -> u32 {
    cpu::get(cpu as usize).map_or(ANY, |cpu| cpu.node as u32)
}

pub unsafe extern "C" fn aero_node_count() -> u32 {
    memory::node_count() as u32
}

pub unsafe extern "C" fn aero_node_distance(from: u32, to: u32) -> u32 {
    memory::node_distance(from as usize, to as usize).map_or(0, u32::from)
}

/// A program's function and its argument, for a call in an interrupt.
#[derive(Clone, Copy)]
pub(crate) struct Handler {
    pub function: unsafe extern "C" fn(*mut u8),
    pub argument: *mut u8,
    program: &'static Program,
}

// SAFETY: the kernel only reads the fields; the interface obliges the program to pass a function
// that may run on any CPU.
unsafe impl Sync for Handler {}
// SAFETY: the interface obliges the program to pass a function and an argument that any thread or
// CPU may use.
unsafe impl Send for Handler {}

impl Handler {
    /// Creates a handler from a function of the calling program.
    pub fn new(function: unsafe extern "C" fn(*mut u8), argument: *mut u8) -> Result<Self, Status> {
        Ok(Self { function, argument, program: program()? })
    }

    /// Calls the function in an interrupt, and keeps the interrupted code's floating-point and
    /// vector state.
    pub fn call_in_interrupt(&self) {
        extern "C" fn call(handler: usize) {
            // SAFETY: `keep_vectors` passes the address of `self`, which outlives the call.
            let handler = unsafe { &*(handler as *const Handler) };
            Vectors::reset();
            // SAFETY: the program passed this function with this argument and is responsible for
            // its effects.
            unsafe { (handler.function)(handler.argument) };
        }
        program::as_handler_of(self.program, || Vectors::keep(call, ptr::from_ref(self) as usize));
    }
}

pub unsafe extern "C" fn aero_cpu_call(
    cpu: u32,
    function: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
) -> Status {
    let Some(function) = function else { return INVALID };
    let handler = attempt!(Handler::new(function, argument));
    // A CPU that does not answer in time may still run the call later; this count keeps the program
    // in place until then.
    let under_way = handler.program.begin_call();
    let run = move || {
        let (handler, _) = (handler, &under_way);
        handler.call_in_interrupt();
    };
    match call::on(cpu as usize, run, call::DEFAULT_LIMIT) {
        Ok(()) => OK,
        Err(call::CallError::NoSuchCpu(_)) => NO_SUCH_CPU,
        Err(call::CallError::OutOfMemory) => OUT_OF_MEMORY,
        Err(call::CallError::NoAnswer { .. }) => TIMED_OUT,
    }
}

pub unsafe extern "C" fn aero_trace_mark(first: u64, second: u64) {
    trace::mark(first, second);
}

pub unsafe extern "C" fn aero_time_ns() -> u64 {
    time::now_ns()
}

pub unsafe extern "C" fn aero_time_cycles() -> u64 {
    time::cycles()
}

pub unsafe extern "C" fn aero_time_cycle_hz() -> u64 {
    Clock::frequency_hz()
}
