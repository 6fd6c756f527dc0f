//! The shell on a pseudo-terminal, editing keys included.

use e2e::Session;

#[test]
fn a_session_with_every_command() {
    let mut shell = Session::start(&["--cpus", "2"]);
    assert!(shell.command("help").contains("runqueues"));
    assert!(shell.command("help peek").contains("where nothing is mapped is an error"));
    let cpus = shell.command("cpus");
    assert!(cpus.lines().any(|line| line.trim_start().starts_with("1 ")), "{cpus}");
    assert!(shell.command("threads").contains("main"));
    assert!(shell.command("thread 2").contains("\"main\" on CPU 0: running"));
    let trace = shell.command("bt 2");
    assert!(trace.contains("kernel::observe::backtrace::of_thread") && trace.contains(" at kernel/src/"), "{trace}");
    assert!(shell.command("runqueues").contains("CPU 0: runs 2 main"));
    assert!(shell.command("mem").contains("in use with it"));
    assert!(shell.command("irqs").contains("line 4 -> CPU 0"));
    assert!(shell.command("timers").contains("fired"));
    assert!(shell.command("uptime").contains("ready after"));
    assert!(shell.command("acpi").contains("APIC"));
    assert!(shell.command("log").contains("Aerokernel"));
    shell.keys("poweroff\r");
    assert_eq!(shell.end(), 0);
}

#[test]
fn editing_keys_work() {
    let mut shell = Session::start(&[]);
    // A typing error, then corrected in the middle: "uptme" becomes "uptime".
    assert!(shell.command("uptme\x1b[D\x1b[Di").contains("ready after"));
    // Home, End, Delete.
    assert!(shell.command("xuptim\x1b[H\x1b[3~\x1b[Fe").contains("ready after"));
    // History: the previous line, changed.
    shell.command("help cpus");
    assert!(shell.command("\x1b[A\x7f\x7f\x7f\x7fmem").contains("memory by NUMA node"));
    // Completion.
    assert!(shell.command("upt\t").contains("ready after"));
    // Ctrl-C abandons the line, even that of a dangerous command.
    shell.keys("panic\x03");
    shell.wait_for("^C");
    shell.wait_for("aero> ");
    assert!(shell.command("uptime").contains("ready after"));
    // The prompt shows the status of the last command.
    shell.keys("nonsense\r");
    assert!(shell.wait_for("aero [2]> ").contains("there is no command `nonsense`"));
}

#[test]
fn what_is_typed_stays_in_sight_when_a_program_in_the_background_says_something() {
    let misbehave = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs/misbehave");
    let mut shell = Session::start(&["--hrt", misbehave]);
    shell.command("run misbehave patient &");
    shell.keys("uptx\x7f");
    // The program ends before, while or after the line is typed.
    shell.wait_for("program misbehave");
    shell.wait_for("\n\raero> upt");
    shell.keys("ime\r");
    shell.wait_for("ready after");
}

#[test]
fn long_lines_and_noise_do_no_harm() {
    let mut shell = Session::start(&[]);
    let long = "x".repeat(10_000);
    shell.keys(&long);
    shell.keys("\r");
    assert!(shell.wait_for("aero [2]> ").contains("the line of 10000 characters is longer than 1024"));
    // All bytes but Ctrl-A (aero's own key), newlines and Ctrl-D.
    let noise: Vec<u8> = (0..20_000u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .filter(|byte| !matches!(byte, 1 | 4 | 10 | 13))
        .collect();
    shell.keys(noise);
    shell.keys("\x03\x03\x03\r");
    shell.keys("\x03");
    shell.keys("log warn; uptime\r");
    shell.wait_for("ready after");
}

#[test]
fn load_is_spawned_shown_steered_around_and_killed() {
    let mut shell = Session::start(&["--cpus", "4"]);
    assert!(shell.command("spawn yield 40").contains("40 threads"));
    shell.command("spawn spin 8");
    shell.command("spawn allocate 4; spawn sleep 4");
    for _ in 0..5 {
        let threads = shell.command("threads");
        assert_eq!(threads.matches("load-yield").count(), 40, "{threads}");
        assert_eq!(threads.matches("load-spin").count(), 8, "{threads}");
    }
    // With the console's interrupt on another CPU, the shell keeps working.
    shell.command("steer 4 1");
    assert!(shell.command("irqs").contains("line 4 -> CPU 1"));
    // A thread that spins on another CPU is interrupted to take its backtrace.
    let threads = shell.command("threads");
    let spinner = threads.lines().find(|line| line.contains("load-spin") && line.contains("  3  "));
    let id = spinner.and_then(|line| line.split_whitespace().next()).expect("a spinner on CPU 3");
    let trace = shell.command(&format!("bt {id}"));
    assert!(trace.contains("console::load::work"), "{trace}");
    assert!(shell.command("kill all").contains("56 threads ended"));
    let threads = shell.command("threads");
    assert!(!threads.contains("load-"), "{threads}");
    let refused = shell.command("kill 1");
    assert!(refused.contains("is neither a program nor load"), "{refused:?} after {threads}");
}

#[test]
fn peek_and_poke_recover_from_bad_addresses() {
    let mut shell = Session::start(&[]);
    assert!(shell.command("peek 0").contains("error: peek: nothing accessible is mapped at 0x0"));
    assert!(shell.command("peek 0xdeadbeefdeadbeef 8").contains("nothing accessible"));
    assert!(shell.command("peek 0xffffffffffffffff 1").contains("error"));
    // The image begins with the magic number of the Multiboot2 header; its code is not writable.
    assert!(shell.command("peek 0xffff800000200000 4").contains("d6 50 52 e8"));
    assert!(shell.command("poke 0xffff800000200000 0 4").contains("nothing accessible"));
    assert!(shell.command("poke 0x10 1").contains("error: poke"));
    // A free page can be written and read back.
    assert!(!shell.command("poke 0xffff800004000000 0x1122334455667788").contains("error"));
    assert!(shell.command("peek 0xffff800004000000 8").contains("88 77 66 55 44 33 22 11"));
}

#[test]
fn reboot_starts_over() {
    let mut shell = Session::start(&[]);
    shell.keys("reboot\r");
    shell.wait_for("Aerokernel");
    shell.wait_for("aero> ");
    assert!(shell.command("uptime").contains("ready after"));
    // Ctrl-A x ends the machine.
    shell.keys("\x01x");
    assert_eq!(shell.end(), 0);
}

#[test]
fn the_grub_cd_boots_to_the_same_prompt() {
    let mut shell = Session::start(&["--iso"]);
    assert!(shell.command("log").contains("by Multiboot2, image at 0x2000000"));
    assert!(shell.command("bt 2").contains(" at kernel/src/"), "source lines of a moved image");
}

#[test]
fn the_watchdog_names_what_hangs() {
    let mut shell = Session::start(&["--cpus", "4"]);
    shell.command("watchdog 1");
    shell.command("spawn spin 1 2");
    let report = shell.wait_for("CPU 3 is at:");
    assert!(report.contains("watchdog: CPU 2, thread ") && report.contains("\"load-spin\" has run without giving way"));
    assert!(report.contains("CPU 1 is at:") && report.contains("console::load::work"), "{report}");
    shell.wait_for("stopped> ");
    shell.keys("continue\r\r");
    shell.wait_for("aero> ");
    shell.command("kill all");
    shell.command("spawn deaf 1 1");
    let report = shell.wait_for("CPU 3 is at:");
    assert!(report.contains("watchdog: CPU 1, thread ") && report.contains("\"load-deaf\" takes no interrupts"));
    assert!(report.contains("console::load::work"), "{report}");
    shell.wait_for("stopped> ");
    shell.keys("continue\r\r");
    shell.wait_for("aero> ");
    shell.command("kill all");
    assert!(shell.command("watchdog off; watchdog").contains("the watchdog is off"));
}

#[test]
fn filters_aliases_pages_repetition_and_a_script() {
    let mut shell = Session::start(&["--append", "script=\"alias l threads | grep load; spawn sleep 3 1\""]);
    let listed = shell.command("l");
    assert_eq!(listed.lines().filter(|line| line.contains("load-sleep")).count(), 3, "{listed}");
    assert_eq!(listed.lines().filter(|line| !line.trim().is_empty()).count(), 3, "{listed}");
    assert_eq!(shell.command("threads | grep -v load | head 1").trim().lines().count(), 1);
    assert!(shell.command("help | tail 1").contains("`help COMMAND` says more"));
    assert!(shell.command("threads | sort").contains("after `|` there can be"));
    assert!(shell.command("alias").contains("threads | grep load"));
    shell.command("alias l");
    assert!(shell.command("l").contains("there is no command `l`"));
    // Show one page and a second one, then quit.
    shell.keys("help | more 6\r");
    for key in [" ", "q"] {
        let page = shell.wait_for("-- more");
        assert!(page.contains("  "), "{page}");
        shell.keys(key);
    }
    shell.wait_for("\x1b[K");
    shell.keys("watch 1 uptime | grep up\r");
    for _ in 0..3 {
        shell.wait_for("every 1 s: uptime | grep up");
        shell.wait_for("up ");
    }
    shell.keys("\x03");
    shell.wait_for("\x1b[K");
    assert!(shell.command("watch 1 nonsense").contains("there is no command"));
}
