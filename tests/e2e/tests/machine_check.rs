//! Hardware errors: QEMU's monitor injects one, and the kernel reports it.

use e2e::Session;
use e2e::screen::{self, Screen};

#[test]
fn a_machine_check_is_reported_with_what_its_bank_says() {
    let protocol = std::env::temp_dir().join(format!("aerokernel-check-{}.qmp", std::process::id()));
    let options = screen::options(&protocol);
    let mut arguments = vec!["--cpus", "2"];
    arguments.extend(options.iter().map(String::as_str));
    let mut shell = Session::start(&arguments);
    let mut machine = Screen::connect(&protocol);
    // An uncorrected error that corrupted the processor's context, with its address (SDM Vol. 3B,
    // 16.3.2.2).
    machine.monitor("mce 1 0 0xb600000000000001 0x4 0x12345000 0");
    let report = shell.wait_for("*** end of report ***");
    assert!(report.contains("machine check (vector 18"), "{report}");
    assert!(report.contains("on CPU 1"), "{report}");
    assert!(report.contains("bank 0: status 0xb600000000000001, address 0x12345000"), "{report}");
    // The machine can still be inspected.
    shell.wait_for("post-mortem> ");
    let _ = std::fs::remove_file(&protocol);
}
