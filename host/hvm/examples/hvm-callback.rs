//! Functions that run in a hybrid runtime (HRT) and call back: they print, allocate, read files and
//! the clock, and use thread-local variables, as in the process itself.
//!
//! `hvm-callback IMAGE`

use std::cell::Cell;
use std::error::Error;
use std::io::Write;
use std::time::Instant;

use hvm::Hvm;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Runs in the HRT: everything that this needs of Linux, the calling thread does.
extern "C" fn work(argument: u64, _: u64) -> u64 {
    let start = Instant::now();
    CALLS.with(|calls| calls.set(calls.get() + 1));
    let text = format!("{argument} is seen in ring {} by process {}", ring(), std::process::id());
    println!("{text}");
    let version = std::fs::read_to_string("/proc/sys/kernel/ostype").unwrap_or_default();
    let half = argument as f64 / 2.0;
    println!("  beside {}, half of it is {half:.2}, after {:?}", version.trim(), start.elapsed());
    text.len() as u64
}

/// The CPU's privilege level: 3 in a process, 0 in the kernel's mode (SDM Vol. 3A, 5.5).
fn ring() -> u64 {
    let selector: u64;
    // SAFETY: the instruction only reads a register.
    unsafe { std::arch::asm!("mov {}, cs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector & 3
}

fn main() -> Result<(), Box<dyn Error>> {
    let image = std::env::args().nth(1).ok_or("the image is missing: hvm-callback IMAGE")?;
    let image = std::fs::read(&image).map_err(|error| format!("{image} cannot be read: {error}"))?;
    let hrt = Hvm::builder(&image).memory(32 << 20).command_line("panic=exit").boot()?;
    // SAFETY: the HRT is our own kernel, and the function is an ordinary one.
    unsafe {
        hrt.merge()?;
        let here = work(42, 0);
        let there = hrt.call(work, 42)?;
        let again = hrt.call(work, 4242)?;
        std::io::stdout().flush()?;
        println!("{here}, {there}, {again}; this thread made {} calls", CALLS.get());
        let start = Instant::now();
        for _ in 0..1000 {
            hrt.call(nothing, 0)?;
        }
        println!("1,000 calls took {:?}", start.elapsed());
        let start = Instant::now();
        hrt.call(call_linux, 1000)?;
        println!("1,000 system calls took {:?}", start.elapsed());
    }
    println!("{}", hrt.stop());
    Ok(())
}

extern "C" fn nothing(_: u64, _: u64) -> u64 {
    0
}

extern "C" fn call_linux(count: u64, _: u64) -> u64 {
    (0..count).map(|_| u64::from(std::os::unix::process::parent_id())).sum()
}
