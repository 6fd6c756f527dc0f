//! `aero knc boot`: the kernel for Knights Corner on a card that QEMU emulates.

use std::process::Output;

use e2e::{Session, aero, stderr, stdout};

fn run(script: &str, options: &[&str]) -> Output {
    aero().args(["knc", "boot", "--run", script]).args(options).output().expect("aero can be run")
}

/// Benchmarks that every machine has.
const ROWS: [&str; 8] = [
    "empty",
    "thread_create_join",
    "context_switch",
    "event_wake_remote_idle",
    "remote_call",
    "timer_lateness",
    "fiber_switch",
    "barrier_all",
];

#[test]
fn the_card_boots_by_its_own_protocol_and_all_benchmarks_run() {
    let output = run("log; cpus; bench --json", &["--timeout", "300"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("on Knights Corner, by the card's bootstrap") && text.contains("2 of 2 CPUs run"), "{text}");
    let json = &text[text.find("{\"meta\"").expect("there is JSON")..];
    let result: serde_json::Value = serde_json::from_str(json).expect("it is JSON");
    let rows = result["results"].as_array().expect("there are results");
    for name in ROWS {
        let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name}: {text}"));
        assert!(row["count"].as_u64() > Some(0) && (name == "empty") == (row["median"] == 0), "{row}");
    }
    // The kernel does not preserve vector state on the card, so there is no benchmark of it.
    assert!(rows.len() > 50 && rows.iter().all(|row| row["name"] != "context_switch_vectors"), "{text}");
}

#[test]
fn a_crash_on_the_card_is_reported_with_names() {
    let output = run("panic null", &[]);
    let report = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{report}");
    assert!(report.contains("page fault: read from 0x0") && report.contains("console::commands::control"), "{report}");
    assert!(report.contains("CPU 1 was at:") && report.contains("the kernel crashed"), "{report}");
    assert_eq!(run("nonsense", &[]).status.code(), Some(2));
}

#[test]
fn the_cards_console_takes_more_than_its_ring_holds() {
    let mut session = Session::start_command(&["knc", "boot", "--threads", "1"], "aero> ");
    // 8 KiB pass through a 4 KiB ring in, and more through the ring out.
    let line = format!("nonsense{}", "x".repeat(70));
    for _ in 0..100 {
        session.keys(format!("{line}\r"));
    }
    session.keys("uptime\r");
    let text = session.wait_for("ready after");
    assert_eq!(text.matches("there is no command").count(), 100, "{text}");
    session.keys("poweroff\r");
    assert_eq!(session.end(), 0);
}

#[test]
fn a_ctrl_c_reaches_a_command_on_the_cards_polled_console() {
    let mut session = Session::start_command(&["knc", "boot", "--threads", "2"], "aero> ");
    session.keys("watch 1 uptime\r");
    session.wait_for("every 1 s: uptime");
    session.keys("\x03");
    session.wait_for("aero> ");
    session.keys("poweroff\r");
    assert_eq!(session.end(), 0);
}
