//! Unmodified Linux programs in kernel mode, at a terminal.

use e2e::{Session, aero, stderr};

const MISSING: i32 = 4;

/// A program in an emulated Linux has the terminal.
#[test]
fn a_person_can_work_with_a_program() {
    let output = aero().args(["run", "--emulate", "--", "/bin/true"]).output().expect("aero can be run");
    if output.status.code() == Some(MISSING) {
        eprintln!("skipped: {}", stderr(&output));
        return;
    }
    let mut session = Session::start_command(&["run", "--emulate", "--", "/bin/sh", "-i"], "# ");
    session.keys("echo $((6 * 7)) $(stty size)\r");
    session.wait_for("42 40 100\r\n");
    // Only once the command runs does the key reach it, and not the shell.
    session.keys("sh -c 'echo be''gun; sleep 1000'\r");
    session.wait_for("begun\r\n");
    session.keys("\x03");
    session.wait_for("# ");
    session.keys("exit 7\r");
    assert_eq!(session.end(), 7, "{}", session.all());
}
