//! Waiting for words of the ROS's memory: what the ROS's code has in the HRT in place of futexes.
//! Only threads of execution groups wait here; those in Linux wait there, and code that wakes has
//! to look in both places.

use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use kernel::arch::*;
use kernel::lock::SpinLock;
use kernel::time::{self, Deadline};
use kernel::wait::Event;
use platform::ros_code::group_here;
use protocol::group::{Group, waited};

use crate::polling::{self, HAVE_POLLED, MOST};

/// Lists of waits.
const LISTS: usize = 64;
/// No group.
const NONE: u16 = u16::MAX;

/// The wait of a group's thread.
struct Wait {
    /// The word's address; 0 if the wait is in no list.
    word: AtomicUsize,
    /// The next one in its list.
    next: AtomicU16,
    /// Counts the group's waits.
    number: AtomicU64,
    is_woken: AtomicBool,
    event: Event,
}

/// Waits in the order in which they began, by their groups. A list's lock guards the words and the
/// links of the waits in it.
struct List {
    first: u16,
    last: u16,
}

static WAITS: [Wait; MOST] = [const {
    Wait {
        word: AtomicUsize::new(0),
        next: AtomicU16::new(NONE),
        number: AtomicU64::new(0),
        is_woken: AtomicBool::new(false),
        event: Event::new(),
    }
}; MOST];
static TABLE: [SpinLock<List>; LISTS] = [const { SpinLock::new(List { first: NONE, last: NONE }) }; LISTS];

/// The list for a word, by its address.
fn list_of(word: usize) -> &'static SpinLock<List> {
    // The golden ratio's fraction spreads neighbours (Knuth, The Art of Computer Programming, 6.4).
    &TABLE[(word >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (usize::BITS - LISTS.ilog2())]
}

impl List {
    fn push(&mut self, group: u16) {
        WAITS[usize::from(group)].next.store(NONE, Ordering::Relaxed);
        match self.last {
            NONE => self.first = group,
            last => WAITS[usize::from(last)].next.store(group, Ordering::Relaxed),
        }
        self.last = group;
    }

    /// Takes out the first wait that satisfies a condition.
    fn take(&mut self, is_wanted: impl Fn(u16, &Wait) -> bool) -> Option<&'static Wait> {
        let (mut before, mut at) = (NONE, self.first);
        while at != NONE {
            let wait = &WAITS[usize::from(at)];
            let next = wait.next.load(Ordering::Relaxed);
            if is_wanted(at, wait) {
                match before {
                    NONE => self.first = next,
                    before => WAITS[usize::from(before)].next.store(next, Ordering::Relaxed),
                }
                if next == NONE {
                    self.last = before;
                }
                wait.word.store(0, Ordering::Relaxed);
                return Some(wait);
            }
            (before, at) = (at, next);
        }
        None
    }
}

/// The wait of the calling thread's group.
fn own() -> Option<(&'static Group, u16, &'static Wait)> {
    let (group, number) = group_here()?;
    WAITS.get(number).map(|wait| (group, number as u16, wait))
}

/// Takes a group's wait out of its list. Returns false if it is in none.
fn leave(group: u16, wait: &Wait) -> bool {
    let word = wait.word.load(Ordering::Relaxed);
    word != 0 && list_of(word).lock().take(|at, _| at == group).is_some()
}

/// See [`protocol::group::function::WAIT_BEGIN`].
pub extern "C" fn begin(word: &AtomicU32, value: u32) -> u64 {
    let Some((_, group, wait)) = own() else { return 0 };
    // One is left if a signal's handler waits within another wait, which then ends.
    leave(group, wait);
    wait.is_woken.store(false, Ordering::Relaxed);
    wait.event.reset();
    let number = wait.number.load(Ordering::Relaxed) + 1;
    wait.number.store(number, Ordering::Relaxed);
    let at = core::ptr::from_ref(word) as usize;
    let mut list = list_of(at).lock();
    if word.load(Ordering::SeqCst) != value {
        return 0;
    }
    wait.word.store(at, Ordering::Relaxed);
    list.push(group);
    number
}

/// See [`protocol::group::function::WAIT_END`].
pub extern "C" fn end(number: u64, deadline: u64, stop: &AtomicU32) -> u64 {
    let Some((group, index, wait)) = own() else { return waited::INTERRUPTED };
    if wait.number.load(Ordering::Relaxed) != number {
        return waited::INTERRUPTED;
    }
    // Either this thread sees the word that stops it, or `look_again` sees its wait.
    fence(Ordering::SeqCst);
    let control = Vectors::control();
    let outcome = sleep((group, index, wait), deadline, stop);
    Vectors::set_control(control);
    // Who wakes it takes it out of its list first.
    if outcome != waited::WOKEN && !leave(index, wait) { waited::WOKEN } else { outcome }
}

fn sleep((group, index, wait): (&Group, u16, &Wait), deadline: u64, stop: &AtomicU32) -> u64 {
    let is_over = || match wait.is_woken.load(Ordering::Acquire) {
        true => Some(waited::WOKEN),
        false if group.is_wanted.load(Ordering::Acquire) != 0 => Some(waited::INTERRUPTED),
        false => (stop.load(Ordering::SeqCst) != 0).then_some(waited::INTERRUPTED),
    };
    let deadline = if deadline == u64::MAX { Deadline::NEVER } else { Deadline::at_ns(deadline) };
    // Before the thread blocks, because then it would have to be woken by an interrupt.
    let (began, limit) = (time::cycles(), polling::cycles(kernel::cpu::this_index()));
    while time::cycles().wrapping_sub(began) < limit && !deadline.has_passed() {
        if let Some(outcome) = is_over() {
            return outcome;
        }
        core::hint::spin_loop();
    }
    HAVE_POLLED[usize::from(index)].store(true, Ordering::Relaxed);
    let outcome = loop {
        if let Some(outcome) = is_over() {
            break outcome;
        }
        if wait.event.wait_until(deadline).is_err() {
            break waited::TIMED_OUT;
        }
    };
    HAVE_POLLED[usize::from(index)].store(false, Ordering::Relaxed);
    outcome
}

/// See [`protocol::group::function::WAKE`].
pub extern "C" fn wake(word: usize, most: u64) -> u64 {
    let mut list = list_of(word).lock();
    let mut woken = 0;
    while woken < most {
        let Some(wait) = list.take(|_, wait| wait.word.load(Ordering::Relaxed) == word) else { break };
        wait.is_woken.store(true, Ordering::Release);
        wait.event.signal();
        woken += 1;
    }
    woken
}

/// See [`protocol::group::function::LOOK_AGAIN`].
pub extern "C" fn look_again() {
    fence(Ordering::SeqCst);
    WAITS.iter().filter(|wait| wait.word.load(Ordering::Relaxed) != 0).for_each(|wait| wait.event.signal());
}

/// Has the wait of the group whose CPU this is look again at whether its partner wants it. Returns
/// false on the HRT's own CPUs.
pub fn look_again_here() -> bool {
    let own = own();
    own.iter().for_each(|(_, _, wait)| wait.event.signal());
    own.is_some()
}
