//! Computes with x87, SSE and (where built for them) AVX and AVX-512 registers in hundreds of
//! threads, under preemption, migration and interrupts, and checks that no register ever changes,
//! nor the red zone below the stack pointer.
//!
//! Arguments: threads per CPU, milliseconds.
#![no_std]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use hrt::interrupt::Interrupt;
use hrt::thread::{self, Builder};
use hrt::time::{Deadline, Timer};
use hrt::{Arguments, cpu, fiber, println};

hrt::program!(main);

/// Number of rounds of a loop that holds values in registers. A quantum has time for several such
/// loops.
const HELD_ROUNDS: u64 = 20_000;

/// Number of interrupts sent to all CPUs in a row, 20 us apart.
const STORM: usize = 100;

/// The state that all threads share.
struct Shared {
    stop: AtomicBool,
    rounds: AtomicU64,
    wrong: AtomicU64,
    interrupts: AtomicU64,
}

fn main(arguments: Arguments) -> i32 {
    let number =
        |index: usize, default: u64| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (threads, milliseconds) = (number(1, 100) as usize, number(2, 1000));
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        rounds: AtomicU64::new(0),
        wrong: AtomicU64::new(0),
        interrupts: AtomicU64::new(0),
    });
    match run(&shared, threads, Duration::from_millis(milliseconds)) {
        Ok(()) => {}
        Err(error) => {
            println!("vectors: {error}");
            return 2;
        }
    }
    let (rounds, wrong) = (shared.rounds.load(Ordering::SeqCst), shared.wrong.load(Ordering::SeqCst));
    let interrupts = shared.interrupts.load(Ordering::SeqCst);
    println!("{rounds} rounds in {} threads, {interrupts} interrupts, {wrong} wrong", threads * cpu::count());
    i32::from(wrong != 0 || rounds == 0 || interrupts == 0)
}

fn run(shared: &Arc<Shared>, threads: usize, duration: Duration) -> Result<(), hrt::Error> {
    let mut handles = Vec::new();
    for number in 0..threads * cpu::count() {
        let theirs = shared.clone();
        let builder = Builder::new("computer").cpu(number % cpu::count());
        handles.push(builder.spawn(move || compute(&theirs, number as u64 + 1))?);
    }
    // Handlers that use the vector registers themselves.
    let theirs = shared.clone();
    let interrupt = Interrupt::register(move || {
        theirs.interrupts.fetch_add(1, Ordering::SeqCst);
        spoil_registers();
    })?;
    let theirs = shared.clone();
    let mut timer = Timer::new(move || {
        theirs.interrupts.fetch_add(1, Ordering::SeqCst);
        spoil_registers();
    })?;
    let end = Deadline::after(duration);
    while hrt::time::now_ns() < end.as_ns() {
        for _ in 0..STORM {
            timer.set(Deadline::after(Duration::from_micros(5)))?;
            for target in 0..cpu::count() {
                interrupt.send(target)?;
            }
            let rest = Deadline::after(Duration::from_micros(20));
            while hrt::time::now_ns() < rest.as_ns() {
                core::hint::spin_loop();
            }
        }
        thread::migrate((cpu::this() + 1) % cpu::count())?;
    }
    shared.stop.store(true, Ordering::SeqCst);
    handles.into_iter().for_each(|handle| handle.join().unwrap_or_default());
    Ok(())
}

/// Overwrites vector and x87 registers.
fn spoil_registers() {
    // SAFETY: the block accesses no memory, declares the SSE registers it changes, and removes what
    // it pushes on the x87 stack. The kernel restores the interrupted code's registers.
    unsafe {
        asm!(
            "pcmpeqd xmm0, xmm0", "movaps xmm1, xmm0", "movaps xmm2, xmm0", "movaps xmm3, xmm0", "movaps xmm7, xmm0",
            "movaps xmm8, xmm0", "movaps xmm15, xmm0", "fld1", "fldpi", "fstp st(0)", "fstp st(0)",
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm7") _, out("xmm8") _, out("xmm15") _,
        );
    }
    #[cfg(target_feature = "avx")]
    // SAFETY: the block accesses no memory and declares the AVX registers it changes.
    unsafe {
        asm!("vpcmpeqd xmm1, xmm1, xmm1", "vinsertf128 ymm1, ymm1, xmm1, 1", "vmovaps ymm9, ymm1", out("ymm1") _, out("ymm9") _);
    }
    #[cfg(target_feature = "avx512f")]
    // SAFETY: the block accesses no memory and declares the AVX-512 registers and the mask it
    // changes.
    unsafe {
        asm!(
            "vpternlogd zmm9, zmm9, zmm9, 0xff", "vmovaps zmm31, zmm9", "kxnorw k1, k1, k1",
            out("zmm9") _, out("zmm31") _, out("k1") _,
        );
    }
}

fn compute(shared: &Shared, seed: u64) {
    while !shared.stop.load(Ordering::Relaxed) {
        let held = held_in_registers(seed) && held_in_red_zone(seed) && numbers_are_right(seed);
        if !held {
            shared.wrong.fetch_add(1, Ordering::SeqCst);
        }
        shared.rounds.fetch_add(1, Ordering::SeqCst);
        match shared.rounds.load(Ordering::Relaxed) % 4 {
            0 => thread::yield_now(),
            1 => drop(thread::migrate((cpu::this() + 1) % cpu::count())),
            2 => {
                // A fiber with registers and a rounding mode of its own, which must not leak to
                // this thread.
                let fiber = fiber::create(move || {
                    set_rounding(Rounding::Up);
                    fiber::yield_now();
                    let right = rounding_is(Rounding::Up);
                    set_rounding(Rounding::Nearest);
                    right
                });
                let right = fiber.is_ok_and(|fiber| {
                    fiber.yield_to();
                    let mine = rounding_is(Rounding::Nearest);
                    fiber.join() && mine
                });
                shared.wrong.fetch_add(u64::from(!right), Ordering::SeqCst);
            }
            _ => {}
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Rounding {
    Nearest = 0x1f80,
    Up = 0x5f80,
}

fn set_rounding(rounding: Rounding) {
    let control = rounding as u32;
    // SAFETY: the instruction reads a live variable that holds a valid MXCSR value.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const control) };
}

fn rounding_is(rounding: Rounding) -> bool {
    let mut control = 0u32;
    // SAFETY: the instruction writes 32 bits to a live variable of that size.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut control) };
    control & 0x6000 == rounding as u32 & 0x6000
}

/// Holds values in x87, SSE and AVX registers during a loop long enough to be interrupted. Returns
/// whether they are unchanged.
#[inline(never)]
fn held_in_registers(seed: u64) -> bool {
    let (low, high, x87): (u64, u64, u64);
    #[cfg_attr(not(target_feature = "avx"), expect(unused_mut, reason = "only AVX has an upper half"))]
    let mut upper = seed;
    // SAFETY: the block declares the registers it changes and leaves the x87 stack empty. Without
    // `nostack`, the compiler keeps nothing in the red zone, which the block uses.
    unsafe {
        asm!(
            "mov [rsp - 16], {seed}",
            "fild qword ptr [rsp - 16]",
            "movq xmm0, {seed}",
            "movq xmm15, {seed}",
            "2:",
            "dec {count}",
            "jnz 2b",
            "movq {low}, xmm0",
            "movq {high}, xmm15",
            "fistp qword ptr [rsp - 16]",
            "mov {x87}, [rsp - 16]",
            seed = in(reg) seed,
            count = inout(reg) HELD_ROUNDS => _,
            low = out(reg) low,
            high = out(reg) high,
            x87 = out(reg) x87,
            out("xmm0") _, out("xmm15") _,
        );
    }
    #[cfg(target_feature = "avx")]
    // SAFETY: the block accesses no memory and declares the registers it changes.
    unsafe {
        asm!(
            "vmovq xmm9, {seed}",
            "vinsertf128 ymm9, ymm9, xmm9, 1",
            "2:",
            "dec {count}",
            "jnz 2b",
            "vextractf128 xmm8, ymm9, 1",
            "vmovq {upper}, xmm8",
            seed = in(reg) seed,
            count = inout(reg) HELD_ROUNDS => _,
            upper = out(reg) upper,
            out("ymm8") _, out("ymm9") _,
        );
    }
    [low, high, x87, upper].iter().all(|&value| value == seed) && held_in_avx512(seed)
}

#[cfg(not(target_feature = "avx512f"))]
fn held_in_avx512(_seed: u64) -> bool {
    true
}

/// Does the same with the upper half of a register, a register that only AVX-512 has, and a mask.
#[cfg(target_feature = "avx512f")]
#[inline(never)]
fn held_in_avx512(seed: u64) -> bool {
    let (upper, last, mask): (u64, u64, u64);
    // SAFETY: the block accesses no memory and declares the registers it changes.
    unsafe {
        asm!(
            "vpbroadcastq zmm9, {seed}",
            "vpbroadcastq zmm31, {seed}",
            "kmovw k1, {seed:e}",
            "2:",
            "dec {count}",
            "jnz 2b",
            "vextracti64x4 ymm8, zmm9, 1",
            "vmovq {upper}, xmm8",
            "vextracti64x4 ymm8, zmm31, 1",
            "vmovq {last}, xmm8",
            "kmovw {mask:e}, k1",
            seed = in(reg) seed,
            count = inout(reg) HELD_ROUNDS => _,
            upper = out(reg) upper,
            last = out(reg) last,
            mask = out(reg) mask,
            out("zmm8") _, out("zmm9") _, out("zmm31") _, out("k1") _,
        );
    }
    upper == seed && last == seed && mask == seed & 0xffff
}

/// Holds a value below the stack pointer, where a leaf function may keep one (System V ABI AMD64,
/// 3.2.2). Returns whether it is unchanged.
#[inline(never)]
fn held_in_red_zone(seed: u64) -> bool {
    let (first, last): (u64, u64);
    // SAFETY: without `nostack`, the compiler keeps nothing in the red zone, and the block calls
    // nothing that would use it.
    unsafe {
        asm!(
            "mov [rsp - 8], {seed}",
            "mov [rsp - 128], {seed}",
            "2:",
            "dec {count}",
            "jnz 2b",
            "mov {first}, [rsp - 8]",
            "mov {last}, [rsp - 128]",
            seed = in(reg) seed,
            count = inout(reg) HELD_ROUNDS => _,
            first = out(reg) first,
            last = out(reg) last,
        );
    }
    first == seed && last == seed
}

/// Returns whether the sum of the first odd numbers is the square of their count.
#[inline(never)]
fn numbers_are_right(seed: u64) -> bool {
    let count = 500 + seed % 100;
    let sum: f64 = (0..count).map(|index| core::hint::black_box(2.0 * index as f64 + 1.0)).sum();
    sum == (count * count) as f64
}
