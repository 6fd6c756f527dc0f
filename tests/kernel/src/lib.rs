//! Tests of the kernel's behaviour: the same list runs in a Linux process and on the real machine.
//!
//! A test is a function that returns the error it found. Waits have deadlines; the order of events
//! is established by events and joins, never by sleeping.
#![no_std]

extern crate alloc;

mod calls;
mod interface;
mod memory;
mod misuse;
mod program;
mod program_memory;
mod runtimes;
mod soak;
mod state;
mod support;
mod threads;
mod time;
mod traps;
mod waiting;

use alloc::string::String;
use core::fmt::Write;

use kernel::time::now_ns;

/// The result of a test: nothing, or the error found.
pub type TestResult = Result<(), String>;

/// A test and its name.
pub struct Test {
    /// The property that the test checks.
    pub name: &'static str,
    /// The function that checks it.
    pub run: fn() -> TestResult,
}

/// Declares a module's tests.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub const TESTS: &[$crate::Test] = &[$($crate::Test { name: concat!(module_path!(), "::", stringify!($name)), run: $name }),*];
    };
}
pub(crate) use tests;

/// Returns an error with a message unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($message)+));
        }
    };
}
pub(crate) use ensure;

/// Returns all tests except the long ones.
pub fn all() -> impl Iterator<Item = &'static Test> {
    [
        threads::TESTS,
        waiting::TESTS,
        calls::TESTS,
        time::TESTS,
        memory::TESTS,
        runtimes::TESTS,
        traps::TESTS,
        interface::TESTS,
        misuse::TESTS,
        program_memory::TESTS,
        state::TESTS,
    ]
    .into_iter()
    .flatten()
}

/// Returns the long tests.
pub fn soak() -> impl Iterator<Item = &'static Test> {
    soak::TESTS.iter()
}

/// Runs the tests whose names contain `filter`, and returns the number that failed.
pub fn run(tests: impl Iterator<Item = &'static Test>, filter: &str, out: &mut dyn Write) -> usize {
    let (mut passed, mut failed) = (0, 0);
    for test in tests.filter(|test| test.name.contains(filter)) {
        let start = now_ns();
        let _ = write!(out, "test {} ... ", test.name);
        match (test.run)() {
            Ok(()) => {
                passed += 1;
                let _ = writeln!(out, "ok, {} ms", (now_ns() - start) / 1_000_000);
            }
            Err(reason) => {
                failed += 1;
                let _ = writeln!(out, "FAILED: {reason}");
            }
        }
    }
    let _ = writeln!(out, "kernel suite on {} CPUs: {passed} passed, {failed} failed", kernel::cpu::count());
    failed
}
