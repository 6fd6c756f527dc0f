//! Crashes that are hard on the crash report, for its tests.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use console::{CommandError, CommandResult, Context};
use kernel::arch::{Architecture, Machine};
use kernel::time::spin_until;
use kernel::{cpu, thread};

/// Ways to crash, as the command takes them.
pub const KINDS: &[&str] = &["frames", "probing"];

/// Nothing is mapped in the lower half.
const UNMAPPED: usize = 0x1234_5678_0000;
const START_LIMIT: Duration = Duration::from_secs(10);

/// The command `crash`.
pub fn crash(context: &mut Context<'_>) -> CommandResult {
    match context.arguments {
        ["frames"] => crash_with_broken_frames(),
        ["probing"] => crash_while_others_probe(),
        _ => Err(CommandError::usage("crash needs one of: frames, probing")),
    }
}

/// A fault whose report has to probe for frames where there are none.
fn crash_with_broken_frames() -> ! {
    // SAFETY: crashing is what it is for.
    unsafe { core::arch::asm!("mov rbp, {}", "ud2", in(reg) UNMAPPED, options(noreturn)) }
}

/// Stops the other CPUs in the middle of page faults.
fn crash_while_others_probe() -> CommandResult {
    static PROBING: AtomicUsize = AtomicUsize::new(0);
    for cpu in cpu::all().filter(|cpu| !cpu.is_this()) {
        let prober = thread::Builder::new("prober").cpu(cpu.index).spawn(|| {
            PROBING.fetch_add(1, Ordering::SeqCst);
            loop {
                let _ = Machine::probe_read(UNMAPPED, &mut [0; 8]);
            }
        });
        prober.map_err(CommandError::failed)?.detach();
    }
    if !spin_until(START_LIMIT, || PROBING.load(Ordering::SeqCst) == cpu::count() - 1) {
        return Err(CommandError::failed("not all CPUs began to probe"));
    }
    panic!("while others probe")
}
