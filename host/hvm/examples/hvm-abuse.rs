//! Asks a hybrid runtime (HRT) for what it cannot do, and checks that every request fails as it
//! should and that the process goes on. The project's tests run it: `hvm-abuse IMAGE`.

use std::error::Error;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hvm::{Builder, CallError, End, Hvm, RosEvent, Transaction};

/// Set to let the HRT out of its loop.
static MAY_END: AtomicBool = AtomicBool::new(false);
const LIMIT: Duration = Duration::from_millis(500);
/// No process and no kernel has anything there.
const NOWHERE: u64 = 0xffff_7000_0000_0000;
/// The most that the HRT may take for anything else.
const SOON: Duration = Duration::from_secs(20);

extern "C" fn add_cpu(argument: u64, cpu: u64) -> u64 {
    argument + cpu
}

extern "C" fn read(address: u64, _: u64) -> u64 {
    // SAFETY: none; this is the fault under test.
    unsafe { (address as *const u64).read_volatile() }
}

extern "C" fn loop_until_told(_: u64, _: u64) -> u64 {
    while !MAY_END.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    7
}

/// Checks one thing, and says which.
fn check(what: &str, holds: bool) -> Result<(), Box<dyn Error>> {
    println!("{}: {what}", if holds { "right" } else { "WRONG" });
    if holds { Ok(()) } else { Err(what.into()) }
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// An HRT that ends when it crashes.
fn described(image: &[u8]) -> Builder<'_> {
    Hvm::builder(image).memory(32 << 20).command_line("panic=exit").limit(SOON)
}

type Checked = Result<(), Box<dyn Error>>;

fn what_cannot_boot_is_refused(image: &[u8]) -> Checked {
    let refusal = |built: Builder<'_>| built.boot().err().map_or_else(String::new, |error| error.to_string());
    check("no CPUs are refused", refusal(described(image).cpus(0)).contains("cannot have 0 CPUs"))?;
    check("1,000 CPUs are refused", refusal(described(image).cpus(1000)).contains("cannot have 1000 CPUs"))?;
    check("too little memory is refused", refusal(described(image).memory(1 << 20)).contains("takes from"))?;
    check("too much memory is refused", refusal(described(image).memory((1 << 40) + 1)).contains("takes from"))?;
    check("a cut image is refused", refusal(described(&image[..5000])).contains("the image cannot be"))?;
    let line = "x".repeat(10_000);
    check("a long command line is refused", refusal(described(image).command_line(&line)).contains("10000 bytes"))
}

fn calls_are_answered(image: &[u8]) -> Checked {
    let hrt = described(image).cpus(2).boot()?;
    // SAFETY: the function makes no system call and uses no thread-local variable.
    unsafe {
        check("a call before the merge fails", hrt.call_alone(add_cpu, 1) == Err(CallError::NotMerged))?;
        hrt.merge()?;
        hrt.merge()?;
        check("a call returns its result", hrt.call_alone(add_cpu, 41) == Ok(41))?;
        let mut results = hrt.call_all_alone(add_cpu, 10)?;
        results.sort();
        check("a call on all CPUs returns all results", results == [10, 11])?;
        hrt.unmerge()?;
        check("a call after the merge is undone fails", hrt.call_alone(add_cpu, 1) == Err(CallError::NotMerged))?;
        hrt.merge()?;
        check("a call after another merge works", hrt.call_alone(add_cpu, 1) == Ok(1))?;
        let start = Instant::now();
        let many = (0..1000).all(|number| hrt.call_alone(add_cpu, number) == Ok(number));
        println!("1,000 calls took {:?}", start.elapsed());
        check("1,000 calls return their results", many)
    }
}

/// Posts an event and waits for its result; by the numbers of the protocol, as an image would.
extern "C" fn post_event(record: u64, _: u64) -> u64 {
    let downcall = |number: u64, argument: u64| {
        let mut second = 0x6464_6464_6464_6464_u64;
        let result: u64;
        // SAFETY: the monitor changes RAX and the record; RBX is LLVM's.
        unsafe {
            std::arch::asm!(
                "xchg {second}, rbx", "out 0xdc, eax", "xchg {second}, rbx",
                second = inout(reg) second, inout("rax") 0xf00d_u64 => result, in("rcx") number, in("rdx") argument,
            );
        }
        let _ = second;
        result
    };
    if downcall(0x10, 8) != u64::MAX || downcall(0x1e, 0) != u64::MAX || downcall(0x1f, 0) != u64::MAX {
        return 0;
    }
    if downcall(0x10, record) != 0 || downcall(0x10, record) == 0 {
        return 1;
    }
    while downcall(0x1e, 0) != 0 {
        std::hint::spin_loop();
    }
    // SAFETY: the record is the process's, which waits for this call.
    unsafe { (record as *const u64).add(1).read_volatile() }
}

fn events_are_served(image: &[u8]) -> Checked {
    let hrt = described(image).boot()?;
    check("no event is posted", hrt.next_event(Duration::from_millis(1)).is_none() && !hrt.complete_event(1))?;
    let record = RosEvent::SystemCall([libc::SYS_getppid as u64, 0, 0, 0, 0, 0, 0, 0]).to_record();
    std::thread::scope(|scope| {
        // SAFETY: the HRT is our own kernel.
        unsafe { hrt.merge()? };
        // SAFETY: the function needs nothing of the process but the record.
        let call = scope.spawn(|| unsafe { hrt.call_alone(post_event, record.as_ptr() as u64) });
        let event = hrt.next_event(SOON);
        check("an event is posted", event.map(RosEvent::to_record) == Some(record))?;
        check("it is completed, once", hrt.complete_event(4711) && !hrt.complete_event(1))?;
        check("its result is acknowledged", call.join().ok() == Some(Ok(4711)))
    })
}

fn faults_end_the_hrt_alone(image: &[u8]) -> Checked {
    let hrt = described(image).cpus(2).boot()?;
    // SAFETY: the faults are what is tested.
    unsafe {
        hrt.merge()?;
        let end = End::Ended { ending: protocol::call::Ending::PowerOff, status: 3 };
        let called = hrt.call_alone(read, NOWHERE);
        check(
            "a fault crashes the kernel, and ends the call",
            matches!(called, Err(CallError::Ended(End::Crashed { .. }))),
        )?;
        check("a kernel that is to end after a crash does", hrt.wait(SOON * 5) == Some(end.clone()))?;
        check(
            "a call to an HRT that has ended fails",
            matches!(hrt.call_alone(add_cpu, 1), Err(CallError::Ended(End::Crashed { .. }))),
        )?;
        let said = String::from_utf8_lossy(&hrt.console()?.receive()?).into_owned();
        check("its console has the report", said.contains("*** end of report ***"))?;
        check("it stays how it ended", hrt.stop() == end && hrt.stop() == end)?;
    }
    let hrt = described(image).boot()?;
    // SAFETY: as above.
    let ended = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let forbidden = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_NONE, flags, -1, 0);
        hrt.merge()?;
        hrt.call_alone(read, forbidden as u64)
    };
    let is_named = |why: &str| why.contains("accessed memory that this process has not");
    let is_right = matches!(&ended, Err(CallError::Ended(End::Failed { cpu: 0, why })) if is_named(why));
    check("an access that Linux refuses ends the HRT, and says so", is_right)
}

fn waits_have_an_end(image: &[u8]) -> Checked {
    let hrt = described(image).limit(LIMIT).boot()?;
    // SAFETY: the functions make no system calls and use no thread-local variables.
    unsafe {
        // The kernel boots in the meantime.
        while matches!(hrt.merge(), Err(CallError::NoAnswer(_) | CallError::Busy(_))) {}
        check("an endless call has a deadline", hrt.call_alone(loop_until_told, 0) == Err(CallError::NoAnswer(LIMIT)))?;
        let busy = Err(CallError::Busy(Transaction::Call));
        check("until it is done, the HRT is busy", hrt.call_alone(add_cpu, 1) == busy)?;
        MAY_END.store(true, Ordering::Relaxed);
        while hrt.call_alone(add_cpu, 5) == busy {}
        check("afterwards it takes calls again", hrt.call_alone(add_cpu, 5) == Ok(5))?;
        MAY_END.store(false, Ordering::Relaxed);
        let _ = hrt.call_alone(loop_until_told, 0);
    }
    check("an HRT in an endless loop can be stopped", hrt.stop() == End::Stopped)
}

fn a_fork_leaves_the_hrt_to_its_parent(image: &[u8]) -> Checked {
    let hrt = described(image).boot()?;
    // SAFETY: the function makes no system call. The child uses nothing that another thread may
    // have held at the fork.
    unsafe {
        hrt.merge()?;
        let child = libc::fork();
        if child == 0 {
            let is_right = hrt.call_alone(add_cpu, 1) == Err(CallError::OtherProcess);
            drop(hrt);
            libc::_exit(if is_right { 0 } else { 1 });
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        check(
            "a fork is told that the HRT is its parent's",
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        )?;
        check("the parent's HRT goes on", hrt.call_alone(add_cpu, 3) == Ok(3))
    }
}

fn main() -> Checked {
    let path = std::env::args().nth(1).ok_or("the image is missing: hvm-abuse IMAGE")?;
    let image = fs::read(&path).map_err(|error| format!("{path} cannot be read: {error}"))?;
    let before = (open_files(), threads());
    what_cannot_boot_is_refused(&image)?;
    calls_are_answered(&image)?;
    events_are_served(&image)?;
    faults_end_the_hrt_alone(&image)?;
    waits_have_an_end(&image)?;
    a_fork_leaves_the_hrt_to_its_parent(&image)?;
    for _ in 0..20 {
        // Also while they boot.
        drop(described(&image).cpus(2).boot()?);
    }
    check("nothing is left of 26 HRTs", (open_files(), threads()) == before)?;
    // The process ends with an HRT that runs.
    std::mem::forget(described(&image).boot()?);
    println!("all is right");
    Ok(())
}
