//! How a thread of the program begins, and ends.

use std::arch::asm;

use crate::block::Block;
use crate::calls::Calls;
use crate::children::Beginning;
use crate::thread::Thread;
use crate::{futexes, linux, overrides, process, statistics};

/// Begins a thread of the program on the calling thread, all of whose signals are blocked.
pub fn begin(beginning: Beginning, own_fs_base: u64) -> ! {
    let block = beginning.block;
    let status = live(beginning, own_fs_base);
    if process::leave() {
        // The HRT's own threads do not keep the process alive, whose status is that of the last one
        // (Linux, kernel/exit.c, synchronize_group_exit).
        statistics::end();
        // SAFETY: the call ends the process.
        unsafe { linux::call(libc::SYS_exit_group, [status, 0, 0, 0, 0, 0]) };
    }
    end(block, status)
}

/// Runs the thread in the HRT, and returns the status with which it ends.
fn live(beginning: Beginning, own_fs_base: u64) -> u64 {
    let Beginning { block, start, mask } = beginning;
    let thread = Thread::new();
    block.set_thread(&raw const thread, own_fs_base);
    block.take_signals();
    // Its place was reserved.
    let member = match process::hvm().join() {
        Ok(member) => member,
        Err(error) => process::fail_with_hrt(&error),
    };
    futexes::answer(&member);
    overrides::poll(&member);
    statistics::thread();
    let mut calls = Calls::new(&thread, new_thread);
    linux::set_mask(mask);
    // SAFETY: the state is the new thread's, or that of the program's first thread.
    let ended = unsafe { member.run(&start, &mut calls) };
    linux::set_mask(linux::ALL);
    if let Err(error) = ended {
        process::fail_with_hrt(&error);
    }
    calls.status
}

/// Ends the calling thread. Its memory is free from the last instruction on.
fn end(block: Block, status: u64) -> ! {
    // SAFETY: behind the store, the thread uses no memory.
    unsafe {
        asm!(
            "mov byte ptr [{flag}], 1",
            "syscall",
            "ud2",
            flag = in(reg) block.flag(),
            in("rax") libc::SYS_exit,
            in("rdi") status,
            options(noreturn)
        )
    }
}

/// The first function of a new thread.
pub extern "C" fn new_thread(beginning: usize) -> ! {
    // SAFETY: the address comes from `Box::into_raw`, for this thread.
    let beginning = *unsafe { Box::from_raw(beginning as *mut Beginning) };
    begin(beginning, linux::fs_base())
}
