//! The signals that make a thread leave the HRT.

use std::time::Duration;

use crate::system_call;

/// Interval at which a thread that does not leave the HRT is interrupted again.
pub const INTERVAL: Duration = Duration::from_millis(1);

/// How the library's threads, and those that call, are made to leave the HRT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kicks {
    /// By a signal that the library takes for itself.
    Signal,
    /// By nudges, because every signal is a program's. The library's own threads take none.
    Nudges,
}

impl Kicks {
    /// Installs an empty handler for the signal, so that it interrupts system calls.
    pub fn ignore(self) {
        extern "C" fn nothing(_: i32) {}
        if self == Self::Nudges {
            return;
        }
        // SAFETY: the structure is valid when zeroed, and the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            libc::sigaction(kick_signal(), &action, std::ptr::null_mut());
        }
    }

    /// Lets the signal interrupt the calling thread, whatever it has blocked.
    pub fn admit(self) {
        if self == Self::Signal {
            // SAFETY: the set is valid once it is emptied, and only this thread's mask changes.
            unsafe {
                let mut signals: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&mut signals);
                libc::sigaddset(&mut signals, kick_signal());
                libc::pthread_sigmask(libc::SIG_UNBLOCK, &signals, std::ptr::null_mut());
            }
        }
    }

    /// Leaves all signals but the library's to the process's own threads.
    pub fn take_no_others(self) {
        take_no_signals();
        self.admit();
    }

    /// Makes a thread leave the HRT; nothing happens if it has ended.
    pub fn kick(self, thread: u64) {
        match self {
            Self::Signal => system_call::kick(thread, kick_signal()),
            Self::Nudges => nudge(thread),
        }
    }
}

/// Leaves all signals to the process's other threads.
pub fn take_no_signals() {
    // SAFETY: the set is valid once it is filled, and only this thread's mask changes.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut signals);
        libc::pthread_sigmask(libc::SIG_SETMASK, &signals, std::ptr::null_mut());
    }
}

/// The signal that makes a CPU's thread leave the guest.
pub fn kick_signal() -> i32 {
    libc::SIGRTMIN()
}

/// The value of a SIGTRAP from this library.
pub const NUDGE: usize = 0x6e75_6467_6521;

/// Whether a thread of this process has blocked the signal of nudges.
pub fn blocks_nudges(thread: u64) -> bool {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap_or_default();
    // A set of signals, in which bit N - 1 is signal N (Linux, Documentation/filesystems/proc.rst).
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let blocked = blocked.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    blocked.is_some_and(|set| set & 1 << (libc::SIGTRAP - 1) != 0)
}

/// Sends a thread of this process a SIGTRAP with [`NUDGE`]; nothing happens if it has ended.
pub fn nudge(thread: u64) {
    let (process, signal) = (u64::from(std::process::id()), libc::SIGTRAP);
    // What Linux takes of a siginfo_t from a process: signal, code, and the value behind the
    // sender's ids (Linux, include/uapi/asm-generic/siginfo.h).
    let mut information = [0_u64; 16];
    information[0] = signal as u64;
    information[1] = libc::SI_QUEUE as u32 as u64;
    information[2] = process;
    information[3] = NUDGE as u64;
    let at = information.as_ptr() as u64;
    // SAFETY: the handler of the thread is one that knows the value.
    unsafe { system_call::make(libc::SYS_rt_tgsigqueueinfo as u64, [process, thread, signal as u64, at, 0, 0]) };
}
