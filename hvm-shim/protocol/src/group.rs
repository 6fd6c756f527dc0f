//! Execution groups: what a partner thread of the ROS and its context in the HRT share (our
//! extension), in one page for each group.
//!
//! The partner thread runs the CPU of its group's context, so only one of the two sides runs at a
//! time, and writes. The page holds the call under way and the group's event channel: the events
//! that went over it, with sequence numbers and times. Everybody may read it at any time.

use core::array::from_fn;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Size of a group's page, in bytes.
pub const SIZE: usize = 4096;
/// Events that the channel remembers.
pub const REMEMBERED: usize = 32;
/// Classes of durations: class n counts those of at least 2^n cycles, but fewer than 2^(n+1).
pub const CLASSES: usize = 40;

/// Ports on which a partnered CPU leaves the HRT; the values written mean nothing, so no register
/// changes.
pub mod port {
    /// A system call, with Linux's convention for the instruction SYSCALL.
    pub const SYSTEM_CALL: u8 = 0xdd;
    /// The call is done, or the context is ready for the first one.
    pub const DONE: u8 = 0xde;
    /// An exception of a program's thread ([`super::Group::goes_on`]): all registers are as they
    /// were but RIP, which [`super::Group::exception`] has.
    pub const EXCEPTION: u8 = 0xdb;
}

/// Number of the system call by which the ROS's code comes back from a function of the kernel whose
/// result is in RDX. Linux has no such call.
pub const COMES_BACK: u64 = u64::MAX - 1;

/// How a wait for a word ended ([`function::WAIT_END`]).
pub mod waited {
    /// It was woken.
    pub const WOKEN: u64 = 0;
    /// The deadline has passed.
    pub const TIMED_OUT: u64 = 1;
    /// The thread's partner wants it, or it was told to stop.
    pub const INTERRUPTED: u64 = 2;
}

/// Names of functions of the kernel for the ROS's code, beside those of the programs' interface.
pub mod function {
    /// Where the ROS's code calls the others: their address is in R11, and arguments and result are
    /// where the C convention has them. They have the kernel's stack of the group's thread.
    pub const GATE: &str = "ros_gate";
    /// Begins to wait for a word of the ROS's memory to be woken. Takes the word's address and the
    /// value that it must have. Returns a number for [`WAIT_END`], 0 if the word has another value.
    pub const WAIT_BEGIN: &str = "ros_wait_begin";
    /// Waits. Takes the number, the time in nanoseconds of the kernel's clock at which the wait
    /// ends (`u64::MAX` for never), and the address of a word that stops it if it is not 0. Returns
    /// one of [`super::waited`].
    pub const WAIT_END: &str = "ros_wait_end";
    /// Wakes waits for a word: takes its address and the number of waits at most, and returns how
    /// many it has woken.
    pub const WAKE: &str = "ros_wake";
    /// Has all waits look again at the words that stop them.
    pub const LOOK_AGAIN: &str = "ros_look_again";
}

/// What a group is doing, the values of [`Group::state`].
pub mod state {
    /// There is no group in this page.
    pub const NONE: u64 = 0;
    /// Its CPU is being started.
    pub const STARTING: u64 = 1;
    /// It waits for a call.
    pub const READY: u64 = 2;
    /// Its context runs in the HRT.
    pub const RUNNING: u64 = 3;
    /// Its partner serves an event.
    pub const SERVED: u64 = 4;
    /// Its call was given up at its limit; the next one goes on with it.
    pub const GIVEN_UP: u64 = 5;
    /// Its partner thread has ended within a call, or it could not be started.
    pub const LOST: u64 = 6;

    /// A state's name.
    pub fn name(state: u64) -> &'static str {
        match state {
            NONE => "none",
            STARTING => "starting",
            READY => "ready",
            RUNNING => "running",
            SERVED => "served",
            GIVEN_UP => "given up",
            LOST => "lost",
            _ => "unknown",
        }
    }
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// The ROS calls a function; the detail is its address.
    Call = 0,
    /// The HRT makes a system call; the detail is its number.
    SystemCall = 1,
    /// The HRT accesses memory of the ROS that it could not see yet; the detail is the address.
    Window = 2,
    /// Linux refuses an access of the HRT; the detail is the instruction's address.
    RefusedAccess = 3,
    /// The called function causes an exception; the detail is the vector.
    Exception = 4,
}

impl Kind {
    /// All kinds, by number.
    pub const ALL: [Self; 5] = [Self::Call, Self::SystemCall, Self::Window, Self::RefusedAccess, Self::Exception];

    /// The kind's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::SystemCall => "system call",
            Self::Window => "window",
            Self::RefusedAccess => "refused access",
            Self::Exception => "exception",
        }
    }
}

/// What the context does itself, instead of a call.
pub mod request {
    /// Merges the address spaces. Argument: physical address of the root page table.
    pub const MERGE: u64 = 1;
}

/// How a call ended, the values of [`Group::outcome`].
pub mod outcome {
    /// The function returned.
    pub const RETURNED: u64 = 0;
    /// It caused an exception; [`super::Group::exception`] says which.
    pub const EXCEPTION: u64 = 1;
    /// Linux refused an access of it.
    pub const REFUSED: u64 = 2;
}

/// A group's page.
#[repr(C, align(64))]
pub struct Group {
    /// See [`state`].
    pub state: AtomicU64,
    /// The partner thread's id in the ROS, and its process's. System calls that ask for them are
    /// answered in the HRT, unless they are 0.
    pub partner: AtomicU64,
    /// See `partner`.
    pub process: AtomicU64,
    /// Address of a table of [`FutexWaiters`], 0 if there is none: a wake-up of a futex without
    /// waiters is answered in the HRT.
    pub futex_waiters: AtomicU64,
    /// The context's thread in the HRT, by its id, and its CPU's index.
    pub thread: AtomicU64,
    /// See `thread`.
    pub cpu: AtomicU64,
    /// The function to be called, its arguments, and the top of its stack in the ROS's memory.
    /// Instead of a function's address, one of [`request`] may be here.
    pub function: AtomicU64,
    /// See `function`.
    pub arguments: [AtomicU64; 2],
    /// See `function`.
    pub stack: AtomicU64,
    /// What the function returned.
    pub result: AtomicU64,
    /// See [`outcome`].
    pub outcome: AtomicU64,
    /// Where a call is left early: instruction pointer and stack pointer. The CPU does not leave
    /// the ROS's code in any other way.
    pub way_back: [AtomicU64; 2],
    /// Not 0 if the context is a thread of a program, which goes on from its exceptions: its
    /// partner deals with them. A called function is left instead.
    pub goes_on: AtomicU64,
    /// Not 0 while the ROS's code is in a function of the kernel.
    pub in_kernel: AtomicU64,
    /// Not 0 if the partner wants the ROS's code back from such a function: it ends its wait, and
    /// makes the system call [`COMES_BACK`] instead of returning.
    pub is_wanted: AtomicU64,
    /// For how many cycles the context's CPU polls before it halts, while no more contexts run than
    /// the ROS has CPUs.
    pub polls_for: AtomicU64,
    /// See `polls_for`.
    pub ros_cpus: AtomicU64,
    /// Of an exception: vector, error code, instruction's address, accessed address.
    pub exception: [AtomicU64; 4],
    /// While a system call is made: the registers RBX, RSP, RBP, R12 to R15 and RIP with which the
    /// function waits for it, for debuggers.
    pub left_with: [AtomicU64; 8],
    /// Words of the synchronous mode, in which both sides poll.
    pub synchronous: Synchronous,
    /// The event channel.
    pub channel: Channel,
}

/// Words that both sides poll, so that no CPU leaves the HRT. The first two and the place of the
/// call's record are Palacios's block.
#[repr(C, align(64))]
pub struct Synchronous {
    /// Number of the latest request; the ROS counts it.
    pub requests: AtomicU64,
    /// Number of the latest answer.
    pub responses: AtomicU64,
    /// FS base of the thread that calls.
    pub thread_pointer: AtomicU64,
    /// 1 while a system call is asked for; the ROS clears it.
    pub is_asked: AtomicU64,
    /// Number and arguments of the system call.
    pub call: [AtomicU64; 7],
    /// 1 once the result is there; the HRT clears it.
    pub is_answered: AtomicU64,
    /// The result of the system call.
    pub answer: AtomicU64,
    /// Where the HRT's code goes on after the call.
    pub return_address: AtomicU64,
}

/// How many of the process's threads wait for futexes, by the lowest 16 bits of their addresses,
/// which are multiples of 4. The ROS counts them before it makes a call that may wait, and stops
/// counting behind it. Code that wakes a futex first writes its word, then reads the count; the
/// ROS's kernel reads the word after the count was made: either of the two sees the other. One more
/// word follows, for addresses that are no multiples.
pub type FutexWaiters = [AtomicU32; (1 << 14) + 1];

/// A group's event channel. Times are in cycles of the time counter, which both sides share.
#[repr(C)]
pub struct Channel {
    /// Sequence number of the latest event; they count from 1.
    pub sequence: AtomicU64,
    /// The system call or other event that is being served, [`IDLE`] if there is none; its detail;
    /// when it began.
    pub serving: [AtomicU64; 3],
    /// Statistics by [`Kind`].
    pub kinds: [Statistics; Kind::ALL.len()],
    /// The latest events; number n is at n mod [`REMEMBERED`].
    pub events: [Event; REMEMBERED],
}

/// No event is being served.
pub const IDLE: u64 = u64::MAX;

/// Statistics of a kind of events.
#[repr(C)]
pub struct Statistics {
    /// Number of events.
    pub count: AtomicU64,
    /// How long they took together, and the longest.
    pub cycles: AtomicU64,
    /// See `cycles`.
    pub longest: AtomicU64,
    /// How many took how long, by class.
    pub classes: [AtomicU32; CLASSES],
}

/// An event that is over.
#[repr(C)]
pub struct Event {
    /// Its sequence number; 0 while it is being written.
    pub sequence: AtomicU64,
    /// Its [`Kind`].
    pub kind: AtomicU64,
    /// Its detail.
    pub detail: AtomicU64,
    /// Its result.
    pub result: AtomicU64,
    /// When it began, and how long it took.
    pub began: AtomicU64,
    /// See `began`.
    pub cycles: AtomicU64,
}

const _: () = assert!(size_of::<Group>() <= SIZE);

/// The beginning of an event, to be ended.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Begun {
    /// Its number.
    pub sequence: u64,
    /// Its kind.
    pub kind: Kind,
    /// What its kind says.
    pub detail: u64,
    /// When it began.
    pub at: u64,
}

impl Channel {
    /// Begins an event. The calls of functions contain the others, so they are not being served.
    pub fn begin(&self, kind: Kind, detail: u64, now: u64) -> Begun {
        let sequence = self.sequence.load(Ordering::Relaxed).wrapping_add(1);
        self.sequence.store(sequence, Ordering::Relaxed);
        if kind != Kind::Call {
            self.serving[1].store(detail, Ordering::Relaxed);
            self.serving[2].store(now, Ordering::Relaxed);
            self.serving[0].store(kind as u64, Ordering::Release);
        }
        Begun { sequence, kind, detail, at: now }
    }

    /// Ends an event with its result.
    pub fn end(&self, begun: Begun, result: u64, now: u64) {
        let Begun { sequence, kind, detail, at } = begun;
        let cycles = now.saturating_sub(at);
        let add = |word: &AtomicU64, amount: u64| {
            word.store(word.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
        };
        let statistics = &self.kinds[kind as usize];
        add(&statistics.count, 1);
        add(&statistics.cycles, cycles);
        if cycles > statistics.longest.load(Ordering::Relaxed) {
            statistics.longest.store(cycles, Ordering::Relaxed);
        }
        let class = &statistics.classes[(cycles.max(1).ilog2() as usize).min(CLASSES - 1)];
        class.store(class.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        let event = &self.events[sequence as usize % REMEMBERED];
        event.sequence.store(0, Ordering::Relaxed);
        let words = [&event.kind, &event.detail, &event.result, &event.began, &event.cycles];
        for (word, value) in words.into_iter().zip([kind as u64, detail, result, at, cycles]) {
            word.store(value, Ordering::Release);
        }
        event.sequence.store(sequence, Ordering::Release);
        if kind != Kind::Call {
            self.serving[0].store(IDLE, Ordering::Release);
        }
    }

    /// Reads an event; `None` if it is no longer remembered, or not over.
    pub fn event(&self, sequence: u64) -> Option<[u64; 5]> {
        let event = &self.events[sequence as usize % REMEMBERED];
        let is_it = || sequence != 0 && event.sequence.load(Ordering::Acquire) == sequence;
        is_it().then_some(())?;
        let words = [&event.kind, &event.detail, &event.result, &event.began, &event.cycles];
        let values = from_fn(|word| words[word].load(Ordering::Acquire));
        is_it().then_some(values)
    }

    /// Makes the channel that of a new group.
    pub fn clear(&self) {
        self.sequence.store(0, Ordering::Relaxed);
        self.serving[0].store(IDLE, Ordering::Relaxed);
        for statistics in &self.kinds {
            [&statistics.count, &statistics.cycles, &statistics.longest]
                .into_iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
            statistics.classes.iter().for_each(|class| class.store(0, Ordering::Relaxed));
        }
        self.events.iter().for_each(|event| event.sequence.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> Channel {
        let zero = || AtomicU64::new(0);
        let channel = Channel {
            sequence: zero(),
            serving: from_fn(|_| zero()),
            kinds: from_fn(|_| Statistics {
                count: zero(),
                cycles: zero(),
                longest: zero(),
                classes: from_fn(|_| AtomicU32::new(0)),
            }),
            events: from_fn(|_| Event {
                sequence: zero(),
                kind: zero(),
                detail: zero(),
                result: zero(),
                began: zero(),
                cycles: zero(),
            }),
        };
        channel.clear();
        channel
    }

    #[test]
    fn events_are_numbered_counted_and_remembered() {
        let channel = channel();
        for number in 0..40 {
            let begun = channel.begin(Kind::SystemCall, 39, 1000);
            assert_eq!(channel.serving[0].load(Ordering::Relaxed), Kind::SystemCall as u64);
            assert_eq!(channel.event(number + 1), None, "it is not over");
            channel.end(begun, 7, 1000 + 300 + number);
            assert_eq!(channel.serving[0].load(Ordering::Relaxed), IDLE);
        }
        let statistics = &channel.kinds[Kind::SystemCall as usize];
        assert_eq!(statistics.count.load(Ordering::Relaxed), 40);
        assert_eq!(statistics.longest.load(Ordering::Relaxed), 339);
        assert_eq!(statistics.classes[8].load(Ordering::Relaxed), 40, "2^8 to 2^9 cycles");
        assert_eq!(channel.event(40), Some([Kind::SystemCall as u64, 39, 7, 1000, 339]));
        assert_eq!(channel.event(8), None, "it is forgotten");
        assert_eq!((channel.event(9).map(|event| event[4]), channel.event(0)), (Some(308), None));
    }

    #[test]
    fn a_call_contains_the_events_of_its_function() {
        let channel = channel();
        let call = channel.begin(Kind::Call, 0x1000, 10);
        assert_eq!(channel.serving[0].load(Ordering::Relaxed), IDLE);
        let inner = channel.begin(Kind::Window, 0x2000, 20);
        channel.end(inner, 0, 30);
        channel.end(call, 0, 20_000_000_000_000);
        assert_eq!(
            (channel.event(1).map(|event| event[1]), channel.event(2).map(|event| event[1])),
            (Some(0x1000), Some(0x2000))
        );
        assert_eq!(channel.kinds[Kind::Call as usize].classes[CLASSES - 1].load(Ordering::Relaxed), 1);
    }
}
