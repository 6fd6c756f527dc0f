//! A program that misbehaves in the way that its argument names.
#![no_std]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use hrt::collective::Collective;
use hrt::task::{Place, Pool, Priority};
use hrt::thread::{self, Builder};
use hrt::time::{Deadline, Timer};
use hrt::wait::{Event, MessageQueue, Mutex};
use hrt::{Arguments, cpu, fiber, println};

hrt::program!(main);

/// The number of starts. Each run begins with a fresh image, so it is 0, whatever an earlier run
/// left.
static STARTS: AtomicU32 = AtomicU32::new(0);

fn main(arguments: Arguments) -> i32 {
    if STARTS.fetch_add(1, Ordering::Relaxed) != 0 {
        println!("the last run's variables are still there");
        return 100;
    }
    let misbehaviour = arguments.get(1).and_then(|name| WAYS.iter().find(|way| way.0 == name));
    misbehaviour.map_or(0, |(_, way)| way(arguments))
}

/// A way to misbehave.
type Way = fn(Arguments) -> i32;

/// The ways to misbehave, by name.
const WAYS: &[(&str, Way)] = &[
    ("null", read_null),
    ("wild", write_wild),
    ("code", write_code),
    ("divide", divide_by_zero),
    ("opcode", execute_invalid),
    ("overflow", |_| recurse(black_box(0)) as i32),
    ("fiber-overflow", fiber_overflow),
    ("elsewhere", fault_elsewhere),
    ("panic", |_| panic!("as asked")),
    ("handler-panic", handler_panic),
    ("handler-allocate", handler_allocate),
    ("free", free_twice),
    ("leak", leak_blocks),
    ("pointer", |arguments| bad_pointer(arguments.get(2), arguments.get(3))),
    ("behind", write_behind),
    ("x87", |_| pending_exception()),
    ("exit", exit_beside_another),
    ("spin", spin_everywhere),
    ("deadlock", |_| deadlock()),
    ("overrun", |_| overrun()),
    ("stale", |_| stale()),
    ("status", |arguments| arguments.get(2).and_then(|status| status.parse().ok()).unwrap_or(1)),
    ("arguments", print_arguments),
    ("partial-deadlock", |_| partial_deadlock()),
    ("orphaned-mutex", |_| orphaned_mutex()),
    ("tasks", |_| endless_tasks()),
    ("patient", patient),
    ("busy", busy),
];

fn read_null(_: Arguments) -> i32 {
    // SAFETY: unsound on purpose: the read of address 0 faults, and the kernel ends the
    // program.
    unsafe { black_box(core::ptr::null::<u8>()).read_volatile() as i32 }
}

fn write_wild(_: Arguments) -> i32 {
    // SAFETY: unsound on purpose: nothing is mapped at this address, and the kernel ends
    // the program.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(0xffff_f000_0000_0000).write_volatile(1) };
    0
}

fn write_code(_: Arguments) -> i32 {
    // SAFETY: unsound on purpose: code is not writable, so the write faults and the kernel
    // ends the program.
    unsafe { (main as *const () as *mut u8).write_volatile(0xcc) };
    0
}

fn divide_by_zero(_: Arguments) -> i32 {
    // SAFETY: the block declares the registers it changes; the division by zero ends the
    // program on purpose.
    unsafe { core::arch::asm!("xor edx, edx", "xor ecx, ecx", "div ecx", out("eax") _, out("ecx") _, out("edx") _) };
    0
}

fn execute_invalid(_: Arguments) -> i32 {
    // SAFETY: the invalid instruction accesses no memory and ends the program on purpose.
    unsafe { core::arch::asm!("ud2") };
    0
}

fn fiber_overflow(_: Arguments) -> i32 {
    let fiber = fiber::create(|| recurse(black_box(0)) as i32);
    fiber.map_or(1, fiber::Fiber::join)
}

fn fault_elsewhere(_: Arguments) -> i32 {
    // Another thread faults on another CPU while this one waits.
    let faulty = Builder::new("faulty").cpu(cpu::count() - 1).spawn(|| {
        // SAFETY: unsound on purpose: the read of address 0 faults, and the kernel ends the
        // program.
        unsafe { black_box(core::ptr::null::<u8>()).read_volatile() }
    });
    faulty.map_or(1, |thread| i32::from(thread.join().unwrap_or(2)))
}

fn handler_panic(_: Arguments) -> i32 {
    let Ok(mut timer) = Timer::new(|| panic!("in a handler")) else { return 1 };
    if timer.set(Deadline::NOW).is_err() {
        return 1;
    }
    thread::sleep(Duration::from_secs(10));
    0
}

fn handler_allocate(_: Arguments) -> i32 {
    // The handler allocates until an allocation fails. The resulting panic must not
    // allocate.
    let exhaust = || {
        let mut blocks = Vec::new();
        while black_box(blocks.len()) < 1 << 20 {
            blocks.push(Box::new([0u64; 64]));
        }
    };
    let Ok(mut timer) = Timer::new(exhaust) else { return 1 };
    if timer.set(Deadline::NOW).is_err() {
        return 1;
    }
    thread::sleep(Duration::from_secs(10));
    0
}

fn free_twice(_: Arguments) -> i32 {
    let block = Box::into_raw(Box::new(1u64));
    // SAFETY: unsound on purpose: the block is valid for the first drop, and the second is
    // a double free, which the kernel must detect.
    unsafe {
        drop(Box::from_raw(block));
        drop(Box::from_raw(block));
    }
    0
}

fn leak_blocks(_: Arguments) -> i32 {
    core::mem::forget(Vec::<u8>::with_capacity(1000));
    core::mem::forget(Event::new());
    0
}

fn write_behind(_: Arguments) -> i32 {
    let block = Box::into_raw(Box::new([0u8; 100])).cast::<u8>();
    // SAFETY: unsound on purpose: the write exceeds the block's 100 bytes, which the kernel
    // must detect.
    unsafe { black_box(block).write_bytes(b'A', 300) };
    0
}

fn exit_beside_another(_: Arguments) -> i32 {
    let _ = Builder::new("other").spawn(spin);
    hrt::exit(7)
}

fn spin_everywhere(_: Arguments) -> i32 {
    for index in 0..cpu::count() {
        let _ = Builder::new("spinner").cpu(index).spawn(spin);
    }
    println!("spinning");
    spin()
}

fn print_arguments(arguments: Arguments) -> i32 {
    println!("{}", arguments.iter().map(|argument| format!("<{argument}>")).collect::<Vec<_>>().join(" "));
    0
}

fn patient(_: Arguments) -> i32 {
    // Not a deadlock: this thread waits without a limit, but for a thread that a timer
    // wakes.
    let sleeper = thread::spawn(|| thread::sleep(Duration::from_millis(3500)));
    sleeper.map_or(1, |sleeper| i32::from(sleeper.join().is_none()))
}

fn busy(_: Arguments) -> i32 {
    everything_at_once();
    println!("busy");
    let _ = Event::new().map(|event| event.wait(Deadline::NEVER));
    1
}

/// Addresses by kind: one where nothing is mapped; 0 stands for the address of a constant, which is
/// not writable.
const BAD: [(&str, usize); 2] = [("unmapped", 0x1000), ("constant", 0)];
static CONSTANT: [u64; 64] = [0; 64];

/// Passes a bad pointer to the named function of the interface, among those that take a pointer.
fn bad_pointer(function: Option<&str>, kind: Option<&str>) -> i32 {
    use hrt::raw::*;
    let address = BAD.iter().find(|(name, _)| Some(*name) == kind).map_or(0, |(_, address)| *address);
    let at = if address == 0 { CONSTANT.as_ptr() as usize } else { address };
    let null = core::ptr::null_mut();
    unsafe extern "C" fn nothing(_: *mut u8) {}
    let mut status = 0;
    // SAFETY: unsound on purpose: the bad pointer violates the function's contract, and the kernel
    // must end the program.
    unsafe {
        match function {
            Some("print") => aero_print(at as _, 10),
            Some("panic") => aero_panic(at as _, 10),
            Some("spawn") => status = aero_thread_spawn(core::ptr::null(), Some(nothing), null, at as _),
            Some("options") => status = aero_thread_spawn(at as _, Some(nothing), null, core::ptr::null_mut()),
            Some("event_init") => status = aero_event_init(at as _),
            Some("event_signal") => status = aero_event_signal(at as _),
            Some("event_broadcast") => status = aero_event_broadcast(at as _),
            Some("event_wait") => status = aero_event_wait(at as _, 0),
            Some("mutex_lock") => status = aero_mutex_lock(at as _, 0),
            Some("mutex_try_lock") => status = aero_mutex_try_lock(at as _),
            Some("mutex_unlock") => status = aero_mutex_unlock(at as _),
            Some("condition_wait") => status = aero_condition_wait(at as _, at as _, 0),
            Some("condition_signal") => status = aero_condition_signal(at as _),
            Some("condition_broadcast") => status = aero_condition_broadcast(at as _),
            Some("semaphore_init") => status = aero_semaphore_init(at as _, 1),
            Some("semaphore_down") => status = aero_semaphore_down(at as _, 0),
            Some("semaphore_up") => status = aero_semaphore_up(at as _),
            Some("barrier_init") => status = aero_barrier_init(at as _, 1),
            Some("barrier_wait") => status = aero_barrier_wait(at as _, 0),
            Some("reader_writer_read") => status = aero_reader_writer_read(at as _, 0),
            Some("reader_writer_read_unlock") => status = aero_reader_writer_read_unlock(at as _),
            Some("reader_writer_write") => status = aero_reader_writer_write(at as _, 0),
            Some("reader_writer_write_unlock") => status = aero_reader_writer_write_unlock(at as _),
            Some("message_queue_create") => status = aero_message_queue_create(1, at as _),
            Some("timer_create") => status = aero_timer_create(Some(nothing), null, at as _),
            Some("interrupt_register") => status = aero_interrupt_register(Some(nothing), null, at as _),
            Some("line_register") => status = aero_line_register(3, 0, 0, Some(nothing), null, at as _),
            Some("pool_create") => status = aero_pool_create(at as _),
            Some("collective_create") => status = aero_collective_create(1, at as _),
            Some("fiber_create") => status = aero_fiber_create(Some(nothing), null, 0, at as _),
            _ => return 100,
        }
    }
    println!("it went unnoticed: {status}");
    101
}

/// Leaves an x87 exception pending in one thread. Another thread on the same CPU must not receive
/// it.
fn pending_exception() -> i32 {
    let victim = thread::spawn(|| {
        for _ in 0..1000 {
            thread::yield_now();
        }
    });
    let culprit = thread::spawn(|| {
        // Unmasks division by zero (SDM Vol. 1, 8.1.5).
        let control: u16 = 0x37b;
        // SAFETY: the block reads a live control word and changes only the x87 state, which is this
        // thread's own and not used by compiled code.
        unsafe {
            core::arch::asm!("fldcw [{}]", "fld1", "fldz", "fdivp st(1), st(0)", in(reg) &raw const control);
        }
        for _ in 0..100 {
            thread::yield_now();
        }
    });
    let (Ok(victim), Ok(culprit)) = (victim, culprit) else { return 1 };
    let ended = (victim.join().is_some(), culprit.join().is_some());
    println!("victim and culprit ended: {ended:?}");
    if ended == (true, true) { 0 } else { 2 }
}

/// A table and the variable behind it.
#[repr(C)]
struct Neighbours {
    table: [AtomicU32; 4],
    victim: AtomicU32,
}

static NEIGHBOURS: Neighbours = Neighbours { table: [const { AtomicU32::new(0) }; 4], victim: AtomicU32::new(1) };

/// Fills `count` entries from the table's start, even beyond its end.
#[inline(never)]
fn fill(count: usize) {
    for index in 0..count {
        // SAFETY: the first four entries are in the table; the fifth is unsound on purpose and
        // lands in `victim`, in the same static.
        unsafe { (*NEIGHBOURS.table.as_ptr().wrapping_add(index)).store(7, Ordering::Relaxed) };
    }
}

/// Lets another thread overwrite a variable, which shows only later.
fn overrun() -> i32 {
    let filler = Builder::new("filler").spawn(|| fill(black_box(5)));
    let _ = filler.map(hrt::thread::JoinHandle::join);
    assert!(NEIGHBOURS.victim.load(Ordering::Relaxed) == 1, "somebody has changed the victim");
    0
}

#[inline(never)]
fn give_back(block: *mut u64) {
    // SAFETY: the caller passes a block from `Box::into_raw` that has not been freed.
    drop(unsafe { Box::from_raw(block) });
}

#[inline(never)]
fn write_late(block: *mut u64) {
    // SAFETY: unsound on purpose: the block has been freed and belongs to another owner by now.
    unsafe { block.write_volatile(0xdead) };
}

/// Writes to a block that was freed and allocated again.
fn stale() -> i32 {
    let block = Box::into_raw(Box::new(1u64));
    give_back(block);
    let mine = black_box(Box::new(2u64));
    write_late(block);
    assert!(*mine == 2, "somebody has written to my block");
    0
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "using up the stack is what it is for")]
fn recurse(depth: u64) -> u64 {
    let filler = black_box([depth; 32]);
    recurse(depth + 1) + filler[0]
}

fn spin() -> i32 {
    loop {
        core::hint::spin_loop();
    }
}

/// Queues tasks that never end on all CPUs and others that never begin, and waits without a limit
/// as a member of a collective.
fn endless_tasks() -> i32 {
    let Ok(pool) = Pool::new() else { return 1 };
    for cpu in 0..cpu::count() {
        for _ in 0..100 {
            let endless = move || {
                while black_box(cpu) == cpu {
                    core::hint::spin_loop();
                }
            };
            if pool.queue(Place::Pinned(cpu), Priority::Normal, endless).is_err() {
                return 1;
            }
        }
    }
    let Ok(collective) = Collective::new(2) else { return 1 };
    println!("tasks without end");
    let _ = collective.barrier(Deadline::NEVER);
    drop(pool);
    0
}

/// Deadlocks like [`deadlock`], while another thread continues.
fn partial_deadlock() -> i32 {
    let ticking = thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_millis(10));
        }
    });
    let status = deadlock();
    drop(ticking);
    status
}

/// Ends a thread that holds a mutex for which another thread waits, while the main thread keeps
/// sleeping.
fn orphaned_mutex() -> i32 {
    let Ok(mutex) = Mutex::new(0) else { return 1 };
    let mutex = Arc::new(mutex);
    let theirs = mutex.clone();
    let forgetful = Builder::new("forgetful").spawn(move || core::mem::forget(theirs.lock()));
    let _ = forgetful.map(|thread| thread.join());
    let theirs = mutex.clone();
    let waiting = Builder::new("orphan").spawn(move || drop(theirs.lock()));
    loop {
        thread::sleep(Duration::from_millis(10));
        if waiting.is_err() {
            return 1;
        }
    }
}

/// Locks two mutexes in two threads in opposite orders. An unset timer does not hide the deadlock.
fn deadlock() -> i32 {
    let Ok(_timer) = Timer::new(|| ()) else { return 1 };
    let (Ok(first), Ok(second), Ok(both)) = (Mutex::new(0), Mutex::new(0), hrt::wait::Barrier::new(2)) else {
        return 1;
    };
    let shared = Arc::new((first, second, both));
    let theirs = shared.clone();
    let other = Builder::new("other").cpu(cpu::count() - 1).spawn(move || {
        let _second = theirs.1.lock();
        let _ = theirs.2.wait(Deadline::NEVER);
        let _first = theirs.0.lock();
    });
    let _first = shared.0.lock();
    let _ = shared.2.wait(Deadline::NEVER);
    println!("deadlocked");
    let _second = shared.1.lock();
    other.map_or(1, |thread| thread.join().map_or(2, |()| 0))
}

fn print_from_handler() {
    let text = "";
    // SAFETY: the pointer is valid for the text's length, which is 0.
    unsafe { hrt::raw::aero_print(text.as_ptr(), text.len()) };
}

/// Creates everything that a program can own when it is killed: threads that wait, sleep, compute
/// and yield, timers that fire, fibers, messages in flight.
fn everything_at_once() {
    let Ok(queue) = MessageQueue::<Box<u64>>::new(4) else { return };
    let queue = Arc::new(queue);
    for index in 0..cpu::count() {
        let builder = Builder::new("worker").cpu(index);
        let (sender, receiver) = (queue.clone(), queue.clone());
        let _ = builder.spawn(move || {
            loop {
                let _ = sender.send(Box::new(1), Deadline::NEVER);
            }
        });
        let _ = builder.spawn(move || {
            loop {
                let _ = receiver.receive(Deadline::after(Duration::from_micros(100)));
            }
        });
        let _ = builder.spawn(|| {
            loop {
                thread::yield_now();
                drop(black_box(Vec::<u8>::with_capacity(300)));
            }
        });
        let _ = builder.spawn(|| thread::sleep(Duration::from_secs(1000)));
        let _ = builder.spawn(|| {
            let fiber = fiber::create(|| {
                loop {
                    fiber::yield_now();
                }
            });
            fiber.map(|fiber: fiber::Fiber<()>| {
                loop {
                    fiber.yield_to();
                }
            })
        });
        let _ = builder.spawn(|| {
            let fired = Arc::new(AtomicU32::new(0));
            let theirs = fired.clone();
            // A call from a handler must not end the thread that it interrupted, even if that
            // thread's program is ending.
            let timer = Timer::new(move || {
                if theirs.fetch_add(1, Ordering::Relaxed).is_multiple_of(64) {
                    print_from_handler();
                }
            });
            let Ok(mut timer) = timer else { return };
            while timer.set(Deadline::after(Duration::from_micros(50))).is_ok() {
                thread::sleep(Duration::from_micros(20));
            }
        });
    }
}
