//! Calls functions in a hybrid runtime (HRT) as execution groups: what they may do there, what ends
//! them, and what the process does meanwhile. The project's tests run it: `hvm-partners IMAGE`.

use std::cell::Cell;
use std::error::Error;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hvm::{Builder, CallError, Hvm};

/// Set to let functions out of their loops.
static MAY_END: AtomicBool = AtomicBool::new(false);
static SIGNALS: AtomicU64 = AtomicU64::new(0);
const LIMIT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(30);
/// An address at which neither a process nor the kernel has anything.
const NOWHERE: u64 = 0xffff_f000_0000_0000;
/// An address at which this process has nothing.
const FAR_AWAY: u64 = 0x1234_5678_9000;

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

type Checked = Result<(), Box<dyn Error>>;

/// Checks one thing, and says which.
fn check(what: &str, holds: bool) -> Checked {
    println!("{}: {what}", if holds { "right" } else { "WRONG" });
    if holds { Ok(()) } else { Err(what.into()) }
}

fn described(image: &[u8]) -> Builder<'_> {
    Hvm::builder(image).memory(64 << 20).command_line("panic=exit").limit(LONG)
}

extern "C" fn echo(argument: u64, _: u64) -> u64 {
    argument
}

extern "C" fn read(address: u64, _: u64) -> u64 {
    // SAFETY: none; what is there is tested.
    unsafe { (address as *const u64).read_volatile() }
}

extern "C" fn write(address: u64, _: u64) -> u64 {
    // SAFETY: none; what is there is tested.
    unsafe { (address as *mut u64).write_volatile(5) };
    0
}

extern "C" fn divide(by: u64, _: u64) -> u64 {
    let result: u64;
    // SAFETY: the division changes these registers only, unless it faults, as is tested.
    unsafe { std::arch::asm!("div {}", in(reg) by, inout("rax") 10_u64 => result, inout("rdx") 0_u64 => _) };
    result
}

extern "C" fn execute_invalid_instruction(_: u64, _: u64) -> u64 {
    // SAFETY: none; the fault is tested.
    unsafe { std::arch::asm!("ud2") };
    0
}

/// Unmasks all vector exceptions, turns the direction of string instructions round, and faults.
extern "C" fn spoil_and_fault(_: u64, _: u64) -> u64 {
    let unmasked = 0_u32;
    // SAFETY: none; what is left of this is tested.
    unsafe { std::arch::asm!("fld1", "fld1", "ldmxcsr [{}]", "std", "ud2", in(reg) &unmasked) };
    0
}

extern "C" fn recurse(depth: u64, _: u64) -> u64 {
    let kept = std::hint::black_box([depth; 64]);
    if depth == 0 { kept[0] } else { recurse(depth - 1, 0) + kept[1] }
}

extern "C" fn loop_until_told(_: u64, _: u64) -> u64 {
    while !MAY_END.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    7
}

extern "C" fn wait_in_linux(_: u64, _: u64) -> u64 {
    // SAFETY: the call only waits, until a signal comes.
    unsafe { libc::pause() as u64 }
}

extern "C" fn fork(_: u64, _: u64) -> u64 {
    // SAFETY: the call fails.
    let child = unsafe { libc::syscall(libc::SYS_fork) };
    if child == -1 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) as u64 } else { 0 }
}

/// Does what an ordinary thread does.
extern "C" fn live(argument: u64, _: u64) -> u64 {
    OWN.set(OWN.get() + argument);
    let lines: Vec<String> = (0..100).map(|line| format!("line {line}")).collect();
    let half = argument as f64 / 2.0;
    assert!((half * 2.0 - argument as f64).abs() < 1e-9);
    lines.join("\n").len() as u64
}

/// Adds to a sum while signals come, with system calls in between.
extern "C" fn count(rounds: u64, _: u64) -> u64 {
    let mut sum = 0.0;
    for round in 0..rounds {
        sum += std::hint::black_box(round as f64);
        if round % 64 == 0 {
            std::hint::black_box(std::process::id());
        }
    }
    sum as u64
}

/// Waits in Linux for a byte.
extern "C" fn wait_for_input(file: u64, _: u64) -> u64 {
    let mut byte = 0_u8;
    // SAFETY: the byte is the buffer.
    unsafe { libc::read(file as i32, (&raw mut byte).cast(), 1) as u64 }
}

/// Maps pages.
fn map(at: u64, size: usize, protection: i32) -> u64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
    // SAFETY: a new mapping changes no memory in use.
    unsafe { libc::mmap(at as *mut libc::c_void, size, protection, flags, -1, 0) as u64 }
}

fn functions_live_as_in_their_thread(hrt: &Hvm) -> Checked {
    // SAFETY: the functions do what ordinary code does.
    unsafe {
        check("a call returns its result", hrt.call(echo, 41) == Ok(41))?;
        check("a function allocates and formats", hrt.call(live, 3) == Ok(789))?;
        let _ = hrt.call(live, 4)?;
        check("thread-local variables are the calling thread's", OWN.get() == 7)?;
        let all = (0..1000).all(|number| hrt.call(echo, number) == Ok(number));
        check("1,000 calls return their results", all)?;
        check("a fork in the HRT fails and says how", hrt.call(fork, 0) == Ok(libc::ENOSYS as u64))
    }
}

fn what_a_function_does_wrong_ends_its_call(hrt: &Hvm) -> Checked {
    let exception = |called: Result<u64, CallError>| match called {
        Err(CallError::Exception(exception)) => Some((exception.vector, exception.address)),
        _ => None,
    };
    let is_refused = |called: Result<u64, CallError>| matches!(called, Err(CallError::RefusedAccess { .. }));
    // SAFETY: the faults are what is tested.
    unsafe {
        check("a division by zero ends its call", exception(hrt.call(divide, 0)).is_some_and(|found| found.0 == 0))?;
        check("the next call works", hrt.call(divide, 2) == Ok(5))?;
        let invalid = exception(hrt.call(execute_invalid_instruction, 0));
        check("an invalid instruction ends its call", invalid.is_some_and(|found| found.0 == 6))?;
        let spoilt = exception(hrt.call(spoil_and_fault, 0));
        check(
            "a function that leaves flags and control words changed is left",
            spoilt.is_some_and(|found| found.0 == 6),
        )?;
        check("the next one does not find them", hrt.call(count, 1000) == Ok(499_500) && hrt.call(live, 0) == Ok(789))?;
        let nowhere = exception(hrt.call(read, NOWHERE));
        check("an access to nowhere ends its call", nowhere == Some((14, NOWHERE)))?;
        check("a null pointer ends its call", is_refused(hrt.call(read, 8)))?;
        check("an address without memory ends its call", is_refused(hrt.call(read, FAR_AWAY)))?;
        let constant = "read only".as_ptr() as u64;
        check("a write to a constant ends its call", is_refused(hrt.call(write, constant)))?;
        check("an overflow of the stack ends its call", is_refused(hrt.call(recurse, 10_000)))?;
        check("a deep call works", hrt.call(recurse, 100) == Ok(5050))
    }
}

fn memory_comes_and_goes(hrt: &Hvm) -> Checked {
    let size = 4 << 20;
    let at = map(0x2000_0000_0000, size, libc::PROT_READ | libc::PROT_WRITE);
    let is_refused = |called: Result<u64, CallError>| matches!(called, Err(CallError::RefusedAccess { .. }));
    // SAFETY: the memory is used by the functions alone.
    unsafe {
        check("memory that is new and far away is seen", hrt.call(write, at) == Ok(0) && hrt.call(read, at) == Ok(5))?;
        libc::mprotect(at as *mut libc::c_void, size, libc::PROT_READ);
        check("what is made read-only is so at once", is_refused(hrt.call(write, at)) && hrt.call(read, at) == Ok(5))?;
        libc::munmap(at as *mut libc::c_void, size);
        check("what is unmapped is gone at once", is_refused(hrt.call(read, at)))?;
    }
    Ok(())
}

fn calls_have_a_limit(image: &[u8]) -> Checked {
    let hrt = described(image).limit(LIMIT).boot()?;
    let is_refused = |called: Result<u64, CallError>| matches!(called, Err(CallError::RefusedAccess { .. }));
    // SAFETY: the functions do what ordinary code does, or what is tested.
    unsafe {
        // The kernel boots in the meantime.
        while matches!(hrt.merge(), Err(CallError::NoAnswer(_) | CallError::Busy(_))) {}
        check("a call before the limit works", hrt.call(echo, 1) == Ok(1))?;
        check("an endless call is given up", hrt.call(loop_until_told, 0) == Err(CallError::NoAnswer(LIMIT)))?;
        check("it goes on with the next one", hrt.call(echo, 2) == Err(CallError::NoAnswer(LIMIT)))?;
        MAY_END.store(true, Ordering::Relaxed);
        check("once it is done, the next one is made", hrt.call(echo, 3) == Ok(3))?;
        check("a wait in Linux is given up", hrt.call(wait_in_linux, 0) == Err(CallError::NoAnswer(LIMIT)))?;
        check("and ends interrupted", hrt.call(echo, 4) == Ok(4))?;
        let file = libc::memfd_create(c"truncated".as_ptr(), 0);
        libc::ftruncate(file, 8192);
        let flags = libc::MAP_SHARED;
        let shared = libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ, flags, file, 0) as u64;
        check("a file is seen", hrt.call(read, shared + 4096) == Ok(0))?;
        libc::ftruncate(file, 4096);
        check("a file that is cut is refused behind its end, at the limit", is_refused(hrt.call(read, shared + 4096)))?;
        libc::close(file);
        MAY_END.store(false, Ordering::Relaxed);
        let mut synchronous = hrt.synchronize()?;
        let late = synchronous.call(loop_until_told, 0);
        check("an endless synchronous call is given up", late == Err(CallError::NoAnswer(LIMIT)))?;
        MAY_END.store(true, Ordering::Relaxed);
        check("once it is done, the next one is made", synchronous.call(echo, 3) == Ok(3))?;
        drop(synchronous);
        MAY_END.store(false, Ordering::Relaxed);
        let spinning = std::thread::scope(|scope| {
            let spinning = scope.spawn(|| hrt.call(loop_until_told, 0));
            std::thread::sleep(LIMIT / 4);
            hrt.stop();
            spinning.join()
        });
        check("an HRT that is stopped ends its calls", matches!(spinning, Ok(Err(CallError::Ended(_)))))
    }
}

fn calls_can_be_synchronous(hrt: &Hvm) -> Checked {
    let before = OWN.get();
    // SAFETY: the functions do what ordinary code does, or what is tested.
    unsafe {
        let mut synchronous = hrt.synchronize()?;
        let is_busy = matches!(hrt.synchronize(), Err(CallError::Busy(_)));
        check("one thread at a time calls synchronously", is_busy)?;
        let all = (0..10_000).all(|number| synchronous.call(echo, number) == Ok(number));
        check("10,000 synchronous calls return their results", all)?;
        check("a function allocates and formats", synchronous.call(live, 3) == Ok(789))?;
        check("thread-local variables are the calling thread's", OWN.get() == before + 3)?;
        let zero = synchronous.call(divide, 0);
        check("a division by zero ends its call", matches!(zero, Err(CallError::Exception(_))))?;
        let refused = synchronous.call(read, FAR_AWAY);
        check("an address without memory ends its call", matches!(refused, Err(CallError::RefusedAccess { .. })))?;
        check("the next call works", synchronous.call(divide, 2) == Ok(5))?;
        check("an ordinary call works meanwhile", hrt.call(echo, 5) == Ok(5) && hrt.call_alone(echo, 6) == Ok(6))?;
        let others = std::thread::scope(|scope| scope.spawn(|| hrt.call(echo, 7)).join());
        check("so does that of another thread", matches!(others, Ok(Ok(7))))?;
    }
    check("afterwards another thread can", hrt.synchronize().is_ok())
}

fn threads_have_groups_of_their_own(hrt: &Hvm) -> Checked {
    let together = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8_u64)
            .map(|number| {
                scope.spawn(move || {
                    // SAFETY: the functions do what ordinary code does.
                    (0..50).all(|_| unsafe { hrt.call(echo, number) == Ok(number) && hrt.call(live, 1) == Ok(789) })
                        && OWN.get() == 50
                })
            })
            .collect();
        threads.into_iter().all(|thread| thread.join().unwrap_or(false))
    });
    check("8 threads call at once", together)?;
    let one_by_one = (0..300).all(|number| {
        // SAFETY: as above.
        std::thread::scope(|scope| scope.spawn(|| unsafe { hrt.call(echo, number) }).join().ok()) == Some(Ok(number))
    });
    check("300 threads call one after the other", one_by_one)
}

extern "C" fn count_signal(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn signals_are_taken_in_between(hrt: &Hvm) -> Checked {
    let expected = count(2_000_000, 0);
    // SAFETY: the handler only counts; the timer is this thread's, and is switched off again.
    let found = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count_signal as *const () as usize;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
        let each = libc::timeval { tv_sec: 0, tv_usec: 500 };
        let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
        libc::setitimer(
            libc::ITIMER_REAL,
            &libc::itimerval { it_interval: each, it_value: each },
            std::ptr::null_mut(),
        );
        let mut found = Vec::new();
        // Until signals have come while the function ran.
        while SIGNALS.load(Ordering::Relaxed) < 200 {
            found.push(hrt.call(count, 2_000_000)?);
        }
        libc::setitimer(
            libc::ITIMER_REAL,
            &libc::itimerval { it_interval: none, it_value: none },
            std::ptr::null_mut(),
        );
        found
    };
    check("signals are handled while functions run, which are none the wiser", found.iter().all(|&sum| sum == expected))
}

const BARRIER_PAGES: usize = 64;
static BARRIER: AtomicU64 = AtomicU64::new(0);
static WRONG_ADDRESSES: AtomicU64 = AtomicU64::new(0);

/// A garbage collector's write barrier: notes the page and makes it writable.
extern "C" fn allow_write(_: i32, information: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let start = BARRIER.load(Ordering::Relaxed);
    // SAFETY: Linux gives the information; the page is one of the test's own.
    unsafe {
        let at = (*information).si_addr() as u64;
        if at.wrapping_sub(start) >= (BARRIER_PAGES * 4096) as u64 || at % 4096 != 8 {
            WRONG_ADDRESSES.fetch_add(1, Ordering::Relaxed);
        }
        SIGNALS.fetch_add(1, Ordering::Relaxed);
        libc::mprotect((at & !4095) as *mut libc::c_void, 4096, libc::PROT_READ | libc::PROT_WRITE);
    }
}

/// Writes to each page, with much in registers.
extern "C" fn write_to_pages(start: u64, _: u64) -> u64 {
    let mut sum = 0.0;
    for page in 0..BARRIER_PAGES {
        let value = std::hint::black_box(page as f64) * 1.5;
        // SAFETY: the caller passes the address of so many pages.
        unsafe { ((start as usize + page * 4096 + 8) as *mut f64).write_volatile(value) };
        sum += value;
    }
    sum as u64
}

fn faults_can_be_those_of_the_process(image: &[u8]) -> Checked {
    let hrt = described(image).faults_as_in_process().boot()?;
    let size = BARRIER_PAGES * 4096;
    let start = map(0, size, libc::PROT_READ);
    BARRIER.store(start, Ordering::Relaxed);
    SIGNALS.store(0, Ordering::Relaxed);
    let expected = (0..BARRIER_PAGES).map(|page| page as f64 * 1.5).sum::<f64>() as u64;
    // SAFETY: the handler changes the protection of the test's own pages.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = allow_write as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSEGV, &action, &mut before);
        hrt.merge()?;
        let sum = hrt.call(write_to_pages, start);
        check("a handler of the process makes each write possible", sum == Ok(expected))?;
        check("it was called for each page", SIGNALS.load(Ordering::Relaxed) == BARRIER_PAGES as u64)?;
        check("with the address", WRONG_ADDRESSES.load(Ordering::Relaxed) == 0)?;
        let written = (start as usize + 5 * 4096 + 8) as *const f64;
        check("the memory has what was written", written.read_volatile() == 7.5)?;
        check("once more there is no signal", hrt.call(write_to_pages, start) == Ok(expected))?;
        check("none at all", SIGNALS.load(Ordering::Relaxed) == BARRIER_PAGES as u64)?;
        libc::sigaction(libc::SIGSEGV, &before, std::ptr::null_mut());
        Ok(())
    }
}

/// Executes a line at the HRT's prompt and returns what comes until the next prompt.
fn at_the_prompt(hrt: &Hvm, line: &str) -> Result<String, Box<dyn Error>> {
    let console = hrt.console()?;
    console.receive()?;
    console.send(format!("{line}\n").as_bytes())?;
    let mut said = String::new();
    let deadline = Instant::now() + LONG;
    // The line is written back, perhaps after what was said before; then its output comes, and the
    // next prompt.
    let has_ended = |said: &str| said.split_once(line).is_some_and(|(_, rest)| rest.contains("\n\raero>"));
    while !has_ended(&said) && Instant::now() < deadline {
        said += &String::from_utf8_lossy(&console.receive()?);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(said)
}

fn groups_are_seen_at_the_prompt(image: &[u8]) -> Checked {
    let hrt = described(image).boot()?;
    // SAFETY: the functions do what ordinary code does.
    let result = unsafe {
        hrt.merge()?;
        check("without a call there are no groups", at_the_prompt(&hrt, "groups")?.contains("no execution groups"))?;
        hrt.call(live, 1)?;
        hrt.call(fork, 1)?;
        hrt.call(divide, 0)
    };
    let line = |said: &str, word: &str| said.lines().find(|line| line.contains(word)).unwrap_or_default().to_owned();
    let groups = at_the_prompt(&hrt, "groups")?;
    let own = format!(" {} ", std::process::id());
    check("`groups` shows the group and its partner", line(&groups, "ready").contains(&own))?;
    let channel = at_the_prompt(&hrt, "channel 0")?;
    check("`channel` shows a system call by its name", line(&channel, "fork").ends_with("fork = -38"))?;
    let exception = line(&channel, "exception 0");
    check("`channel` shows the exception", result.is_err() && exception.contains("exception 0"))?;
    let events = at_the_prompt(&hrt, "events --stats")?;
    check("`events` counts the calls", line(&events, "call  ").split_whitespace().nth(1) == Some("3"))?;
    check("`events --stats` shows how long they took", events.contains("calls by their cycles:"))?;
    let threads = at_the_prompt(&hrt, "threads")?;
    check("`threads` shows the group's thread", threads.contains("group 0"))?;
    let mut ends = [0; 2];
    // SAFETY: the pipe's ends are written to the array.
    unsafe { libc::pipe(ends.as_mut_ptr()) };
    let waiting = std::thread::scope(|scope| {
        // SAFETY: as above.
        let waiting = scope.spawn(|| unsafe { hrt.call(wait_for_input, ends[0] as u64) });
        let mut groups = String::new();
        while !groups.contains("read, for") {
            groups = at_the_prompt(&hrt, "groups").unwrap_or_default();
        }
        // SAFETY: the byte is a constant.
        unsafe { libc::write(ends[1], b"x".as_ptr().cast(), 1) };
        waiting.join()
    });
    check("`groups` shows which system call a partner is in", matches!(waiting, Ok(Ok(1))))?;
    // SAFETY: as above.
    let before = unsafe { hrt.call(echo, 1) };
    hrt.stop();
    // SAFETY: as above.
    let after = unsafe { hrt.call(echo, 1) };
    check("after the end a call fails", before == Ok(1) && matches!(after, Err(CallError::Ended(_))))
}

fn main() -> Checked {
    let path = std::env::args().nth(1).ok_or("the image is missing: hvm-partners IMAGE")?;
    let image = fs::read(&path).map_err(|error| format!("{path} cannot be read: {error}"))?;
    {
        let hrt = described(&image).boot()?;
        // SAFETY: the HRT is our own kernel.
        unsafe { hrt.merge()? };
        functions_live_as_in_their_thread(&hrt)?;
        what_a_function_does_wrong_ends_its_call(&hrt)?;
        memory_comes_and_goes(&hrt)?;
        calls_can_be_synchronous(&hrt)?;
        threads_have_groups_of_their_own(&hrt)?;
        signals_are_taken_in_between(&hrt)?;
        println!("{}", hrt.stop());
    }
    faults_can_be_those_of_the_process(&image)?;
    groups_are_seen_at_the_prompt(&image)?;
    calls_have_a_limit(&image)?;
    println!("all is right");
    Ok(())
}
