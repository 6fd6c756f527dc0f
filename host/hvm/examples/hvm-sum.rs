//! Sums numbers that Linux has in memory, in place, on the CPUs of a hybrid runtime (HRT), and
//! compares the result with Linux's own.
//!
//! `./aero hvm demo` builds and runs it. By hand: `hvm-sum IMAGE [CPUS [MIB]]`.

use std::error::Error;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hvm::Hvm;

/// What the HRT's CPUs share with Linux: the very same memory.
struct Work {
    numbers: Vec<u64>,
    cpus: u64,
    /// How many CPUs have done their share.
    done: AtomicU64,
}

/// Runs in the HRT: sums the share of one CPU.
extern "C" fn sum_of_share(work: u64, cpu: u64) -> u64 {
    // SAFETY: Linux passes the address of its `Work`, which lives until all CPUs have answered; the
    // address spaces are merged.
    let work = unsafe { &*(work as *const Work) };
    let share = work.numbers.len().div_ceil(work.cpus as usize);
    let start = (share * cpu as usize).min(work.numbers.len());
    let end = (start + share).min(work.numbers.len());
    let sum = work.numbers[start..end].iter().fold(0, |sum: u64, number| sum.wrapping_add(*number));
    work.done.fetch_add(1, Ordering::Relaxed);
    sum
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let image = arguments.next().ok_or("the image is missing: hvm-sum IMAGE [CPUS [MIB]]")?;
    let cpus: u32 = arguments.next().map_or(Ok(2), |cpus| cpus.parse())?;
    let mib: usize = arguments.next().map_or(Ok(64), |mib| mib.parse())?;

    let numbers: Vec<u64> = (0..mib << 17).map(|number| number as u64 * 0x9e37_79b9_7f4a_7c15).collect();
    let expected = numbers.iter().fold(0, |sum: u64, number| sum.wrapping_add(*number));
    println!("Linux has {} numbers, {mib} MiB of them, whose sum is {expected:#018x}", numbers.len());

    let image = std::fs::read(&image).map_err(|error| format!("{image} cannot be read: {error}"))?;
    let start = Instant::now();
    let hrt = Hvm::builder(&image).cpus(cpus).memory(32 << 20).command_line("panic=exit").boot()?;
    println!("an HRT with {cpus} CPUs was started in {:?}", start.elapsed());

    let work = Work { numbers, cpus: cpus.into(), done: AtomicU64::new(0) };
    let start = Instant::now();
    // SAFETY: the HRT is our own kernel, and calls what is called below only.
    unsafe { hrt.merge()? };
    println!("its kernel booted, and the address spaces were merged, in {:?}", start.elapsed());

    for round in ["first, when the HRT touches each page for the first time", "again"] {
        let start = Instant::now();
        let address = &raw const work as u64;
        // SAFETY: the function makes no system call, uses no thread-local variable, and little
        // stack.
        let sums = unsafe { hrt.call_all(sum_of_share, black_box(address))? };
        let sum = sums.iter().fold(0, |sum: u64, share| sum.wrapping_add(*share));
        println!("the HRT's sum is {sum:#018x}, in {:?} ({round})", start.elapsed());
        if sum != expected {
            return Err("the sums differ".into());
        }
    }
    println!("the same; {} shares were done, as Linux sees", work.done.load(Ordering::Relaxed));
    println!("{}", hrt.stop());
    Ok(())
}
