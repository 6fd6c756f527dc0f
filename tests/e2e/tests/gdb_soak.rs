//! Debuggers that come and go under full load: no stop is lost, and there is no unrequested one.
//! `./aero test soak` runs it, and `./aero test soak --long` runs more of it.

use std::path::Path;

use e2e::gdb::{Client, Gdb, machine};

/// Number of cycles unless `AERO_SOAK_CYCLES` says otherwise.
const CYCLES: usize = 1000;
/// Number of cycles with a real gdb, which attaches slowly.
const GDB_CYCLES: usize = 20;

/// Returns a function's address after its prologue.
fn address_of(gdb: &mut Gdb, function: &str) -> String {
    let said = gdb.command(&format!("tbreak {function}"));
    gdb.command("delete");
    let at = said.split("0x").nth(1).and_then(|rest| rest.split(|digit: char| !digit.is_ascii_hexdigit()).next());
    at.unwrap_or_else(|| panic!("gdb does not know {function}: {said}")).to_string()
}

/// Attaches, stops at a breakpoint, continues, stops by Ctrl-C, detaches.
fn cycle(socket: &Path, number: usize, address: &str) {
    let mut client = Client::connect(socket);
    assert!(client.ask("qSupported:swbreak+;hwbreak+").contains("PacketSize"), "cycle {number}");
    let stopped = client.ask("?");
    assert!(stopped.starts_with("$T05"), "cycle {number}: attached to {stopped}");
    let kind = if number.is_multiple_of(2) { "0" } else { "1" };
    assert!(client.ask(&format!("Z{kind},{address},1")).contains("OK"), "cycle {number}");
    let name = if number.is_multiple_of(2) { "swbreak" } else { "hwbreak" };
    for _ in 0..2 {
        let stopped = client.resume("vCont;c");
        assert!(stopped.starts_with("$T05") && stopped.contains(name), "cycle {number}: {stopped} at no {name}");
    }
    assert!(client.ask(&format!("z{kind},{address},1")).contains("OK"), "cycle {number}");
    let stopped = client.resume_and_interrupt("vCont;c");
    assert!(stopped.starts_with("$T02"), "cycle {number}: {stopped} for a Ctrl-C");
    assert!(client.ask("D").contains("OK"), "cycle {number}");
}

#[test]
#[ignore = "takes minutes; `./aero test soak` runs it"]
fn many_gdbs_lose_no_stop_and_get_none_too_many() {
    let cycles = std::env::var("AERO_SOAK_CYCLES").map_or(CYCLES, |count| count.parse().expect("a number"));
    let misbehave = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/programs/misbehave");
    let (mut shell, socket) = machine("soak", &["--cpus", "4", "--hrt", misbehave]);
    for load in ["spawn yield 8", "spawn allocate 8", "spawn sleep 8", "run misbehave busy &"] {
        shell.command(load);
    }
    let mut gdb = Gdb::attach(&socket);
    // The functions that handle all interrupts and the timer's interrupt.
    let addresses =
        ["kernel::interrupts::dispatch", "kernel::time::timer::interrupt"].map(|of| address_of(&mut gdb, of));
    gdb.command("detach");
    drop(gdb);
    for number in 0..cycles {
        cycle(&socket, number, &addresses[number / 2 % addresses.len()]);
    }
    for number in 0..GDB_CYCLES {
        let mut gdb = Gdb::attach(&socket);
        gdb.command("tbreak kernel::time::timer::interrupt");
        gdb.type_in("continue");
        let stopped = gdb.wait_for_prompt();
        assert!(stopped.contains("hit Temporary breakpoint"), "gdb {number}: {stopped}; all of it:\n{}", gdb.all());
        gdb.command("detach");
    }
    shell.keys("kill all\r");
    shell.wait_for("ended");
    shell.wait_for("aero> ");
    assert!(shell.command("uptime").contains("up "));
    let threads = shell.command("threads");
    assert!(!threads.contains("load-") && !threads.contains("misbehave"), "{threads}");
}
