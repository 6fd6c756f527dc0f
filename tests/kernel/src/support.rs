//! Helpers shared by several tests.

use alloc::string::{String, ToString};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use kernel::thread::{self, JoinHandle, State};
use kernel::time::{Deadline, now_ns};

/// The longest wait for something that must happen. Generous: an emulator on a busy host is slow.
pub const LIMIT: Duration = Duration::from_secs(20);
/// A timeout that is meant to pass.
pub const SHORT: Duration = Duration::from_millis(5);

/// Returns any error as text.
pub fn text(error: impl ToString) -> String {
    error.to_string()
}

/// Joins a thread within the limit.
pub fn join<T>(handle: JoinHandle<T>) -> Result<T, String> {
    let name = handle.thread().name().to_string();
    match handle.join_until(Deadline::after(LIMIT)) {
        Ok(result) => result.map_err(|error| alloc::format!("{name}: {error}")),
        Err(_) => Err(alloc::format!("thread {name} did not end")),
    }
}

/// Sleeps until a condition holds, within the limit.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Deadline::after(LIMIT);
    while !condition() {
        if deadline.has_passed() {
            return Err(alloc::format!("did not happen: {what}"));
        }
        thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}

/// Waits until a thread is blocked.
pub fn until_blocked<T>(handle: &JoinHandle<T>) -> Result<(), String> {
    eventually("the thread waits", || handle.thread().state() == State::Blocked)
}

/// Checks that an operation takes at least `duration`, as a timeout must.
pub fn takes_at_least<R>(duration: Duration, operation: impl FnOnce() -> R) -> Result<R, String> {
    let start = now_ns();
    let result = operation();
    let took = now_ns() - start;
    if u128::from(took) < duration.as_nanos() {
        return Err(alloc::format!("it took {took} ns, less than {} ns", duration.as_nanos()));
    }
    Ok(result)
}

/// Pseudo-random numbers (Knuth's MMIX constants), the same in every run.
pub struct Random(pub u64);

impl Random {
    /// Returns the next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// A value that counts its drops.
pub struct CountsDrops(pub &'static AtomicU64);

impl Drop for CountsDrops {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
