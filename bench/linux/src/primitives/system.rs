//! Where threads run, and with what right; helpers on other CPUs.

use std::hint;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Error;

/// Number of CPUs that are on.
pub fn cpu_count() -> usize {
    // SAFETY: no pointers.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
}

/// An error of the last system call, if it says so by its result.
pub fn check(result: impl Into<i64>) -> Result<i64, Error> {
    match result.into() {
        negative if negative < 0 => Err(io::Error::last_os_error().into()),
        result => Ok(result),
    }
}

/// An error of a pthread function.
pub fn check_code(code: i32) -> Result<(), Error> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code).into()) }
}

/// A set of one CPU.
pub fn cpu_set(cpu: usize) -> libc::cpu_set_t {
    // SAFETY: a bit mask, for which zero is empty.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: within the mask for all CPUs there are here.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    set
}

/// Moves the calling thread to a CPU.
pub fn pin(cpu: usize) -> Result<(), Error> {
    let set = cpu_set(cpu);
    // SAFETY: the mask lives through the call.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })?;
    Ok(())
}

/// Turns off what is meant for other loads than these: the share of each second that is kept from real-time threads
/// (Linux, Documentation/scheduler/sched-rt-group.rst), and huge pages for whatever is large, which are cleared at first touch.
pub fn favour_latency() -> Result<(), Error> {
    std::fs::write("/proc/sys/kernel/sched_rt_runtime_us", "-1")?;
    std::fs::write("/sys/kernel/mm/transparent_hugepage/enabled", "never")?;
    Ok(())
}

/// Makes the calling thread, and those it makes, SCHED_FIFO.
pub fn be_real_time() -> Result<(), Error> {
    set_policy(libc::SCHED_FIFO, 10)
}

fn set_policy(policy: i32, priority: i32) -> Result<(), Error> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters live through the call.
    check(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) })?;
    Ok(())
}

/// The counter's rate, by the clock.
pub fn counter_frequency(read: fn() -> u64) -> u64 {
    let (start, clock) = (read(), Instant::now());
    while clock.elapsed() < Duration::from_millis(20) {
        hint::spin_loop();
    }
    let hertz = u128::from(read() - start) * 1_000_000_000 / clock.elapsed().as_nanos();
    // A clock that is made of the counter says so to a few millionths.
    (hertz as u64 + 50_000) / 100_000 * 100_000
}

/// Gives others the CPU long enough that whoever wants to sleep does.
pub fn let_others_sleep() {
    thread::sleep(Duration::from_micros(50));
}

/// A thread on a CPU, running `body` when this returns.
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

/// Keeps CPUs busy, at the lowest priority, until it is dropped.
pub struct Spinners {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl Spinners {
    /// One on each of these CPUs.
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

/// Waits on a futex while it has a value.
pub fn futex_wait(word: &AtomicI32, value: i32) {
    // SAFETY: the word lives through the call; no time limit.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, value, 0usize);
    }
}

/// Wakes up to `count` threads that wait on a futex; how many there were.
pub fn futex_wake(word: &AtomicI32, count: i32) -> i64 {
    // SAFETY: the word lives through the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, count) }
}
