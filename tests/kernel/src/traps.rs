//! Interrupts and exceptions, which may come anywhere and must leave the interrupted code as it
//! was.

use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use kernel::arch::*;
use kernel::cpu::Cpu;
use kernel::thread::{self, Builder};
use kernel::time::spin_until;
use kernel::{call, cpu, debug, watchdog};

use crate::support::{LIMIT, eventually, join, text};
use crate::{TestResult, ensure, tests};

tests![
    a_second_nmi_waits_for_the_first,
    a_breakpoint_in_an_nmi_lets_no_other_in,
    nmis_leave_the_frame_of_a_fault_alone,
    a_preempted_thread_keeps_what_is_below_its_stack_pointer,
    vector_state_is_kept_on_any_stack,
];

/// An unmapped address: the lower half is empty, and a process maps nothing here either.
const UNMAPPED: usize = 0x10;

static TARGET: AtomicUsize = AtomicUsize::new(0);
static DEPTH: AtomicU64 = AtomicU64::new(0);
static DEEPEST: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);
static MAY_LEAVE: AtomicBool = AtomicBool::new(false);

/// Written in the NMI handler, where a breakpoint may watch it.
static WATCHED: AtomicU64 = AtomicU64::new(0);

/// An NMI handler that takes exceptions of its own, a fault and perhaps a breakpoint, neither of
/// which may let the next NMI in.
fn trap_and_hold() {
    if cpu::this_index() != TARGET.load(Ordering::SeqCst) {
        return;
    }
    let depth = DEPTH.fetch_add(1, Ordering::SeqCst) + 1;
    DEEPEST.fetch_max(depth, Ordering::SeqCst);
    let _ = AddressSpace::probe_read(UNMAPPED, &mut [0; 8]);
    WATCHED.fetch_add(1, Ordering::SeqCst);
    TAKEN.fetch_add(1, Ordering::SeqCst);
    spin_until(LIMIT, || MAY_LEAVE.load(Ordering::SeqCst));
    DEPTH.fetch_sub(1, Ordering::SeqCst);
}

fn a_second_nmi_waits_for_the_first() -> TestResult {
    let Some(other) = cpu::all().find(|cpu| cpu.index != cpu::this_index()) else { return Ok(()) };
    two_nmis_for(other)
}

fn a_breakpoint_in_an_nmi_lets_no_other_in() -> TestResult {
    let Some(other) = cpu::all().find(|cpu| cpu.index != cpu::this_index()) else { return Ok(()) };
    let watch =
        |place: Option<usize>| call::on(other.index, move || debug::faults::watch_here(place), LIMIT).map_err(text);
    watch(Some(&raw const WATCHED as usize))?;
    let result = two_nmis_for(other);
    watch(None)?;
    result
}

fn two_nmis_for(other: &Cpu) -> TestResult {
    TARGET.store(other.index, Ordering::SeqCst);
    for counter in [&DEPTH, &DEEPEST, &TAKEN] {
        counter.store(0, Ordering::SeqCst);
    }
    MAY_LEAVE.store(false, Ordering::SeqCst);
    watchdog::faults::on_samples(Some(trap_and_hold));
    Ipi::sample_others();
    let came = spin_until(LIMIT, || TAKEN.load(Ordering::SeqCst) == 1);
    Ipi::sample_others();
    // Long enough for the second NMI to arrive if it can.
    spin_until(Duration::from_millis(20), || DEEPEST.load(Ordering::SeqCst) > 1);
    MAY_LEAVE.store(true, Ordering::SeqCst);
    let came_again = spin_until(LIMIT, || TAKEN.load(Ordering::SeqCst) == 2);
    watchdog::faults::on_samples(None);
    let deepest = DEEPEST.load(Ordering::SeqCst);
    ensure!(came && came_again, "of two NMIs {} came", TAKEN.load(Ordering::SeqCst));
    ensure!(deepest == 1, "{deepest} NMIs were on one stack");
    call::on(other.index, || (), LIMIT).map_err(text)
}

fn nmis_leave_the_frame_of_a_fault_alone() -> TestResult {
    const SAMPLES: u64 = 500;
    fn probe() {
        let _ = AddressSpace::probe_read(UNMAPPED, &mut [0; 8]);
        TAKEN.fetch_add(1, Ordering::SeqCst);
    }
    let Some(other) = cpu::all().find(|cpu| cpu.index != cpu::this_index()) else { return Ok(()) };
    static PROBED: AtomicU64 = AtomicU64::new(0);
    MAY_LEAVE.store(false, Ordering::SeqCst);
    PROBED.store(0, Ordering::SeqCst);
    let prober = Builder::new("prober").cpu(other.index).spawn(|| {
        while !MAY_LEAVE.load(Ordering::SeqCst) {
            let probed = AddressSpace::probe_read(UNMAPPED, &mut [0; 8]);
            if probed.map_err(|error| error.address) != Err(UNMAPPED) {
                return false;
            }
            PROBED.fetch_add(1, Ordering::SeqCst);
        }
        true
    });
    let prober = prober.map_err(text)?;
    eventually("the other CPU probes", || PROBED.load(Ordering::SeqCst) > 0)?;
    watchdog::faults::on_samples(Some(probe));
    let mut all_came = true;
    for _ in 0..SAMPLES {
        TAKEN.store(0, Ordering::SeqCst);
        Ipi::sample_others();
        all_came &= spin_until(LIMIT, || TAKEN.load(Ordering::SeqCst) == cpu::count() as u64 - 1);
    }
    watchdog::faults::on_samples(None);
    let before = PROBED.load(Ordering::SeqCst);
    let goes_on = spin_until(LIMIT, || PROBED.load(Ordering::SeqCst) > before);
    MAY_LEAVE.store(true, Ordering::SeqCst);
    ensure!(all_came && goes_on, "the other CPU is lost after {before} probes");
    ensure!(join(prober)?, "a probe had another thing's result");
    Ok(())
}

fn a_preempted_thread_keeps_what_is_below_its_stack_pointer() -> TestResult {
    const PATTERN: u64 = 0x5a5a_1234_abcd_0001;
    static OTHER_RAN: AtomicU64 = AtomicU64::new(0);
    /// Fills the red zone, waits there until another thread has run, and counts the words that
    /// changed.
    fn wait_with_red_zone(flag: &AtomicU64) -> u64 {
        let changed: u64;
        // SAFETY: the 128 bytes below the stack pointer are unused: this block may push, so the
        // compiler keeps nothing there.
        unsafe {
            asm!(
                "mov rcx, -16",
                "2: mov [rsp + rcx * 8], {pattern}",
                "inc rcx",
                "jnz 2b",
                "3: cmp qword ptr [{flag}], 0",
                "je 3b",
                "mov rcx, -16",
                "xor {changed:e}, {changed:e}",
                "4: cmp [rsp + rcx * 8], {pattern}",
                "je 5f",
                "inc {changed}",
                "5: inc rcx",
                "jnz 4b",
                pattern = in(reg) PATTERN,
                flag = in(reg) flag,
                changed = out(reg) changed,
                out("rcx") _,
            );
        }
        changed
    }
    for _ in 0..5 {
        OTHER_RAN.store(0, Ordering::SeqCst);
        // On this CPU, so that it runs only once this thread was preempted.
        let other = thread::spawn("other", || OTHER_RAN.store(1, Ordering::SeqCst)).map_err(text)?;
        let changed = wait_with_red_zone(&OTHER_RAN);
        join(other)?;
        ensure!(changed == 0, "{changed} words below the stack pointer have changed");
    }
    Ok(())
}

fn vector_state_is_kept_on_any_stack() -> TestResult {
    extern "C" fn nothing(_: usize) {}
    #[inline(never)]
    fn leave_behind(byte: u8) -> u8 {
        let rubbish = black_box([byte; 6 * 1024]);
        black_box(&rubbish)[17]
    }
    for byte in [0xff, 0x01, 0x80] {
        let left = leave_behind(byte);
        Vectors::keep(nothing, 0);
        ensure!(left == byte, "{left}");
    }
    Ok(())
}
