//! The parts of the kernel that the included files use, modelled with loom.

/// Loom's atomics.
pub mod atomic {
    pub use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicUsize, Ordering};

    macro_rules! const_fn {
        ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block) => {
            $(#[$attribute])* $visibility fn $name($($argument: $type),*) -> $result $body
        };
    }
    pub(crate) use const_fn;

    pub fn spin_hint() {
        loom::thread::yield_now();
    }

    /// Returns false: no machine is stopped here.
    pub fn passes(_: &AtomicBool) -> bool {
        false
    }
}

#[path = "../../../../kernel/src/lock/raw.rs"]
pub mod raw;

/// A lock that blocks where the kernel's spins, because loom cannot explore unbounded loops. The
/// kernel's raw lock has a test of its own.
pub mod lock {
    use std::cell::{Cell, OnceCell, UnsafeCell};
    use std::ops::{Deref, DerefMut};

    use loom::sync::{Mutex, MutexGuard};

    thread_local! {
        /// Set once any object that contains a lock may have been destroyed in the current model. A
        /// plain thread-local rather than loom's, because all threads of a model are one thread of
        /// the process.
        pub static OBJECT_IS_GONE: Cell<bool> = const { Cell::new(false) };
    }

    pub struct SpinLock<T> {
        /// Created at first use, because loom's locks cannot be created in a constant.
        raw: OnceCell<Mutex<()>>,
        data: UnsafeCell<T>,
    }

    // SAFETY: loom runs one thread at a time, so the cell is never accessed concurrently, and the
    // raw lock guards the data.
    unsafe impl<T: Send> Sync for SpinLock<T> {}

    impl<T> SpinLock<T> {
        pub const fn new(data: T) -> Self {
            Self { raw: OnceCell::new(), data: UnsafeCell::new(data) }
        }

        pub fn lock(&self) -> SpinGuard<'_, T> {
            let held = self.raw.get_or_init(|| Mutex::new(())).lock().expect("nobody panics inside");
            assert!(!OBJECT_IS_GONE.get(), "the object was touched after it could be destroyed");
            SpinGuard { lock: self, _held: held }
        }
    }

    pub struct SpinGuard<'a, T> {
        lock: &'a SpinLock<T>,
        _held: MutexGuard<'a, ()>,
    }

    impl<T> SpinGuard<'_, T> {
        pub fn release(guard: Self) {
            drop(guard);
        }
    }

    impl<T> Deref for SpinGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            // SAFETY: the guard exists only while the lock is held, so access is exclusive.
            unsafe { &*self.lock.data.get() }
        }
    }

    impl<T> DerefMut for SpinGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            // SAFETY: the guard exists only while the lock is held, so access is exclusive.
            unsafe { &mut *self.lock.data.get() }
        }
    }
}

/// A thread that can be made runnable, and a timer that may end its wait.
pub mod thread {
    use intrusive_collections::LinkedListLink;
    use loom::sync::{Condvar, Mutex};

    use crate::atomic::{AtomicPtr, AtomicUsize};
    use crate::time::Deadline;
    use crate::wait::claim::Claim;

    pub struct Thread {
        pub wait_link: LinkedListLink,
        next: AtomicPtr<Thread>,
        claim: Claim,
        runnable: Mutex<bool>,
        changed: Condvar,
        timer: Mutex<Timer>,
        timer_changed: Condvar,
    }

    #[derive(PartialEq)]
    enum Timer {
        Off,
        Set,
        Stopped,
    }

    impl crate::mailbox::Linked for Thread {
        fn next(&self) -> &AtomicPtr<Self> {
            &self.next
        }
    }

    // SAFETY: the link is accessed only under the wait list's lock.
    unsafe impl Sync for Thread {}

    loom::thread_local! {
        static CURRENT: std::cell::Cell<Option<&'static Thread>> = std::cell::Cell::new(None);
    }

    pub fn set_current(thread: &'static Thread) {
        CURRENT.with(|current| current.set(Some(thread)));
    }

    pub fn running() -> &'static Thread {
        CURRENT.with(std::cell::Cell::get).expect("set before waiting")
    }

    impl Thread {
        pub fn new() -> Self {
            Self {
                wait_link: LinkedListLink::new(),
                next: AtomicPtr::new(std::ptr::null_mut()),
                claim: Claim::new(),
                runnable: Mutex::new(false),
                changed: Condvar::new(),
                timer: Mutex::new(Timer::Off),
                timer_changed: Condvar::new(),
            }
        }

        pub fn claim(&self) -> &Claim {
            &self.claim
        }

        pub fn is_in_wait_list(&self) -> bool {
            self.wait_link.is_linked()
        }

        pub fn start_timeout(&self, deadline: Deadline) {
            if deadline == Deadline::NOW {
                // The timer fires before the thread sleeps.
                self.fire();
            } else {
                *self.timer.lock().unwrap() = Timer::Set;
                self.timer_changed.notify_one();
            }
        }

        pub fn end_timeout(&self) {}

        pub fn waits_for(&self, _: &AtomicUsize) {}

        fn fire(&self) {
            if self.claim.try_time_out() {
                self.make_runnable();
            }
        }

        /// Runs the timer's side: ends the thread's wait once the thread waits.
        pub fn time_out_once_waiting(&self) {
            let mut timer = self.timer.lock().unwrap();
            while *timer == Timer::Off {
                timer = self.timer_changed.wait(timer).unwrap();
            }
            let fires = *timer == Timer::Set;
            drop(timer);
            if fires {
                self.fire();
            }
        }

        pub fn stop_timer(&self) {
            let mut timer = self.timer.lock().unwrap();
            if *timer == Timer::Off {
                *timer = Timer::Stopped;
            }
            self.timer_changed.notify_one();
        }

        pub fn make_runnable(&self) {
            *self.runnable.lock().unwrap() = true;
            self.changed.notify_one();
        }

        pub fn sleep(&self) {
            let mut runnable = self.runnable.lock().unwrap();
            while !*runnable {
                runnable = self.changed.wait(runnable).unwrap();
            }
            *runnable = false;
        }
    }
}

/// A CPU that knows which thread runs.
pub mod arch {
    use super::thread::running;

    pub struct Core;

    impl Core {
        pub fn current() -> usize {
            std::ptr::from_ref(running()) as usize
        }
    }
}

/// The part of the scheduler that waiting uses.
pub mod scheduler {
    use super::thread::{Thread, running};

    pub mod mailbox {
        pub use crate::mailbox::{Linked, Mailbox};
    }

    pub fn make_runnable(thread: &Thread) {
        thread.make_runnable();
    }

    pub fn block() {
        running().sleep();
    }

    pub fn assert_may_block() {}
}

/// Deadlines without a clock.
pub mod time {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Deadline(u8);

    impl Deadline {
        pub const NEVER: Self = Self(0);
        /// Passes at any moment after the wait began.
        pub const SOME: Self = Self(1);
        pub const NOW: Self = Self(2);
    }
}

/// The memory module's error.
pub mod memory {
    #[derive(Debug)]
    pub struct OutOfMemory;
}
