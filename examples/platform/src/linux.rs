//! The platform on Linux: `std`'s threads, bound to CPUs, and objects of `std` or the kernel to
//! wait on.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, mpsc};
use std::thread;

/// Does nothing: on Linux the program is a binary that calls [`run_main`].
#[macro_export]
macro_rules! program {
    ($main:path) => {};
}

/// Calls a program's main function with the process's arguments, and exits with the status it
/// returns.
pub fn run_main(main: fn(&[&str]) -> i32) -> ! {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    std::process::exit(main(&arguments))
}

/// A thread's stack size, in bytes.
const STACK: usize = 1 << 20;

/// The system's name.
pub const SYSTEM: &str = "Linux";

/// Returns the number of CPUs.
pub fn cpu_count() -> usize {
    thread::available_parallelism().map_or(1, |count| count.get())
}

#[doc(hidden)]
pub fn print_line(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Moves the calling thread to a CPU. The thread stays unbound if the CPU does not exist or the
/// process may not use it.
pub fn move_to(cpu: usize) {
    // SAFETY: the set is a local that lives through the call, and the CPU's index is within it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu % libc::CPU_SETSIZE as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

/// A thread to be joined.
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
    /// Waits for the thread's end.
    pub fn join(self) {
        self.0.join().expect("a thread that fails ends the process");
    }
}

/// Lets other threads of this CPU run.
pub fn yield_now() {
    thread::yield_now();
}

/// An event: each signal wakes one waiter, and a signal without a waiter is remembered. Only one
/// thread may wait. A futex without a lock.
#[derive(Default)]
pub struct Event(AtomicU32);

impl Event {
    /// Creates an event without a signal.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the waiter, or lets the next one pass.
    pub fn signal(&self) {
        if self.0.swap(1, Ordering::Release) == 0 {
            // SAFETY: the word lives through the call, which uses only its address.
            unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
        }
    }

    /// Waits for a signal.
    pub fn wait(&self) {
        while self.0.swap(0, Ordering::Acquire) == 0 {
            let none = std::ptr::null::<libc::timespec>();
            // SAFETY: the word lives through the call, and a null timeout means none.
            unsafe {
                libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 0, none)
            };
        }
    }
}

/// A group of threads that meet at barriers.
pub struct Collective {
    barrier: Barrier,
    given: Box<[AtomicU64]>,
}

impl Collective {
    /// Creates a collective of `members` threads.
    pub fn new(members: usize) -> Self {
        let given = (0..members).map(|_| AtomicU64::new(0)).collect();
        Self { barrier: Barrier::new(members), given }
    }

    /// Returns the number of members.
    pub fn size(&self) -> usize {
        self.given.len()
    }

    /// Waits until all members have arrived.
    #[inline]
    pub fn barrier(&self) {
        self.barrier.wait();
    }

    /// Combines the members' values, in the order of their ranks.
    pub fn reduce(&self, rank: usize, value: f64, combine: impl Fn(f64, f64) -> f64) -> f64 {
        self.given[rank].store(value.to_bits(), Ordering::Relaxed);
        self.barrier.wait();
        let all = self.given.iter().map(|word| f64::from_bits(word.load(Ordering::Relaxed))).reduce(combine);
        self.barrier.wait();
        all.unwrap_or(value)
    }
}

/// A bounded queue of messages.
pub struct MessageQueue<T> {
    sender: mpsc::SyncSender<T>,
    receiver: Mutex<mpsc::Receiver<T>>,
}

impl<T: Send> MessageQueue<T> {
    /// Creates a message queue for `capacity` messages.
    pub fn new(capacity: usize) -> Self {
        let (sender, receiver) = mpsc::sync_channel(capacity);
        Self { sender, receiver: Mutex::new(receiver) }
    }

    /// Sends a message; waits while the message queue is full.
    pub fn send(&self, message: T) {
        assert!(self.sender.send(message).is_ok(), "the receiver lives as long as the sender");
    }

    /// Takes a message; waits while the message queue is empty.
    pub fn receive(&self) -> T {
        let receiver = self.receiver.lock().expect("nobody fails with it");
        receiver.recv().expect("the sender lives as long as the receiver")
    }
}
