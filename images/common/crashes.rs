//! Crashes that strain the crash report, for testing it.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use console::{CommandError, CommandResult, Context};
use kernel::arch::*;
use kernel::time::spin_until;
use kernel::{cpu, thread};

/// The ways to crash, as the command names them.
pub const KINDS: &[&str] = &["frames", "probing"];

/// An address in the lower half, where nothing is mapped.
const UNMAPPED: usize = 0x1234_5678_0000;
const START_LIMIT: Duration = Duration::from_secs(10);

/// Executes the command `crash`.
pub fn crash(context: &mut Context<'_>) -> CommandResult {
    match context.arguments {
        ["frames"] => crash_with_broken_frames(),
        ["probing"] => crash_while_others_probe(),
        _ => Err(CommandError::usage("crash needs one of: frames, probing")),
    }
}

/// Faults with a broken frame pointer, so that the report has to probe for frames where there are
/// none.
fn crash_with_broken_frames() -> ! {
    // SAFETY: the block does not return, so the broken RBP reaches no compiled code; the exception
    // handler must tolerate it.
    unsafe { core::arch::asm!("mov rbp, {}", "ud2", in(reg) UNMAPPED, options(noreturn)) }
}

/// Crashes while the other CPUs handle page faults, and so stops them in the middle.
fn crash_while_others_probe() -> CommandResult {
    static PROBING: AtomicUsize = AtomicUsize::new(0);
    for cpu in cpu::all().filter(|cpu| !cpu.is_this()) {
        let prober = thread::Builder::new("prober").cpu(cpu.index).spawn(|| {
            PROBING.fetch_add(1, Ordering::SeqCst);
            loop {
                let _ = AddressSpace::probe_read(UNMAPPED, &mut [0; 8]);
            }
        });
        prober.map_err(CommandError::failed)?.detach();
    }
    if !spin_until(START_LIMIT, || PROBING.load(Ordering::SeqCst) == cpu::count() - 1) {
        return Err(CommandError::failed("not all CPUs began to probe"));
    }
    panic!("while others probe")
}
