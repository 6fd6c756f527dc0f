//! What a debugger's user notices of the CPUs that are stopped: nothing.

use std::time::Instant;

use e2e::gdb::{Gdb, line, socket};
use e2e::screen::{self, Screen};
use e2e::{LIMIT, Session};

/// Waits until as many of a machine's CPUs are halted.
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
    // Behind the `--` that there is already.
    arguments.extend(screen::options(&protocol).into_iter().skip(1));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut shell = Session::start(&arguments);
    let mut machine = Screen::connect(&protocol);
    shell.command("spawn spin 1 1");
    shell.command("spawn spin 1 2");
    wait_for_halted(&mut machine, 1);
    let mut gdb = Gdb::attach(&socket);
    wait_for_halted(&mut machine, 2);
    // And again, from where they have been told to go on.
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
