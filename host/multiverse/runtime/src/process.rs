//! What the threads of the program share.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use hvm::Hvm;
use wire::console::REPORT_END;

static HVM: OnceLock<Hvm> = OnceLock::new();

/// Keeps the HRT for as long as the process lives.
pub fn keep(hvm: Hvm) {
    let _ = HVM.set(hvm);
}

/// The HRT.
pub fn hvm() -> &'static Hvm {
    match HVM.get() {
        Some(hvm) => hvm,
        None => fail("the HRT is not there"),
    }
}

/// Threads of the program.
static THREADS: AtomicU64 = AtomicU64::new(0);

/// Reserves a place in the HRT for a thread of the program. Returns false if there is none.
pub fn reserve() -> bool {
    let most = hvm().most_groups();
    let taken = THREADS.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| (count < most).then_some(count + 1));
    taken.is_ok()
}

/// How many threads the program has.
pub fn threads() -> u64 {
    THREADS.load(Ordering::Relaxed)
}

/// Gives a place back. Returns whether it was the last one.
pub fn leave() -> bool {
    THREADS.fetch_sub(1, Ordering::AcqRel) == 1
}

/// What a program may ask for and does not get.
#[derive(Clone, Copy)]
pub enum Refused {
    /// That its system calls are filtered.
    Filters,
    /// Another thread, where the HRT has no place for one.
    Thread,
}

/// Refuses what a program asks for, with an error number, and says so once.
pub fn refuse(what: Refused, error: i32) -> i64 {
    static SAID: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];
    if !SAID[what as usize].swap(true, Ordering::Relaxed) {
        let why = match what {
            Refused::Filters => "filters of system calls (seccomp), which would stop the runtime's own".to_string(),
            Refused::Thread => format!("more than {} threads at a time", hvm().most_groups()),
        };
        let _ = writeln!(std::io::stderr(), "aero: a program in the HRT cannot have {why}; it gets an error");
    }
    -i64::from(error)
}

/// Ends the process, because it cannot go on.
pub fn fail(why: &(impl std::fmt::Display + ?Sized)) -> ! {
    let _ = writeln!(std::io::stderr(), "aero: the program cannot go on in the HRT: {why}");
    // SAFETY: the call ends the process.
    unsafe { libc::_exit(1) }
}

/// How long the HRT's report of a crash is waited for, and how often it is looked for.
const REPORT_LIMIT: Duration = Duration::from_secs(2);
const REPORT_INTERVAL: Duration = Duration::from_millis(10);

/// Ends the process because the HRT has ended, with what its console says of that.
pub fn fail_with_hrt(why: &dyn std::fmt::Display) -> ! {
    // Another thread that fails too waits here until the process ends.
    static FAILING: Mutex<()> = Mutex::new(());
    let _failing = FAILING.lock();
    if let Some(hvm) = HVM.get() {
        let _ = std::io::stderr().write_all(&report(hvm));
    }
    fail(why)
}

/// What the HRT has written, up to the end of its report if it has crashed.
fn report(hvm: &Hvm) -> Vec<u8> {
    let (mut said, deadline) = (hvm.take_characters(), Instant::now() + REPORT_LIMIT);
    let Ok(console) = hvm.console() else { return said };
    loop {
        said.extend(console.receive().unwrap_or_default());
        said.extend(hvm.take_characters());
        let is_whole = String::from_utf8_lossy(&said).contains(REPORT_END);
        if is_whole || hvm.crashed().is_none() || Instant::now() > deadline {
            return said;
        }
        std::thread::sleep(REPORT_INTERVAL);
    }
}
