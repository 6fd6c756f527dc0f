//! The platform on the Aerokernel.

use core::fmt;

use hrt::thread::{self, Builder, JoinHandle};
use hrt::time::Deadline;
use hrt::{cpu, wait};

pub use hrt::Arguments;

/// Makes `$main`, a `fn(&[&str]) -> i32`, the program's main function.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        fn aero_start(arguments: $crate::Arguments) -> i32 {
            let arguments: ::alloc::vec::Vec<&str> = arguments.iter().collect();
            $main(&arguments)
        }
        $crate::hrt::program!(aero_start, 1 << 20);
    };
}
pub use hrt;

/// A thread's stack size, in bytes.
const STACK: usize = 1 << 18;

/// The system's name.
pub const SYSTEM: &str = "Aerokernel";

/// Returns the number of CPUs.
pub fn cpu_count() -> usize {
    cpu::count()
}

#[doc(hidden)]
pub fn print_line(line: fmt::Arguments<'_>) {
    hrt::println!("{line}");
}

/// Moves the calling thread to a CPU.
pub fn move_to(cpu: usize) {
    thread::migrate(cpu).expect("CPUs up to the count are there");
}

/// A thread to be joined.
pub struct Thread(JoinHandle<()>);

/// Spawns a thread on a CPU.
pub fn spawn(name: &str, cpu: usize, body: impl FnOnce() + Send + 'static) -> Thread {
    Thread(Builder::new(name).cpu(cpu).stack_size(STACK).spawn(body).expect("there is memory for a thread"))
}

impl Thread {
    /// Waits for the thread's end.
    pub fn join(self) {
        self.0.join();
    }
}

/// Lets other threads of this CPU run.
pub fn yield_now() {
    thread::yield_now();
}

/// An event: each signal wakes one waiter, and a signal without a waiter is remembered.
pub struct Event(wait::Event);

impl Event {
    /// Creates an event without a signal.
    pub fn new() -> Self {
        Self(wait::Event::new().expect("there is memory for an event"))
    }

    /// Wakes the waiter, or lets the next one pass.
    pub fn signal(&self) {
        self.0.signal();
    }

    /// Waits for a signal.
    pub fn wait(&self) {
        self.0.wait(Deadline::NEVER).expect("a wait without a deadline is not late");
    }
}

impl Default for Event {
    fn default() -> Self {
        Self::new()
    }
}

/// A group of threads that meet at barriers.
pub struct Collective(hrt::collective::Collective);

impl Collective {
    /// Creates a collective of `members` threads.
    pub fn new(members: usize) -> Self {
        Self(hrt::collective::Collective::new(members).expect("there is memory for a collective"))
    }

    /// Returns the number of members.
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// Waits until all members have arrived.
    #[inline]
    pub fn barrier(&self) {
        self.0.barrier(Deadline::NEVER).expect("a wait without a deadline is not late");
    }

    /// Combines the members' values, in the order of their ranks.
    pub fn reduce(&self, rank: usize, value: f64, combine: impl Fn(f64, f64) -> f64) -> f64 {
        self.0.reduce(rank, value, Deadline::NEVER, combine).expect("a wait without a deadline is not late")
    }
}

/// A bounded queue of messages.
pub struct MessageQueue<T>(wait::MessageQueue<T>);

impl<T: Send> MessageQueue<T> {
    /// Creates a message queue for `capacity` messages.
    pub fn new(capacity: usize) -> Self {
        Self(wait::MessageQueue::new(capacity).expect("there is memory for a message queue"))
    }

    /// Sends a message; waits while the message queue is full.
    pub fn send(&self, message: T) {
        assert!(self.0.send(message, Deadline::NEVER).is_ok(), "a wait without a deadline is not late");
    }

    /// Takes a message; waits while the message queue is empty.
    pub fn receive(&self) -> T {
        self.0.receive(Deadline::NEVER).expect("a wait without a deadline is not late")
    }
}
