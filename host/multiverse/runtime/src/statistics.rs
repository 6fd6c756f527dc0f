//! What `aero run --stats` prints when the program ends: what was forwarded, and how long that
//! took.

use std::arch::x86_64::_rdtsc;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use protocol::system_call;

use crate::process;

/// Numbers of system calls that are counted apart.
const NUMBERS: usize = 512;
/// Counts and cycles.
type Row = [AtomicU64; 2];

static IS_ON: AtomicBool = AtomicBool::new(false);
static CALLS: [Row; NUMBERS] = [const { [AtomicU64::new(0), AtomicU64::new(0)] }; NUMBERS];
static NATIVE: Row = [AtomicU64::new(0), AtomicU64::new(0)];
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static THREADS: AtomicU64 = AtomicU64::new(0);

/// Counts from now on.
pub fn start() {
    IS_ON.store(true, Ordering::Relaxed);
}

/// The time at which something begins that is to be counted; `None` if nothing is counted.
pub fn begin() -> Option<u64> {
    // SAFETY: every CPU that runs KVM has the instruction, and Linux allows it.
    IS_ON.load(Ordering::Relaxed).then(|| unsafe { _rdtsc() })
}

fn add(row: &Row, begun: Option<u64>) {
    if let (Some(begun), Some(now)) = (begun, begin()) {
        row[0].fetch_add(1, Ordering::Relaxed);
        row[1].fetch_add(now.saturating_sub(begun), Ordering::Relaxed);
    }
}

/// Counts a system call.
pub fn call(number: u64, begun: Option<u64>) {
    if let Some(row) = CALLS.get(number as usize) {
        add(row, begun);
    }
}

/// Counts an instruction that was executed natively.
pub fn native(begun: Option<u64>) {
    add(&NATIVE, begun);
}

/// Counts a signal that was delivered.
pub fn signal() {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Counts a thread of the program.
pub fn thread() {
    THREADS.fetch_add(1, Ordering::Relaxed);
}

/// Does what is to be done before the process ends: prints the table, and takes sockets away.
pub fn end() {
    print();
    process::hvm().remove_sockets();
}

/// Prints the table, if anything is counted.
fn print() {
    if !IS_ON.load(Ordering::Relaxed) {
        return;
    }
    let milliseconds = |cycles: u64| cycles as f64 / process::hvm().cycle_khz().max(1) as f64;
    let read = |row: &Row| row.each_ref().map(|word| word.load(Ordering::Relaxed));
    let mut rows: Vec<(u64, [u64; 2])> =
        CALLS.iter().enumerate().map(|(number, row)| (number as u64, read(row))).filter(|row| row.1[0] > 0).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.1[1]));
    let count: u64 = rows.iter().map(|row| row.1[0]).sum();
    let all: u64 = rows.iter().map(|row| row.1[1]).sum();
    let threads = THREADS.load(Ordering::Relaxed);
    let mut text = format!(
        "aero: {threads} thread{}, {count} forwarded calls, {:.1} ms in them, waiting included\n  {:<20} {:>10} {:>12} {:>8}\n",
        if threads == 1 { "" } else { "s" },
        milliseconds(all),
        "call",
        "count",
        "ms",
        "share"
    );
    for (number, [count, cycles]) in rows {
        let name = system_call::name(number).map_or_else(|| number.to_string(), str::to_string);
        let share = 100.0 * cycles as f64 / all.max(1) as f64;
        let _ = writeln!(text, "  {name:<20} {count:>10} {:>12.3} {share:>7.1}%", milliseconds(cycles));
    }
    let [count, cycles] = read(&NATIVE);
    let _ = writeln!(text, "  {count} instructions executed natively, {:.3} ms", milliseconds(cycles));
    let _ = writeln!(text, "  {} signals delivered", SIGNALS.load(Ordering::Relaxed));
    let _ = std::io::stderr().write_all(text.as_bytes());
}
