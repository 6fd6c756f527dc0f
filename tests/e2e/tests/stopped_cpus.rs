//! CPUs around a debugger's stop: stopped CPUs halt, inspection does not disturb an exception in
//! progress, and breakpoints in the code that stops a CPU do no harm.

use std::time::Instant;

use e2e::gdb::{Gdb, line, machine, socket};
use e2e::screen::{self, Screen};
use e2e::{LIMIT, Session};

/// Waits until exactly `count` of the machine's CPUs are halted.
fn wait_for_halted(machine: &mut Screen, count: usize) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let registers = machine.monitor("info registers -a");
        if registers.matches("HLT=1").count() == count {
            return;
        }
        assert!(Instant::now() < deadline, "not {count} CPUs are halted: {registers}");
    }
}

#[test]
fn cpus_that_are_stopped_take_no_time_of_the_host() {
    let (socket, protocol) = (socket("halted"), socket("halted-machine"));
    let mut arguments = vec!["--cpus".to_string(), "3".into()];
    arguments.extend(line(&socket));
    // The first option, `--`, is already there.
    arguments.extend(screen::options(&protocol).into_iter().skip(1));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut shell = Session::start(&arguments);
    let mut machine = Screen::connect(&protocol);
    shell.command("spawn spin 1 1");
    shell.command("spawn spin 1 2");
    wait_for_halted(&mut machine, 1);
    let mut gdb = Gdb::attach(&socket);
    wait_for_halted(&mut machine, 2);
    // The same when CPUs that were resumed stop again.
    for _ in 0..3 {
        gdb.type_in("continue");
        gdb.wait_for("Continuing.");
        wait_for_halted(&mut machine, 1);
        gdb.interrupt();
        gdb.wait_for_prompt();
        wait_for_halted(&mut machine, 2);
    }
    gdb.command("detach");
    wait_for_halted(&mut machine, 1);
    shell.command("kill all");
}

/// An exception during the first instructions of another exception's handler leaves the latter's
/// state intact.
#[test]
fn a_fault_keeps_its_address_whatever_gdb_looks_at_before_its_handler() {
    const PAGE_FAULT: usize = 14;
    let misbehave = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs/misbehave");
    let (mut shell, socket) = machine("fault-address", &["--cpus", "1", "--hrt", misbehave]);
    let mut gdb = Gdb::attach(&socket);
    gdb.command("set language c");
    gdb.command(&format!("hbreak *((char *)&exception_stubs + {PAGE_FAULT} * 16)"));
    gdb.type_in("continue");
    gdb.wait_for("Continuing.");
    shell.keys("run misbehave wild\r");
    let stopped = gdb.wait_for_prompt();
    assert!(stopped.contains("Breakpoint 1, "), "{stopped}");
    // The debugger finds out by a fault of its own that nothing is mapped there.
    assert!(gdb.command("x/8xb 0x10").contains("Cannot access memory at address 0x10"));
    gdb.command("delete");
    let fault = gdb.command("continue");
    assert!(fault.contains("SIGSEGV"), "{fault}");
    gdb.type_in("continue");
    shell.wait_for("misbehave` failed: page fault: write to 0xfffff00000000000");
}

/// A breakpoint in the handler of the NMI that stops a CPU cannot be reported, and must not keep
/// the CPU from stopping.
#[test]
fn a_breakpoint_in_what_handles_an_nmi_keeps_no_cpu_from_stopping() {
    let (mut shell, socket) = machine("nmi-breakpoint", &["--cpus", "2"]);
    let mut gdb = Gdb::attach(&socket);
    gdb.command("hbreak arch::cpu::trap::handle_exception");
    for _ in 0..3 {
        gdb.type_in("continue");
        // The answer shows that the machine runs and gdb waits for a stop.
        shell.command("cpus");
        gdb.interrupt();
        let stopped = gdb.wait_for_prompt();
        assert!(stopped.contains("SIGINT"), "{stopped}");
    }
    gdb.command("detach");
    shell.command("cpus");
}
