//! What the threads of the program share.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use hvm::Hvm;

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

/// Ends the process, because it cannot go on.
pub fn fail(why: &(impl std::fmt::Display + ?Sized)) -> ! {
    let _ = writeln!(std::io::stderr(), "aero: the program cannot go on in the HRT: {why}");
    // SAFETY: the call ends the process.
    unsafe { libc::_exit(1) }
}

/// Says something, unless that was done before, and goes on.
pub fn say_once<T>(what: &str, then: impl FnOnce() -> T) -> T {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        let _ = writeln!(std::io::stderr(), "aero: {what}");
    }
    then()
}
