//! `aero ros`: a Linux with a KVM, for a shell or a command.

use std::process::Output;

use e2e::{Session, aero, stderr, stdout};

/// Exit status for something that is missing and cannot be fetched.
const MISSING: i32 = 4;

/// Runs a command in the Linux; `None` where there is no newer QEMU or no Linux to be had.
fn run(options: &[&str], command: &str) -> Option<Output> {
    let output = aero().arg("ros").args(options).args(["--", command]).output().expect("aero can be run");
    if output.status.code() == Some(MISSING) {
        eprintln!("skipped: {}", stderr(&output));
        return None;
    }
    Some(output)
}

#[test]
fn a_command_has_its_output_its_status_and_a_kvm() {
    let command = "cat hello.txt; test -c /dev/kvm && echo a kvm; nproc; echo wrong >&2; exit 7";
    let file = std::env::temp_dir().join(format!("aero-ros-{}", std::process::id())).join("hello.txt");
    std::fs::create_dir_all(file.parent().expect("it has a directory")).expect("a directory can be made");
    std::fs::write(&file, "a file of the host\n").expect("a file can be written");
    let output = run(&["--cpus", "3", "--with", &file.display().to_string()], command);
    std::fs::remove_dir_all(file.parent().expect("it has a directory")).expect("the directory can be removed");
    let Some(output) = output else { return };
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert_eq!(stdout(&output), "a file of the host\na kvm\n3\nwrong\n");
}

#[test]
fn a_command_that_does_not_end_is_ended() {
    let Some(output) = run(&["--timeout", "20"], "echo begun; sleep 1000") else { return };
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("begun"), "{}", stdout(&output));
    assert!(stderr(&output).contains("did not finish within 20 s; --timeout S gives it more"), "{}", stderr(&output));
}

#[test]
fn a_shell_is_a_terminal_that_takes_ctrl_c() {
    if run(&[], "true").is_none() {
        return;
    }
    let mut shell = Session::start_command(&["ros"], "~ # ");
    // One job, so that the process that is interrupted is there once the text is.
    shell.keys("sh -c 'tty; exec sleep 1000'\r");
    shell.wait_for("/dev/ttyS0");
    shell.keys("\x03");
    shell.wait_for("~ # ");
    shell.keys("exit\r");
    assert_eq!(shell.end(), 0);
}
