//! Measures what it costs to go from a process to its hybrid runtime (HRT) and back.
//!
//! `aero hvm bench` builds and runs it. By hand: `hvm-bench IMAGE`. Figures are in cycles of the
//! time counter: in an emulated Linux that counts instructions (`aero ros --icount`) these are
//! instructions of the whole machine.

use std::arch::asm;
use std::arch::x86_64::_rdtsc;
use std::error::Error;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::Duration;

use hvm::Hvm;

type Checked = Result<(), Box<dyn Error>>;

const PAGE: usize = 4096;
const GIB: u64 = 1 << 30;
/// Pages to touch, 4 MiB.
const PAGES: usize = 1024;
/// Where windows are opened that the process does not have otherwise.
const FAR_AWAY: u64 = 0x2000_0000_0000;

fn now() -> u64 {
    // SAFETY: every CPU that runs KVM has the instruction.
    unsafe { _rdtsc() }
}

/// CPU time that the process has used, in ns, without what it waited.
fn used() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: Linux writes the time to the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Smallest and median duration of a number of runs.
fn measure<E>(runs: usize, mut run: impl FnMut() -> Result<(), E>) -> Result<(u64, u64), E> {
    let mut durations = Vec::new();
    for _ in 0..runs {
        let start = now();
        run()?;
        durations.push(now() - start);
    }
    durations.sort_unstable();
    Ok((durations[0], durations[runs / 2]))
}

fn row(what: &str, (least, median): (u64, u64)) {
    println!("{what:<62} {least:>12} {median:>12}");
}

extern "C" fn nothing(_: u64, _: u64) -> u64 {
    0
}

/// A downcall that does nothing (Palacios's null call), many times; the medians go to the results.
extern "C" fn null_downcalls(results: u64, _: u64) -> u64 {
    // SAFETY: the caller passes the address of its results.
    let results = unsafe { &mut *(results as *mut (u64, u64)) };
    let measured = measure(1000, || {
        // SAFETY: the monitor changes RAX only; RBX is LLVM's.
        unsafe {
            asm!(
                "xchg {mark}, rbx", "out 0xdc, eax", "xchg {mark}, rbx",
                mark = inout(reg) 0x6464_6464_6464_6464_u64 => _, inout("rax") 0xf00d_u64 => _, in("rcx") 0_u64,
            );
        }
        Ok::<(), ()>(())
    });
    *results = measured.unwrap_or_default();
    0
}

/// getppid, by the instruction SYSCALL.
fn getppid() -> Result<(), ()> {
    // SAFETY: the call only returns a number.
    unsafe {
        let number = libc::SYS_getppid;
        asm!("syscall", inout("rax") number => _, out("rcx") _, out("r11") _, options(nostack));
    }
    Ok(())
}

/// getpid, likewise.
fn getpid() -> Result<(), ()> {
    // SAFETY: the call only returns a number.
    unsafe {
        let number = libc::SYS_getpid;
        asm!("syscall", inout("rax") number => _, out("rcx") _, out("r11") _, options(nostack));
    }
    Ok(())
}

extern "C" fn own_process(results: u64, _: u64) -> u64 {
    // SAFETY: the caller passes the address of its results.
    let results = unsafe { &mut *(results as *mut (u64, u64)) };
    *results = measure(1000, getpid).unwrap_or_default();
    0
}

extern "C" fn system_calls(results: u64, _: u64) -> u64 {
    // SAFETY: the caller passes the address of its results.
    let results = unsafe { &mut *(results as *mut (u64, u64)) };
    *results = measure(1000, getppid).unwrap_or_default();
    0
}

/// Writes to each page of a mapping of `PAGES`; returns what a page takes.
extern "C" fn touch(at: u64, _: u64) -> u64 {
    let start = now();
    for page in 0..PAGES {
        // SAFETY: the caller passes the address of a mapping of so many pages.
        unsafe { ((at as usize + page * PAGE) as *mut u8).write_volatile(1) };
    }
    (now() - start) / PAGES as u64
}

/// Maps memory, at an address if that is not 0.
fn map(at: u64, size: usize) -> u64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
    // SAFETY: a new mapping changes no memory in use.
    unsafe { libc::mmap(at as *mut libc::c_void, size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) as u64 }
}

/// A mapping of 4 MiB, aligned to 2 MiB, with huge pages or without.
fn pages(advice: i32) -> u64 {
    let size = PAGES * PAGE;
    let at = map(0, 2 * size).next_multiple_of(2 << 20);
    // SAFETY: the mapping is new.
    unsafe { libc::madvise(at as *mut libc::c_void, size, advice) };
    at
}

fn start_up(image: &[u8]) -> Checked {
    let (mut to_first, mut to_merged) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let start = used();
        let hrt = Hvm::builder(image).memory(32 << 20).command_line("panic=exit").boot()?;
        while hrt.take_characters().is_empty() {
            std::thread::sleep(Duration::from_micros(20));
        }
        to_first.push(used() - start);
        // SAFETY: the HRT is our own kernel.
        unsafe { hrt.merge()? };
        to_merged.push(used() - start);
        drop(hrt);
    }
    to_first.sort_unstable();
    to_merged.sort_unstable();
    row("opening KVM to the HRT's first character, ns of CPU time", (to_first[0], to_first[2]));
    row("opening KVM to a kernel that has booted and merged, likewise", (to_merged[0], to_merged[2]));
    let process =
        measure(5, || Command::new("/proc/self/exe").arg("--nothing").stdout(Stdio::null()).status().map(|_| ()))?;
    row("  beside: fork, exec and wait of this program", process);
    Ok(())
}

/// Resets of a machine that is kept.
fn resets(image: &[u8]) -> Checked {
    let mut hrt = Hvm::builder(image).memory(32 << 20).command_line("panic=exit").boot()?;
    let (mut to_first, mut to_merged) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let start = used();
        hrt.reset(image)?;
        while hrt.take_characters().is_empty() {
            std::thread::sleep(Duration::from_micros(20));
        }
        to_first.push(used() - start);
        // SAFETY: the HRT is our own kernel.
        unsafe { hrt.merge()? };
        to_merged.push(used() - start);
    }
    to_first.sort_unstable();
    to_merged.sort_unstable();
    row("reset of an HRT to its first character, ns of CPU time", (to_first[0], to_first[2]));
    row("reset to a kernel that has booted and merged, likewise", (to_merged[0], to_merged[2]));
    Ok(())
}

fn calls(hrt: &Hvm) -> Checked {
    let mut results = (0_u64, 0_u64);
    let address = &raw mut results as u64;
    // SAFETY: the functions do what ordinary code does.
    unsafe {
        hrt.call(null_downcalls, address)?;
        row("null call, from the HRT", black_box(results));
        row("call of a function in the HRT", measure(1000, || hrt.call(nothing, 0).map(|_| ()))?);
        row(
            "call on a thread of the HRT (interrupt and wake-up)",
            measure(200, || hrt.call_alone(nothing, 0).map(|_| ()))?,
        );
        row("parallel call, 2 threads", measure(200, || hrt.call_all(nothing, 0).map(|_| ()))?);
        row(
            "parallel call on threads of 2 CPUs of the HRT",
            measure(200, || hrt.call_all_alone(nothing, 0).map(|_| ()))?,
        );
        row("getppid, in the process", measure(1000, getppid).unwrap_or_default());
        hrt.call(system_calls, address)?;
        row("getppid, forwarded from the HRT", black_box(results));
        hrt.call(own_process, address)?;
        row("getpid, answered in the HRT", black_box(results));
    }
    Ok(())
}

/// Calls by words that both sides poll. They need a CPU for each side.
fn synchronous_calls(hrt: &Hvm) -> Checked {
    if std::thread::available_parallelism()?.get() < 2 {
        println!("synchronous calls: not measured, there is one CPU");
        return Ok(());
    }
    let mut results = (0_u64, 0_u64);
    let address = &raw mut results as u64;
    // SAFETY: the functions do what ordinary code does.
    unsafe {
        let mut synchronous = hrt.synchronize()?;
        row("synchronous call", measure(1000, || synchronous.call(nothing, 0).map(|_| ()))?);
        synchronous.call(system_calls, address)?;
        row("getppid, forwarded in a synchronous call", black_box(results));
    }
    Ok(())
}

fn memory(hrt: &Hvm) -> Checked {
    // SAFETY: the functions do what ordinary code does.
    unsafe {
        let mut merged = Vec::new();
        for _ in 0..20 {
            hrt.unmerge()?;
            let start = now();
            hrt.merge()?;
            merged.push(now() - start);
        }
        merged.sort_unstable();
        row("merge, all windows known", (merged[0], merged[10]));
        let mut number = 0;
        let opened = measure(10, || {
            number += 1;
            let at = map(FAR_AWAY + number * GIB, PAGE);
            hrt.call(touch_one, at).map(|_| ())
        })?;
        row("first touch of a page in a new window of 1 GiB", opened);
        let same = measure(10, || {
            let at = map(FAR_AWAY + GIB + (number + 1) * (4 << 20), PAGE);
            number += 1;
            hrt.call(touch_one, at).map(|_| ())
        })?;
        row("  the same in a window that is open", same);
        for (what, advice) in [("4 KiB", libc::MADV_NOHUGEPAGE), ("huge", libc::MADV_HUGEPAGE)] {
            let natively = touch(pages(advice), 0);
            row(&format!("first touch, {what} pages, per 4 KiB, in the process"), (natively, natively));
            let at = pages(advice);
            let in_hrt = hrt.call(touch, at)?;
            row(&format!("first touch, {what} pages, per 4 KiB, in the HRT"), (in_hrt, in_hrt));
            let again = hrt.call(touch, at)?;
            row(&format!("touch again, {what} pages, per 4 KiB, in the HRT"), (again, again));
        }
    }
    Ok(())
}

extern "C" fn touch_one(at: u64, _: u64) -> u64 {
    // SAFETY: the caller passes the address of a page.
    unsafe { (at as *mut u8).write_volatile(1) };
    0
}

fn main() -> Checked {
    let argument = std::env::args().nth(1).ok_or("the image is missing: hvm-bench IMAGE")?;
    if argument == "--nothing" {
        return Ok(());
    }
    let image = std::fs::read(&argument).map_err(|error| format!("{argument} cannot be read: {error}"))?;
    println!("{:<62} {:>12} {:>12}", "cycles of the time counter", "least", "median");
    start_up(&image)?;
    resets(&image)?;
    let hrt = Hvm::builder(&image).cpus(2).memory(64 << 20).limit(Duration::from_secs(60)).command_line("panic=exit");
    let hrt = hrt.boot()?;
    // SAFETY: the HRT is our own kernel.
    unsafe { hrt.merge()? };
    calls(&hrt)?;
    synchronous_calls(&hrt)?;
    memory(&hrt)?;
    println!("{}", hrt.stop());
    Ok(())
}
