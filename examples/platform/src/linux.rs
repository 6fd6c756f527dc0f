//! On Linux: `std`'s threads, bound to CPUs, and what `std` or the kernel has for them to wait on.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, mpsc};
use std::thread;

/// The program itself is a binary that calls [`run_main`].
#[macro_export]
macro_rules! program {
    ($main:path) => {};
}

/// Calls a program's main function with the process's arguments, and ends the process with its status.
pub fn run_main(main: fn(&[&str]) -> i32) -> ! {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    std::process::exit(main(&arguments))
}

/// Stack of a thread, in bytes.
const STACK: usize = 1 << 20;

/// Name of the system.
pub const SYSTEM: &str = "Linux";

/// Number of CPUs.
pub fn cpu_count() -> usize {
    thread::available_parallelism().map_or(1, |count| count.get())
}

#[doc(hidden)]
pub fn print_line(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Moves the calling thread to a CPU. Where there are fewer CPUs, or the process may not use it, to none in particular.
pub fn move_to(cpu: usize) {
    // SAFETY: a set of our own, for the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu % libc::CPU_SETSIZE as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

/// A thread that is joined.
pub struct Thread(thread::JoinHandle<()>);

/// Spawns a thread on a CPU.
pub fn spawn(name: &str, cpu: usize, body: impl FnOnce() + Send + 'static) -> Thread {
    let bound = move || {
        move_to(cpu);
        body();
    };
    let builder = thread::Builder::new().name(name.into()).stack_size(STACK);
    Thread(builder.spawn(bound).expect("the system has a thread for us"))
}

impl Thread {
    /// Waits for its end.
    pub fn join(self) {
        self.0.join().expect("a thread that fails ends the process");
    }
}

/// Lets others of this CPU run.
pub fn yield_now() {
    thread::yield_now();
}

/// Wakes one waiter a signal, and remembers a signal nobody waited for. One thread waits: a futex, without a lock.
#[derive(Default)]
pub struct Event(AtomicU32);

impl Event {
    /// An event without a signal.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the waiter, or lets the next one pass.
    pub fn signal(&self) {
        if self.0.swap(1, Ordering::Release) == 0 {
            // SAFETY: a word of ours.
            unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
        }
    }

    /// Waits for a signal.
    pub fn wait(&self) {
        while self.0.swap(0, Ordering::Acquire) == 0 {
            let none = std::ptr::null::<libc::timespec>();
            // SAFETY: a word of ours; no time-out.
            unsafe {
                libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 0, none)
            };
        }
    }
}

/// Threads that meet.
pub struct Collective {
    barrier: Barrier,
    given: Box<[AtomicU64]>,
}

impl Collective {
    /// A collective of so many threads.
    pub fn new(members: usize) -> Self {
        let given = (0..members).map(|_| AtomicU64::new(0)).collect();
        Self { barrier: Barrier::new(members), given }
    }

    /// Number of members.
    pub fn size(&self) -> usize {
        self.given.len()
    }

    /// Waits until all are there.
    #[inline]
    pub fn barrier(&self) {
        self.barrier.wait();
    }

    /// The members' values put together in the order of their ranks.
    pub fn reduce(&self, rank: usize, value: f64, combine: impl Fn(f64, f64) -> f64) -> f64 {
        self.given[rank].store(value.to_bits(), Ordering::Relaxed);
        self.barrier.wait();
        let all = self.given.iter().map(|word| f64::from_bits(word.load(Ordering::Relaxed))).reduce(combine);
        self.barrier.wait();
        all.unwrap_or(value)
    }
}

/// A bounded queue of messages.
pub struct Channel<T> {
    sender: mpsc::SyncSender<T>,
    receiver: Mutex<mpsc::Receiver<T>>,
}

impl<T: Send> Channel<T> {
    /// A channel for so many.
    pub fn new(capacity: usize) -> Self {
        let (sender, receiver) = mpsc::sync_channel(capacity);
        Self { sender, receiver: Mutex::new(receiver) }
    }

    /// Puts a message in, waiting for room.
    pub fn send(&self, message: T) {
        assert!(self.sender.send(message).is_ok(), "the receiver lives as long as the sender");
    }

    /// Takes a message out, waiting for one.
    pub fn receive(&self) -> T {
        let receiver = self.receiver.lock().expect("nobody fails with it");
        receiver.recv().expect("the sender lives as long as the receiver")
    }
}
