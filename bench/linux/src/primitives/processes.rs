//! Processes, which the Aerokernel does not have.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use report::{Counter, Samples};

use crate::system::check;
use crate::{Benchmark, Outcome, benchmark, cycles};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    benchmark("fork_exit_wait", 1, |counter| fork(counter, false)),
    benchmark("fork_exec_wait", 1, |counter| fork(counter, true)),
];

/// The argument that makes this program exit at once.
pub const NOTHING: &str = "--nothing";
/// Number of samples, reduced because each takes long.
const REPETITIONS: usize = 200;

fn fork(counter: Counter, execute: bool) -> Outcome {
    let program = CString::new(std::env::current_exe()?.as_os_str().as_bytes())?;
    let nothing = CString::new(NOTHING)?;
    let arguments = [program.as_ptr(), nothing.as_ptr(), ptr::null()];
    let mut samples = Samples::with_warm_up(counter, REPETITIONS, 10).ok_or("out of memory for the samples")?;
    while !samples.is_complete() {
        let start = cycles();
        // SAFETY: the child makes only async-signal-safe calls, and its strings live in its copy of
        // memory.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: both calls are async-signal-safe, and the strings and the array are still
            // alive.
            unsafe {
                if execute {
                    libc::execv(program.as_ptr(), arguments.as_ptr());
                }
                libc::_exit(i32::from(execute));
            }
        }
        let mut status = 0;
        // SAFETY: the status is a local with room for the result.
        let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
        samples.add(start, cycles());
        check(child)?;
        if ended != child || status != 0 {
            return Err(format!("the child ended with {status}").into());
        }
    }
    Ok(samples)
}
