//! A real gdb on the kernel's own stub: on all CPUs, whatever they do, and whatever becomes of gdb.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use e2e::gdb::{Gdb, line, socket};
use e2e::{LIMIT, Session};

fn machine(name: &str, options: &[&str]) -> (Session, std::path::PathBuf) {
    let socket = socket(name);
    let mut arguments: Vec<String> = options.iter().map(|option| (*option).into()).collect();
    arguments.extend(line(&socket));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    (Session::start(&arguments), socket)
}

#[test]
fn every_cpu_is_a_thread_with_its_registers() {
    let (mut shell, socket) = machine("cpus", &["--cpus", "4"]);
    shell.command("spawn spin 1 2");
    let mut gdb = Gdb::attach(&socket);
    let threads = gdb.command("info threads");
    for cpu in 0..4 {
        assert!(threads.contains(&format!("(CPU {cpu}, thread ")), "{threads}");
    }
    assert!(threads.contains("\"load-spin\""), "{threads}");
    gdb.command("thread 3");
    assert!(gdb.command("backtrace").contains("console::load::"), "CPU 2 does not run the load");
    let registers = gdb.command("info registers rip eflags cs gs_base cr3 efer xmm0 mxcsr");
    assert!(registers.contains("mxcsr          0x1f80") && registers.contains("uint128"), "{registers}");
    assert!(gdb.command("x/2gx 0").contains("Cannot access memory at address 0x0"));
    // The local APIC's registers are not to be read by a debugger.
    assert!(gdb.command("x/wx 0xffffa00000000000").contains("Cannot access memory"));
    gdb.command("detach");
    assert!(shell.command("uptime").contains("up "));
}

#[test]
fn breakpoints_steps_and_watchpoints() {
    let (mut shell, socket) = machine("break", &["--cpus", "4"]);
    let mut gdb = Gdb::attach(&socket);
    let planted = gdb.command("break console::commands::inspect::uptime");
    assert!(planted.contains("Breakpoint 1 at"), "{planted}");
    gdb.type_in("continue");
    shell.keys("uptime\r");
    let stopped = gdb.wait_for_prompt();
    assert!(
        stopped.contains("hit Breakpoint 1") && stopped.contains("console::commands::inspect::uptime"),
        "{stopped}"
    );
    assert!(gdb.command("backtrace").contains("console::shell::"));
    // Only this CPU moves, and by one instruction at a time.
    gdb.command("set scheduler-locking on");
    let before = gdb.command("print/x $pc");
    for _ in 0..20 {
        gdb.command("stepi");
    }
    assert_ne!(gdb.command("print/x $pc"), before);
    gdb.command("set scheduler-locking off");
    let stepped = gdb.command("next");
    assert!(!stepped.contains("error") && !stepped.contains("SIG"), "{stepped}");
    gdb.command("delete");
    // A write that is made by another command.
    let watched = gdb.command("watch -l log::MAX_LOG_LEVEL_FILTER");
    assert!(watched.contains("Hardware watchpoint"), "{watched}");
    gdb.type_in("continue");
    shell.wait_for("up ");
    shell.keys("log debug\r");
    let stopped = gdb.wait_for_prompt();
    assert!(stopped.contains("Hardware watchpoint") && stopped.contains("New value"), "{stopped}");
    gdb.command("delete");
    let hardware = gdb.command("hbreak console::commands::inspect::uptime");
    assert!(hardware.contains("Hardware assisted breakpoint"), "{hardware}");
    gdb.type_in("continue");
    shell.keys("\ruptime\r");
    assert!(gdb.wait_for_prompt().contains("console::commands::inspect::uptime"));
    // Killed, it leaves the kernel running, without a breakpoint.
    gdb.command("kill");
    shell.wait_for("up ");
    shell.wait_for("\x1b[K");
    assert!(shell.command("uptime").contains("up "));
}

#[test]
fn a_cpu_that_spins_with_interrupts_off_is_stopped() {
    let (mut shell, socket) = machine("deaf", &["--cpus", "4"]);
    let mut gdb = Gdb::attach(&socket);
    // On the CPU that listens to gdb, up to where the load has switched interrupts off.
    gdb.command("tbreak console::load::work");
    gdb.type_in("continue");
    shell.keys("spawn deaf 1 0\r");
    assert!(gdb.wait_for_prompt().contains("hit Temporary breakpoint"));
    assert!(gdb.command("info registers eflags").contains("IF"), "interrupts are off already");
    gdb.command("set language c");
    for line in ["while ((int)$eflags & 0x200)", "stepi", "end"] {
        gdb.type_in(line);
    }
    let stepped = gdb.wait_for_prompt();
    assert!(!gdb.command("info registers eflags").contains("IF"), "interrupts are still on: {stepped}");
    for _ in 0..3 {
        gdb.type_in("continue");
        gdb.wait_for("Continuing.");
        gdb.interrupt();
        let stopped = gdb.wait_for_prompt();
        assert!(stopped.contains("SIGINT"), "{stopped}");
        assert!(gdb.command("thread 1").contains("Thread 1.1"));
        let backtrace = gdb.command("backtrace");
        assert!(backtrace.contains("console::load::work"), "{backtrace}");
        let flags = gdb.command("info registers eflags rip");
        assert!(!flags.contains("IF"), "interrupts are on: {flags}{backtrace}");
    }
    gdb.command("detach");
}

#[test]
fn faults_and_panics_stop_before_they_are_reported() {
    let misbehave = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/programs/misbehave");
    let (mut shell, socket) = machine("faults", &["--cpus", "2", "--hrt", misbehave]);
    let mut gdb = Gdb::attach(&socket);
    gdb.type_in("continue");
    shell.keys("run misbehave null\r");
    let stopped = gdb.wait_for_prompt();
    assert!(stopped.contains("SIGSEGV"), "{stopped}");
    // In the program's own code.
    assert!(gdb.command("print/x $pc").contains("0xffffb0"));
    gdb.type_in("continue");
    shell.wait_for("page fault: read from 0x0");
    shell.wait_for("failed");
    shell.wait_for("\x1b[K");
    shell.keys("panic\r");
    let stopped = gdb.wait_for_prompt();
    assert!(stopped.contains("SIGTRAP"), "{stopped}");
    assert!(gdb.command("backtrace").contains("kernel::panic::panicked"));
    gdb.type_in("continue");
    shell.wait_for("*** Aerokernel crash report ***");
    shell.wait_for("*** end of report ***");
}

/// A packet with its frame.
fn packet(text: &str) -> String {
    let sum = text.bytes().fold(0u8, u8::wrapping_add);
    format!("${text}#{sum:02x}")
}

/// Times a packet is sent, as gdb does it: the protocol is made for lines that lose bytes.
const TRIES: usize = 3;

/// Sends a packet and returns the answer's text.
fn ask(stream: &mut UnixStream, text: &str) -> String {
    let mut answer = Vec::new();
    let mut tries = 0;
    stream.write_all(packet(text).as_bytes()).expect("the line takes bytes");
    while !(answer.len() > 3 && answer[answer.len() - 3] == b'#') {
        let mut byte = [0];
        match stream.read_exact(&mut byte) {
            Ok(()) => answer.push(byte[0]),
            Err(error) => {
                tries += 1;
                assert!(answer.is_empty() && tries < TRIES, "no answer to {text}: {error} after {answer:?}");
                stream.write_all(packet(text).as_bytes()).expect("the line takes bytes");
            }
        }
    }
    stream.write_all(b"+").expect("the line takes bytes");
    String::from_utf8_lossy(&answer).into_owned()
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("QEMU listens");
    stream.set_read_timeout(Some(LIMIT / 10)).expect("a time");
    stream.set_write_timeout(Some(LIMIT)).expect("a time");
    stream
}

#[test]
fn the_line_stands_noise_and_gdbs_that_come_and_go() {
    let (mut shell, socket) = machine("noise", &["--cpus", "2"]);
    // Nobody says goodbye.
    for _ in 0..100 {
        let mut stream = connect(&socket);
        assert!(ask(&mut stream, "qSupported:swbreak+").contains("PacketSize"));
    }
    for _ in 0..300 {
        let mut stream = connect(&socket);
        assert!(ask(&mut stream, "qSupported:swbreak+").contains("PacketSize"));
        assert!(ask(&mut stream, "D").contains("OK"));
    }
    let mut stream = connect(&socket);
    stream.write_all(&[b'a'; 1 << 16]).expect("the line takes bytes");
    stream.write_all(b"$m0,").expect("the line takes bytes");
    stream.write_all(&[b'1'; 1 << 17]).expect("the line takes bytes");
    stream.write_all(b"#00$g#00\xff\x00$").expect("the line takes bytes");
    drop(stream);
    let mut gdb = Gdb::attach(&socket);
    assert!(gdb.command("info threads").contains("CPU 1"));
    gdb.command("break console::commands::inspect::uptime");
    gdb.type_in("continue");
    gdb.wait_for("Continuing.");
    // It dies with a breakpoint in the code: the next one gets in.
    gdb.die();
    let mut gdb = Gdb::attach(&socket);
    gdb.command("detach");
    assert!(shell.command("uptime").contains("up "));
}

#[test]
fn gdb_can_be_waited_for_at_boot() {
    let socket = socket("wait");
    let mut arguments = vec!["--cpus".into(), "2".into(), "--append".into(), "gdb=wait".into()];
    arguments.extend(line(&socket));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut shell = Session::start_until(&arguments, "waiting for gdb on the second serial line");
    let mut gdb = Gdb::attach(&socket);
    assert!(gdb.command("backtrace").contains("kernel::start::kernel_main"));
    assert!(!gdb.command("info threads").contains("CPU 1"), "another CPU runs already");
    gdb.command("detach");
    shell.wait_for("aero> ");
    assert!(shell.command("cpus").contains("1"));
}

#[test]
fn aero_gdb_boots_attaches_and_leaves_nothing_behind() {
    let mut command = e2e::aero();
    command.args(["gdb", "--cpus", "3", "--append", "gdb=wait", "--", "-nx", "-batch"]);
    for line in ["backtrace", "tbreak kernel::scheduler::idle", "continue", "info threads", "detach"] {
        command.args(["-ex", line]);
    }
    let output = command.stdin(std::process::Stdio::null()).output().expect("aero can be run");
    let (out, errors) = (e2e::stdout(&output), e2e::stderr(&output));
    assert!(output.status.success(), "{out}{errors}");
    assert!(out.contains("kernel::start::kernel_main"), "{out}{errors}");
    assert!(out.contains("Temporary breakpoint 1, kernel::scheduler::idle"), "{out}{errors}");
    assert!(out.contains("kernel/src/scheduler/mod.rs"), "no sources: {out}");
    let console = errors.lines().find_map(|line| line.split_once("console goes to ")).expect("a place").1;
    assert!(!Path::new(console).exists(), "{console} is left");
}
