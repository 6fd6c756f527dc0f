//! Threads and processes that the program makes.

use std::sync::atomic::Ordering;

use hvm::program::{ProgramCpu, Start};

use crate::block::Block;
use crate::clone::{CloneArguments, clone_to};
use crate::futexes;
use crate::gate::AGAIN;
use crate::linux::{self, Mask};
use crate::native;
use crate::process;
use crate::thread::{NO_STACK, SignalStack, Thread};

/// Flags of clone (Linux, include/uapi/linux/sched.h).
const VM: u64 = libc::CLONE_VM as u64;
const THREAD: u64 = libc::CLONE_THREAD as u64;
const VFORK: u64 = libc::CLONE_VFORK as u64;
const SETTLS: u64 = libc::CLONE_SETTLS as u64;
const PARENT: u64 = libc::CLONE_PARENT as u64;
const DETACHED: u64 = libc::CLONE_DETACHED as u64;
const PIDFD: u64 = libc::CLONE_PIDFD as u64;
/// Bits of clone's flags that are the signal of the child's end.
const EXIT_SIGNAL: u64 = 0xff;

/// A thread that is to begin.
pub struct Beginning {
    /// Its memory.
    pub block: Block,
    /// Its state.
    pub start: Start,
    /// Its mask.
    pub mask: Mask,
}

/// The first function of a thread, which gets the address of a box of its [`Beginning`].
pub type First = extern "C" fn(usize) -> !;

/// A process that is to go on outside of the HRT.
struct Native {
    start: Start,
    mask: Mask,
    stack: SignalStack,
}

/// Makes the child that a program asks for. Returns Linux's result, or [`AGAIN`].
///
/// # Safety
/// The program asks for it by its system call.
pub unsafe fn make(cpu: &mut ProgramCpu<'_>, parent: &Thread, stack: &SignalStack, first: First) -> i64 {
    let registers = *cpu.registers();
    // SAFETY: the caller answers for it.
    let mut wanted = match unsafe { wanted(&registers) } {
        Ok(wanted) => wanted,
        Err(error) => return -i64::from(error),
    };
    let (Ok(vectors), Ok(fs_base)) = (cpu.vectors(), cpu.fs_base()) else { return -i64::from(libc::EAGAIN) };
    let mut start = Start { registers, fs_base, vectors: Some(Box::new(vectors)) };
    start.registers.rax = 0;
    if wanted.stack != 0 {
        start.registers.rsp = wanted.stack + wanted.stack_size;
    }
    if wanted.flags & SETTLS != 0 {
        start.fs_base = wanted.tls;
    }
    // Old ways to say what is usual now, which clone3 does not take.
    wanted.flags &= !DETACHED;
    if wanted.flags & (THREAD | PARENT) != 0 {
        wanted.exit_signal = 0;
    }
    let mask = linux::set_mask(linux::ALL);
    if parent.signal.load(Ordering::Acquire) != 0 {
        // A signal comes first. It has blocked all signals, so the mask is not known.
        return AGAIN as i64;
    }
    let result = if wanted.flags & THREAD != 0 {
        // SAFETY: as above.
        unsafe { make_thread(&wanted, start, mask, first) }
    } else {
        let stack = if wanted.flags & (VM | VFORK) == VM { NO_STACK } else { *stack };
        // SAFETY: as above.
        unsafe { make_process(&wanted, Native { start, mask, stack }) }
    };
    linux::set_mask(mask);
    result
}

/// The child that a system call asks for.
///
/// # Safety
/// The registers are those of the program's system call.
unsafe fn wanted(registers: &kvm_bindings::kvm_regs) -> Result<CloneArguments, i32> {
    let signal = libc::SIGCHLD as u64;
    match registers.rax as i64 {
        libc::SYS_fork => Ok(CloneArguments { exit_signal: signal, ..CloneArguments::default() }),
        libc::SYS_vfork => Ok(CloneArguments { flags: VM | VFORK, exit_signal: signal, ..CloneArguments::default() }),
        libc::SYS_clone => {
            let flags = registers.rdi & !EXIT_SIGNAL;
            Ok(CloneArguments {
                flags,
                exit_signal: registers.rdi & EXIT_SIGNAL,
                stack: registers.rsi,
                pidfd: if flags & PIDFD != 0 { registers.rdx } else { 0 },
                parent_tid: registers.rdx,
                child_tid: registers.r10,
                tls: registers.r8,
                ..CloneArguments::default()
            })
        }
        _ => {
            let size = registers.rsi as usize;
            if size < 64 {
                return Err(libc::EINVAL);
            }
            if size > size_of::<CloneArguments>() {
                return Err(libc::E2BIG);
            }
            // What an older program does not know of stays 0.
            // SAFETY: the structure consists of words.
            unsafe { linux::read_start(registers.rdi, size) }
        }
    }
}

/// # Safety
/// The program asks for it.
unsafe fn make_thread(wanted: &CloneArguments, start: Start, mask: Mask, first: First) -> i64 {
    // As where Linux has no room for a thread.
    if !process::reserve() {
        return process::refuse(process::Refused::Thread, libc::EAGAIN);
    }
    let Some(block) = Block::take() else {
        process::leave();
        return -i64::from(libc::EAGAIN);
    };
    // SAFETY: this thread has a storage.
    let tls = unsafe { block.make_storage() };
    let (stack, stack_size) = (block.stack_start(), block.stack() - block.stack_start());
    let arguments = CloneArguments { flags: wanted.flags | SETTLS, tls, stack, stack_size, ..*wanted };
    let beginning = Box::into_raw(Box::new(Beginning { block, start, mask }));
    // SAFETY: the function takes the box over.
    let result = unsafe { clone_to(&arguments, first, beginning as usize) };
    if result < 0 {
        process::leave();
        block.give_back();
        // SAFETY: there is no thread that has taken it over.
        drop(unsafe { Box::from_raw(beginning) });
    }
    result
}

/// # Safety
/// The program asks for it.
unsafe fn make_process(wanted: &CloneArguments, native: Native) -> i64 {
    if wanted.flags & VM != 0 {
        // It may wait for futexes of this process, also for locks of the threads that run on.
        futexes::end();
    }
    let Some(block) = Block::take() else { return -i64::from(libc::EAGAIN) };
    let (stack, stack_size) = (block.stack_start(), block.stack() - block.stack_start());
    let arguments = CloneArguments { flags: wanted.flags & !SETTLS, tls: 0, stack, stack_size, ..*wanted };
    // SAFETY: the function takes what it needs from the structure, which lives on until it has: a
    // process with a memory of its own has a copy of it, and one that shares this one's has the
    // structure for itself.
    let native = Box::into_raw(Box::new(native));
    // SAFETY: the function does not return.
    let result = unsafe { clone_to(&arguments, go_on, native as usize) };
    // A process that shares this memory, and for which this one does not wait, keeps them.
    if result < 0 || wanted.flags & (VM | VFORK) != VM {
        block.give_back();
        // SAFETY: the other process has its copy, or has gone on.
        drop(unsafe { Box::from_raw(native) });
    }
    result
}

/// The first function of a process that goes on outside of the HRT.
extern "C" fn go_on(native: usize) -> ! {
    // SAFETY: the address is that of the structure for this process.
    let native = unsafe { &*(native as *const Native) };
    native::go_on(&native.start, native.mask, &native.stack)
}
