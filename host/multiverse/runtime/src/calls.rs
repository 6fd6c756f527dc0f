//! The program's system calls: which are forwarded to Linux as they are, which concern what the HRT
//! or the runtime keeps of a thread, and which cannot be.

use std::sync::atomic::Ordering;

use hvm::program::{Flow, Program, ProgramCpu};

use crate::children::{self, First};
use crate::futexes;
use crate::gate::{self, AGAIN, SYSTEM_CALL};
use crate::linux::{self, ARCH_GET_FS, ARCH_SET_FS};
use crate::overrides;
use crate::process;
use crate::signals;
use crate::statistics;
use crate::thread::{NO_STACK, SignalStack, Thread};

/// One past the last address of a program.
const END: u64 = 0x7fff_ffff_f000;

/// Operation of prctl that has system calls raise a signal (Linux, include/uapi/linux/prctl.h).
const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;

/// System calls of Linux 6.7 that wait for futexes (arch/x86/entry/syscalls/syscall_64.tbl).
const FUTEX_WAIT: i64 = 455;
const FUTEX_REQUEUE: i64 = 456;

/// How often the signal for a step is raised at most.
const RAISES: u32 = 100;

/// A thread's system calls.
pub struct Calls<'a> {
    thread: &'a Thread,
    /// With which new threads begin.
    first: First,
    /// The stack that the program has for handlers.
    stack: SignalStack,
    /// The status with which the thread has ended.
    pub status: u64,
    has_ended: bool,
    is_stepping: bool,
}

impl<'a> Calls<'a> {
    /// Those of a new thread.
    pub fn new(thread: &'a Thread, first: First) -> Self {
        Self { thread, first, stack: NO_STACK, status: 0, has_ended: false, is_stepping: false }
    }

    fn is_pending(&self) -> bool {
        self.thread.signal.load(Ordering::Acquire) != 0
    }

    /// Has the CPU leave the program for good. All signals are blocked.
    fn leave(&mut self, cpu: &mut ProgramCpu<'_>) {
        self.has_ended = true;
        // SAFETY: the byte is part of the CPU, which does not run.
        unsafe { cpu.immediate_exit().write_volatile(0) };
        if self.is_stepping {
            let _ = cpu.step(false);
        }
    }

    fn forward(&mut self, cpu: &mut ProgramCpu<'_>) {
        let registers = cpu.registers();
        let begun = statistics::begin();
        // SAFETY: the call is the program's own.
        let make = || unsafe { gate::forward(registers, &self.thread.signal) };
        let result = match registers.rax as i64 {
            libc::SYS_futex => futexes::counted(registers, make),
            libc::SYS_futex_waitv | FUTEX_WAIT | FUTEX_REQUEUE | libc::SYS_io_uring_setup => {
                futexes::end();
                make()
            }
            _ => make(),
        };
        statistics::call(registers.rax, begun);
        if result == AGAIN {
            registers.rip -= SYSTEM_CALL;
        } else {
            registers.rax = result;
        }
    }
}

impl Program for Calls<'_> {
    fn system_call(&mut self, cpu: &mut ProgramCpu<'_>) -> Flow {
        // Linux looks at so many bits of the number (arch/x86/entry/common.c).
        let number = &mut cpu.registers().rax;
        *number = u64::from(*number as u32);
        let registers = *cpu.registers();
        let (first, second, third) = (registers.rdi, registers.rsi, registers.rdx);
        let result = match registers.rax as i64 {
            libc::SYS_exit => {
                linux::set_mask(linux::ALL);
                if self.is_pending() {
                    // It is delivered first, and the call is made again.
                    AGAIN as i64
                } else {
                    self.leave(cpu);
                    self.status = first;
                    return Flow::Leave;
                }
            }
            libc::SYS_exit_group => {
                statistics::end();
                self.forward(cpu);
                return Flow::On;
            }
            libc::SYS_clone | libc::SYS_clone3 | libc::SYS_fork | libc::SYS_vfork => {
                // SAFETY: the program asks for it.
                unsafe { children::make(cpu, self.thread, &self.stack, self.first) }
            }
            number if number as u64 == overrides::LINKED => {
                overrides::linked();
                0
            }
            libc::SYS_arch_prctl => arch_prctl(cpu, first, second),
            // SAFETY: the program asks for it.
            libc::SYS_rt_sigaction => unsafe { signals::set_action(first, second, third, registers.r10) },
            libc::SYS_rt_sigreturn => {
                // SAFETY: likewise.
                unsafe { signals::give_back(self.thread, &mut self.stack, cpu) };
                return Flow::On;
            }
            // SAFETY: likewise.
            libc::SYS_sigaltstack => unsafe { self.stack.change(first, second, registers.rsp) },
            // The descriptors that the HRT needs are not the program's.
            libc::SYS_close if is_ours(first) => -i64::from(libc::EBADF),
            libc::SYS_dup2 | libc::SYS_dup3 if is_ours(first) || is_ours(second) => -i64::from(libc::EBADF),
            libc::SYS_close_range => close_range(first, second, third),
            // The code that would have to heed it is not where Linux looks.
            libc::SYS_rseq | libc::SYS_modify_ldt => -i64::from(libc::ENOSYS),
            libc::SYS_iopl | libc::SYS_ioperm => -i64::from(libc::EPERM),
            // The runtime's own calls would be filtered, and Linux takes no filter back.
            libc::SYS_seccomp => process::refuse(process::Refused::Filters, libc::ENOSYS),
            libc::SYS_prctl if matches!(first as i32, libc::PR_SET_SECCOMP | PR_SET_SYSCALL_USER_DISPATCH) => {
                process::refuse(process::Refused::Filters, libc::EINVAL)
            }
            libc::SYS_pkey_alloc => -i64::from(libc::ENOSPC),
            _ => {
                self.forward(cpu);
                return Flow::On;
            }
        };
        let registers = cpu.registers();
        if result as u64 == AGAIN {
            registers.rip -= SYSTEM_CALL;
        } else {
            registers.rax = result as u64;
        }
        Flow::On
    }

    fn execute(&mut self, cpu: &mut ProgramCpu<'_>) -> bool {
        let begun = statistics::begin();
        let (Some(mut step), Ok(base)) = (cpu.begin_step(), cpu.fs_base()) else { return false };
        let thread = self.thread;
        thread.program_fs_base.store(base, Ordering::Relaxed);
        thread.step.store(&raw mut step, Ordering::Release);
        let mask = linux::set_mask(linux::ALL);
        let is_pending = || thread.signal.load(Ordering::Acquire) != 0;
        if is_pending() {
            // It is delivered first, and has the mask that was blocked with it.
            thread.step.store(std::ptr::null_mut(), Ordering::Release);
            return true;
        }
        linux::set_mask(signals::mask_for_step(mask));
        // Linux drops the signal while the thread has another SIGTRAP to take.
        for _ in 0..RAISES {
            linux::raise(libc::SIGTRAP as u32);
            if step.has_ended() {
                break;
            }
        }
        thread.step.store(std::ptr::null_mut(), Ordering::Release);
        statistics::native(begun);
        if is_pending() {
            // The instruction has caused a signal, whose handler saw the mask of the step.
            // SAFETY: the handler is done with it.
            unsafe { (*thread.pending.get()).iter_mut().for_each(|pending| pending.mask = mask) };
        } else {
            linux::set_mask(mask);
        }
        cpu.finish_step(&step)
    }

    fn before_entry(&mut self, cpu: &mut ProgramCpu<'_>) {
        if self.has_ended {
            return;
        }
        let exit = cpu.immediate_exit();
        self.thread.immediate_exit.store(exit, Ordering::Release);
        // SAFETY: the byte is part of the CPU, which does not run. A signal that comes from now on
        // sets it again.
        unsafe { exit.write_volatile(0) };
        if self.is_stepping && cpu.is_in_program() {
            self.is_stepping = false;
            let _ = cpu.step(false);
        }
        if !self.is_pending() {
            return;
        }
        if cpu.is_in_program() {
            signals::deliver(self.thread, &mut self.stack, cpu);
        } else if cpu.is_in_called_function() {
            cpu.want_back();
            if std::mem::take(&mut self.is_stepping) {
                let _ = cpu.step(false);
            }
        } else {
            // The kernel is at something short, of which the program knows nothing. KVM forgets the
            // step when registers change meanwhile.
            self.is_stepping = cpu.step(true).is_ok();
        }
    }
}

/// Whether a descriptor is the HRT's.
fn is_ours(descriptor: u64) -> bool {
    process::hvm().uses(descriptor as i32)
}

/// Closes a range of descriptors but for those of the HRT.
fn close_range(first: u64, last: u64, flags: u64) -> i64 {
    let (first, last) = (u64::from(first as u32), u64::from(last as u32));
    let close = |first: u64, last: u64| {
        // SAFETY: the program asks for it.
        unsafe { linux::call(libc::SYS_close_range, [first, last, flags, 0, 0, 0]) }
    };
    let mut start = first;
    for ours in process::hvm().used().map(u64::from).filter(|ours| (first..=last).contains(ours)) {
        let result = if start < ours { close(start, ours - 1) } else { 0 };
        if result < 0 {
            return result;
        }
        start = ours + 1;
    }
    // The call itself says what is wrong with its arguments.
    if start <= last || first > last { close(start, last) } else { 0 }
}

/// Reads or sets the thread's FS base, which is the HRT's affair.
fn arch_prctl(cpu: &mut ProgramCpu<'_>, operation: u64, address: u64) -> i64 {
    let done = match operation {
        ARCH_SET_FS if address < END => cpu.set_fs_base(address).is_ok(),
        ARCH_GET_FS => match cpu.fs_base() {
            Ok(base) => {
                // SAFETY: the program gave the address for this.
                unsafe { linux::write_memory(address, &base) }.is_ok()
            }
            Err(_) => false,
        },
        ARCH_SET_FS => return -i64::from(libc::EPERM),
        _ => return -i64::from(libc::EINVAL),
    };
    if done { 0 } else { -i64::from(libc::EFAULT) }
}
