//! What happens to a process while its hybrid runtime (HRT) runs: signals, kills, execs, exits,
//! threads that end, and an HRT that ends badly. The project's tests run it: `hvm-process IMAGE`.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hvm::{Builder, CallError, End, Hvm};

type Checked = Result<(), Box<dyn Error>>;

const LONG: Duration = Duration::from_secs(30);
static MAY_END: AtomicBool = AtomicBool::new(false);
static ROUNDS: AtomicU64 = AtomicU64::new(0);

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

/// Waits for a line at standard input, as C code would.
extern "C" fn wait_for_input(_: u64, _: u64) -> u64 {
    let mut byte = 0_u8;
    // SAFETY: there is room for the byte.
    unsafe { libc::read(0, (&raw mut byte).cast(), 1) as u64 }
}

extern "C" fn ask_for_parent(_: u64, _: u64) -> u64 {
    // SAFETY: the call only returns a number.
    unsafe { libc::getppid() as u64 }
}

extern "C" fn loop_until_told(_: u64, _: u64) -> u64 {
    while !MAY_END.load(Ordering::Relaxed) {
        ROUNDS.fetch_add(1, Ordering::Relaxed);
    }
    7
}

extern "C" fn end_this_thread(_: u64, _: u64) -> u64 {
    // SAFETY: the thread has nothing that is waited for.
    unsafe { libc::syscall(libc::SYS_exit, 0) as u64 }
}

/// Takes away what the CPU needs to handle a fault, and faults.
extern "C" fn fault_three_times(_: u64, _: u64) -> u64 {
    let nothing = [0_u8; 10];
    // SAFETY: none; it ends the HRT.
    unsafe { std::arch::asm!("cli", "lidt [{}]", "ud2", in(reg) &nothing) };
    0
}

/// Calls a function that makes a system call, some hundred times a second, until told to end.
fn make_calls(hrt: &Hvm) -> Checked {
    println!("ready");
    let reader = std::thread::spawn(|| std::io::stdin().read_line(&mut String::new()));
    while !reader.is_finished() {
        // SAFETY: the function does what ordinary code does.
        unsafe { hrt.call(ask_for_parent, 0)? };
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("done");
    Ok(())
}

/// What a child of this program does with its HRT, by its second argument.
fn child(image: &[u8], what: &str) -> Checked {
    // Its calls last as long as the parent, or a person at the console, wants.
    let hrt = described(image).limit(20 * LONG).share().boot()?;
    // SAFETY: the functions do what ordinary code does.
    unsafe { hrt.merge()? };
    if what == "calls" {
        return make_calls(&hrt);
    }
    std::thread::scope(|scope| {
        // SAFETY: as above.
        let call = scope.spawn(|| unsafe { hrt.call(loop_until_told, 0) });
        while ROUNDS.load(Ordering::Relaxed) < 1000 {
            std::thread::yield_now();
        }
        println!("ready");
        match what {
            "exit" => std::process::exit(9),
            // A second group, which waits in a system call.
            "wait" => {
                // SAFETY: as above.
                println!("{:?}", unsafe { hrt.call(wait_for_input, 0) });
                MAY_END.store(true, Ordering::Relaxed);
            }
            "exec" => return Err(Command::new("/proc/self/exe").args(["none", "done"]).exec().into()),
            // Until the parent says so.
            _ => {
                let mut line = String::new();
                std::io::stdin().read_line(&mut line)?;
                MAY_END.store(true, Ordering::Relaxed);
            }
        }
        let result = call.join().map_err(|_| "the thread panicked")?;
        println!("{}", result?);
        Ok(())
    })
}

/// Starts a child that does something with an HRT, and waits until it does.
fn start(image: &str, what: &str) -> Result<(Child, BufReader<std::process::ChildStdout>), Box<dyn Error>> {
    let mut command = Command::new("/proc/self/exe");
    let mut child = command.args([image, what]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(child.stdout.take().ok_or("the child has no output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    check(&format!("a process runs a function in its HRT ({what})"), line == "ready\n")?;
    Ok((child, output))
}

fn send(child: &Child, signal: i32) {
    // SAFETY: the child is this process's, and has not been waited for.
    unsafe { libc::kill(child.id() as i32, signal) };
}

fn others_can_do_what_they_like_to_the_process(image: &str) -> Checked {
    let (mut killed, _) = start(image, "killed")?;
    let start_of_kill = Instant::now();
    send(&killed, libc::SIGKILL);
    check("it can be killed", killed.wait()?.signal() == Some(libc::SIGKILL) && start_of_kill.elapsed() < LONG)?;

    let (mut stopped, mut output) = start(image, "stopped")?;
    let state = |child: &Child| {
        let text = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
    };
    send(&stopped, libc::SIGSTOP);
    while state(&stopped) != Some('T') {
        std::thread::yield_now();
    }
    check("it can be stopped", true)?;
    send(&stopped, libc::SIGCONT);
    drop(stopped.stdin.take());
    let mut line = String::new();
    output.read_line(&mut line)?;
    check("it goes on afterwards", line == "7\n" && stopped.wait()?.success())?;

    let (mut ends, _) = start(image, "exit")?;
    check("it can end meanwhile", ends.wait()?.code() == Some(9))?;
    let (mut executes, mut output) = start(image, "exec")?;
    line.clear();
    output.read_line(&mut line)?;
    check("it can execute another program meanwhile", line == "done\n" && executes.wait()?.success())
}

fn children_can_be_made_while_the_hrt_runs(hrt: &Hvm) -> Checked {
    std::thread::scope(|scope| {
        // SAFETY: the function does what ordinary code does.
        let call = scope.spawn(|| unsafe { hrt.call(loop_until_told, 0) });
        let before = ROUNDS.load(Ordering::Relaxed);
        while ROUNDS.load(Ordering::Relaxed) < before + 1000 {
            std::thread::yield_now();
        }
        for _ in 0..5 {
            let output = Command::new("/proc/self/exe").args(["none", "done"]).output()?;
            check("a child is made and ends while the HRT runs", output.stdout == b"done\n")?;
        }
        MAY_END.store(true, Ordering::Relaxed);
        check("the HRT went on", matches!(call.join(), Ok(Ok(7))))
    })
}

extern "C" fn call_and_end(hrt: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: the thread that made this one waits for its end, and keeps the HRT.
    let _ = unsafe { (*hrt.cast::<Hvm>()).call(end_this_thread, 0) };
    std::ptr::null_mut()
}

fn a_thread_can_end_in_the_hrt(hrt: &Hvm) -> Checked {
    // SAFETY: the thread is waited for, and uses nothing but the HRT.
    let joined = unsafe {
        let mut thread = 0;
        libc::pthread_create(&mut thread, std::ptr::null(), call_and_end, std::ptr::from_ref(hrt).cast_mut().cast());
        libc::pthread_join(thread, std::ptr::null_mut())
    };
    check("a thread that ends in the HRT has ended", joined == 0)?;
    // SAFETY: the function does what ordinary code does.
    let result = std::thread::scope(|scope| scope.spawn(|| unsafe { hrt.call(echo, 3) }).join());
    check("other threads have their groups", matches!(result, Ok(Ok(3))))
}

/// Makes downcalls with random numbers and arguments, but none that ends the HRT or says that it
/// has crashed.
extern "C" fn make_random_downcalls(count: u64, _: u64) -> u64 {
    const END: u64 = 0x1000;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut failed = 0;
    for _ in 0..count {
        let bits = next();
        let number = match bits % 4 {
            // But for the reset.
            0 => (bits >> 8 & 0x7f) | 1,
            1 => END + 1 + (bits >> 8) % 4,
            2 => bits >> 32,
            _ => 0,
        };
        let (mark, second) = match bits >> 60 {
            0 => (next(), 0x6464_6464_6464_6464),
            1 => (0xf00d, next()),
            _ => (0xf00d, 0x6464_6464_6464_6464_u64),
        };
        let result: u64;
        // SAFETY: the monitor changes RAX only, whatever it is asked for; RBX is LLVM's.
        unsafe {
            std::arch::asm!(
                "xchg {second}, rbx", "out 0xdc, eax", "xchg {second}, rbx",
                second = inout(reg) second => _, inout("rax") mark => result,
                in("rcx") number, in("rdx") next(), in("rsi") next(), in("rdi") next(),
            );
        }
        failed += u64::from(result == u64::MAX);
    }
    failed
}

fn nonsense_of_the_hrt_harms_nothing(hrt: &Hvm) -> Checked {
    const COUNT: u64 = 50_000;
    // SAFETY: the requests are what is tested.
    let failed = unsafe { hrt.call(make_random_downcalls, COUNT)? };
    check("most random requests of the HRT fail", failed > COUNT / 4 && failed < COUNT)?;
    // SAFETY: the function does what ordinary code does.
    let (called, alone) = unsafe { (hrt.call(echo, 4), hrt.call_alone(echo, 5)) };
    check("calls work afterwards", called == Ok(4) && alone == Ok(5))
}

/// Threads of the library that a function ends never come back to say what became of their calls.
fn workers_can_end_in_calls(image: &[u8]) -> Checked {
    let hrt = Hvm::builder(image).memory(64 << 20).command_line("panic=exit").limit(LONG).boot()?;
    // SAFETY: the threads have nothing that is waited for; the other function does what ordinary
    // code does.
    let (ended, further, called) = unsafe {
        hrt.merge()?;
        (hrt.call_all(end_this_thread, 0), hrt.call_all(echo, 1), hrt.call(echo, 2))
    };
    check("a parallel call says that its threads ended", matches!(ended, Err(CallError::ThreadEnded)))?;
    check("the next one has new threads", further == Ok(vec![1]))?;
    check("other calls work", called == Ok(2))
}

fn an_hrt_can_end_badly(image: &[u8]) -> Checked {
    let file = std::env::temp_dir().join(format!("hvm-process-{}.crash", std::process::id()));
    // With a prompt after the crash.
    let hrt = Hvm::builder(image).memory(64 << 20).limit(LONG).crash_file(&file).boot()?;
    // SAFETY: the fault is what is tested.
    let (before, ended) = unsafe {
        hrt.merge()?;
        (std::thread::scope(|scope| scope.spawn(|| hrt.call(echo, 1)).join()), hrt.call(fault_three_times, 0))
    };
    check("a call works before", matches!(before, Ok(Ok(1))))?;
    let is_crash = |end: &End| matches!(end, End::Crashed { file: Some(path), .. } if *path == file);
    check("a triple fault crashes the kernel", matches!(&ended, Err(CallError::Ended(end)) if is_crash(end)))?;
    check("its crash file is there", fs::metadata(&file).is_ok_and(|file| file.len() > 100_000))?;
    let said = said_after(&hrt, "groups\nchannel 0\n", "call")?;
    check("its prompt has the groups", said.contains("post-mortem>") && said.contains("running"))?;
    // SAFETY: the function is not called.
    let further = unsafe { [hrt.call(echo, 1), hrt.call_alone(echo, 1), hrt.call_all(echo, 1).map(|_| 1)] };
    check(
        "further calls fail",
        further.iter().all(|call| matches!(call, Err(CallError::Ended(end)) if is_crash(end))),
    )?;
    check("it can be stopped", hrt.stop() == End::Stopped)?;
    fs::remove_file(&file)?;
    let hrt = described(image).boot()?;
    // SAFETY: the HRT is our own kernel.
    unsafe { hrt.merge()? };
    hrt.console()?.send(b"panic\n")?;
    let ended = hrt.wait(LONG);
    check("a panic ends the HRT with its status", matches!(ended, Some(End::Ended { status: 3, .. })))?;
    // SAFETY: the function is not called.
    check("further calls fail", matches!(unsafe { hrt.call(echo, 1) }, Err(CallError::Ended(_))))
}

/// Types at an HRT's console and returns what it says until a word comes.
fn said_after(hrt: &Hvm, typed: &str, word: &str) -> Result<String, Box<dyn Error>> {
    let console = hrt.console()?;
    console.send(typed.as_bytes())?;
    let deadline = Instant::now() + LONG;
    let mut said = String::new();
    while !said.contains(word) && Instant::now() < deadline {
        said += &String::from_utf8_lossy(&console.receive()?);
        std::thread::yield_now();
    }
    // Without the bytes that mean something to the line that this goes over.
    println!("{}", said.replace(|character: char| character != '\n' && character.is_control(), ""));
    Ok(said)
}

fn main() -> Checked {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("the image is missing: hvm-process IMAGE")?;
    let what = arguments.next();
    if what.as_deref() == Some("done") {
        println!("done");
        return Ok(());
    }
    let image = fs::read(&path).map_err(|error| format!("{path} cannot be read: {error}"))?;
    if let Some(what) = what {
        return child(&image, &what);
    }
    others_can_do_what_they_like_to_the_process(&path)?;
    an_hrt_can_end_badly(&image)?;
    workers_can_end_in_calls(&image)?;
    let hrt = described(&image).boot()?;
    // SAFETY: the HRT is our own kernel.
    unsafe { hrt.merge()? };
    children_can_be_made_while_the_hrt_runs(&hrt)?;
    a_thread_can_end_in_the_hrt(&hrt)?;
    nonsense_of_the_hrt_harms_nothing(&hrt)?;
    check("the HRT can be stopped at the end", hrt.stop() == End::Stopped)?;
    println!("all is right");
    Ok(())
}
