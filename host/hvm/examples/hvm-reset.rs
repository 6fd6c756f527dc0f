//! Resets a hybrid runtime (HRT) over and over, whatever it does, and checks that it works each
//! time and that nothing is left over. The project's tests run it: `hvm-reset IMAGE [CYCLES]`.

use std::error::Error;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hvm::{CallError, End, Hvm};

type Checked = Result<(), Box<dyn Error>>;

const LIMIT: Duration = Duration::from_secs(30);
/// Cycles unless others are asked for.
const CYCLES: u32 = 60;

static MAY_END: AtomicBool = AtomicBool::new(false);

/// Checks one thing, and says which.
fn check(what: &str, holds: bool) -> Checked {
    println!("{}: {what}", if holds { "right" } else { "WRONG" });
    if holds { Ok(()) } else { Err(what.into()) }
}

/// Open files, threads, and memory in pages of this process.
fn resources() -> Result<[u64; 3], Box<dyn Error>> {
    let count = |path: &str| fs::read_dir(path).map_or(0, Iterator::count) as u64;
    let pages = fs::read_to_string("/proc/self/statm")?;
    let resident = pages.split_whitespace().nth(1).ok_or("Linux does not tell the memory used")?.parse()?;
    Ok([count("/proc/self/fd"), count("/proc/self/task"), resident])
}

extern "C" fn double(argument: u64, _: u64) -> u64 {
    // Of the process, as the thread that calls has it.
    String::from("ab").repeat(argument as usize).len() as u64
}

extern "C" fn loop_until_told(_: u64, _: u64) -> u64 {
    while !MAY_END.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    7
}

extern "C" fn fault(_: u64, _: u64) -> u64 {
    let nothing = [0_u8; 10];
    // SAFETY: none; it ends the HRT.
    unsafe { std::arch::asm!("cli", "lidt [{}]", "ud2", in(reg) &nothing) };
    0
}

/// Uses an HRT that was just booted in all ways.
fn use_all(hrt: &Hvm, cycle: u64) -> Result<bool, CallError> {
    // SAFETY: the functions do what ordinary code does.
    unsafe {
        let before = hrt.call(double, 1);
        hrt.merge()?;
        let called = hrt.call(double, cycle)?;
        let all = hrt.call_all(double, cycle)?;
        let alone = hrt.call_alone(loop_until_told, 0)?;
        Ok(before == Err(CallError::NotMerged) && called == 2 * cycle && all == [2 * cycle; 2] && alone == 7)
    }
}

fn whatever_it_does_it_can_be_reset(hrt: &mut Hvm, image: &[u8]) -> Checked {
    // SAFETY: the functions are what is tested.
    unsafe {
        hrt.merge()?;
        let crashed = hrt.call(fault, 0);
        check("a kernel crashes", matches!(crashed, Err(CallError::Ended(End::Crashed { .. }))))?;
    }
    hrt.reset(image)?;
    check("it can be reset after a crash", use_all(hrt, 3)?)?;
    MAY_END.store(false, Ordering::Relaxed);
    std::thread::scope(|scope| {
        // SAFETY: as above.
        let call = scope.spawn(|| unsafe { hrt.call(loop_until_told, 0) });
        std::thread::sleep(Duration::from_millis(50));
        hrt.stop();
        check("a call that goes on ends with a stop", call.join().ok() == Some(Err(CallError::Ended(End::Stopped))))
    })?;
    MAY_END.store(true, Ordering::Relaxed);
    hrt.reset(image)?;
    check("it can be reset after that", use_all(hrt, 4)?)?;
    check("what is no image is refused", hrt.reset(b"none").is_err())?;
    check("the HRT goes on then", use_all_again(hrt)?)?;
    let other = Hvm::builder(image).memory(32 << 20).boot()?;
    check("another one does not disturb it", use_all_again(hrt)?)?;
    drop(other);
    Ok(())
}

fn use_all_again(hrt: &Hvm) -> Result<bool, CallError> {
    // SAFETY: the function does what ordinary code does.
    unsafe { Ok(hrt.call(double, 9)? == 18 && hrt.call_all(double, 9)? == [18; 2]) }
}

fn main() -> Checked {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("the image is missing: hvm-reset IMAGE [CYCLES]")?;
    let cycles: u32 = arguments.next().map_or(Ok(CYCLES), |cycles| cycles.parse())?;
    let image = fs::read(&path).map_err(|error| format!("{path} cannot be read: {error}"))?;
    let nothing = resources()?;
    MAY_END.store(true, Ordering::Relaxed);
    let mut hrt = Hvm::builder(&image).cpus(2).memory(32 << 20).limit(LIMIT).share().boot()?;
    check("an HRT works", use_all(&hrt, 1)?)?;
    whatever_it_does_it_can_be_reset(&mut hrt, &image)?;
    let before = resources()?;
    let start = Instant::now();
    for cycle in 0..cycles {
        hrt.reset(&image)?;
        if !use_all(&hrt, cycle.into())? {
            return Err(format!("cycle {cycle} went wrong").into());
        }
    }
    println!("{cycles} resets took {:?}", start.elapsed());
    let after = resources()?;
    println!("files, threads, pages: {nothing:?} without an HRT, {before:?} before, {after:?} afterwards");
    check("no file and no thread is left over", after[..2] == before[..2])?;
    check("no memory is left over", after[2] < before[2] + 512)?;
    drop(hrt);
    let left = resources()?;
    check(&format!("nothing is left of the HRT: {left:?}"), left[..2] == nothing[..2])?;
    println!("all is right");
    Ok(())
}
