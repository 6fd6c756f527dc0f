//! Threads' CPUs and scheduling policies; helpers on other CPUs.

use std::hint;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Error;

/// Returns the number of online CPUs.
pub fn cpu_count() -> usize {
    // SAFETY: the call takes no pointers and only reads a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
}

/// Returns the error of the last system call if its result is negative.
pub fn check(result: impl Into<i64>) -> Result<i64, Error> {
    match result.into() {
        negative if negative < 0 => Err(io::Error::last_os_error().into()),
        result => Ok(result),
    }
}

/// Returns the error of a pthread function's result.
pub fn check_code(code: i32) -> Result<(), Error> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code).into()) }
}

/// Returns a set of one CPU.
pub fn cpu_set(cpu: usize) -> libc::cpu_set_t {
    // SAFETY: the set is a bit mask, for which zeros are valid and mean empty.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the CPU's index is within the mask, which covers every CPU the machine has.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    set
}

/// Moves the calling thread to a CPU.
pub fn pin(cpu: usize) -> Result<(), Error> {
    let set = cpu_set(cpu);
    // SAFETY: the mask lives through the call, and its size is passed along.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })?;
    Ok(())
}

/// Turns off two mechanisms meant for other loads: the share of each second that is reserved from
/// real-time threads (Linux, Documentation/scheduler/sched-rt-group.rst), and huge pages for large
/// mappings, which are cleared at first touch.
pub fn favour_latency() -> Result<(), Error> {
    std::fs::write("/proc/sys/kernel/sched_rt_runtime_us", "-1")?;
    std::fs::write("/sys/kernel/mm/transparent_hugepage/enabled", "never")?;
    Ok(())
}

/// Makes the calling thread, and the threads it creates, SCHED_FIFO.
pub fn be_real_time() -> Result<(), Error> {
    set_policy(libc::SCHED_FIFO, 10)
}

fn set_policy(policy: i32, priority: i32) -> Result<(), Error> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters are a local that lives through the call.
    check(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) })?;
    Ok(())
}

/// Measures the counter's rate against the clock, in Hz.
pub fn counter_frequency(read: fn() -> u64) -> u64 {
    let (start, clock) = (read(), Instant::now());
    while clock.elapsed() < Duration::from_millis(20) {
        hint::spin_loop();
    }
    let hertz = u128::from(read() - start) * 1_000_000_000 / clock.elapsed().as_nanos();
    // A clock derived from the counter is off by a few millionths at most, so rounding gives the
    // rate.
    (hertz as u64 + 50_000) / 100_000 * 100_000
}

/// Leaves the CPU to other threads long enough for those that want to sleep to do so.
pub fn let_others_sleep() {
    thread::sleep(Duration::from_micros(50));
}

/// Starts a thread on a CPU; when this returns, `body` is about to run.
pub fn on_cpu<T: Send + 'static>(cpu: usize, body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let started = Arc::new(AtomicBool::new(false));
    let theirs = started.clone();
    let handle = thread::spawn(move || {
        pin(cpu).expect("a thread can be pinned");
        theirs.store(true, Ordering::Release);
        body()
    });
    while !started.load(Ordering::Acquire) {
        let_others_sleep();
    }
    handle
}

/// Threads of the lowest priority that keep CPUs busy until dropped.
pub struct Spinners {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl Spinners {
    /// Starts a spinner on each of `cpus`.
    pub fn start(cpus: impl Iterator<Item = usize>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |cpu| {
            let stop = stop.clone();
            on_cpu(cpu, move || {
                set_policy(libc::SCHED_OTHER, 0).expect("anybody may be of no importance");
                while !stop.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            })
        };
        let handles = cpus.map(spin).collect();
        Self { stop, handles }
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

/// Waits on a futex while it holds `value`.
pub fn futex_wait(word: &AtomicI32, value: i32) {
    // SAFETY: the word lives through the call, and a null time limit means none.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, value, 0usize);
    }
}

/// Wakes up to `count` threads that wait on a futex; returns their number.
pub fn futex_wake(word: &AtomicI32, count: i32) -> i64 {
    // SAFETY: the word lives through the call, which uses only its address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, count) }
}
