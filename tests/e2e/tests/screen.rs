//! The console on a headless machine's screen and keyboard: QEMU presses the keys, and the text is
//! recognised in screenshots.

use e2e::Session;
use e2e::gdb::socket;
use e2e::screen::{Screen, options};

fn machine(name: &str, further: &[&str]) -> (Session, Screen) {
    let protocol = socket(name);
    let mut arguments: Vec<String> = further.iter().map(|option| (*option).into()).collect();
    arguments.extend(options(&protocol));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let shell = Session::start(&arguments);
    let mut screen = Screen::connect(&protocol);
    let _ = std::fs::remove_file(&protocol);
    screen.wait_for("aero> ");
    (shell, screen)
}

#[test]
fn a_session_on_the_screen_beside_the_serial_one() {
    let (mut shell, mut screen) = machine("screen", &["--cpus", "2"]);
    screen.type_in(&["u", "p", "x", "backspace", "t", "i", "m", "e", "ret"]);
    let shown = screen.wait_for("ready after");
    assert!(shown.contains("aero> uptime") && shown.contains("up "), "{shown}");
    // Each console shows its own session, and both work at the same time.
    let listed = shell.command("threads");
    assert!(listed.contains("screen-shell") && !listed.contains("ready after"), "{listed}");
    assert!(!screen.text().contains("screen-shell"));
    // A warning of the kernel appears on both, here in its colour.
    const YELLOW: [u8; 3] = [0xd0, 0xc0, 0x40];
    assert!(!screen.has_color(YELLOW));
    shell.command("watchdog 1");
    shell.keys("spawn spin 1 1\r");
    shell.wait_for("stopped> ");
    // The shell has already shown its prompt; the empty line makes it show another.
    shell.keys("continue\r\r");
    shell.wait_for("aero> ");
    shell.command("watchdog off; kill all");
    screen.wait_for("has run without giving way");
    assert!(screen.has_color(YELLOW));
    // History, and an abandoned line.
    screen.press(&["up"]);
    screen.press(&["ctrl", "c"]);
    screen.wait_for("^C");
    screen.type_in(&["n", "o", "ret"]);
    screen.wait_for("there is no command `no`");
    // Ctrl-C interrupts the command of this session only.
    screen.type_in(&["w", "a", "t", "c", "h", "spc", "1", "spc", "m", "e", "m", "ret"]);
    screen.wait_for("every 1 s: mem");
    shell.keys("watch 1 uptime\r");
    shell.wait_for("every 1 s: uptime");
    screen.press(&["ctrl", "c"]);
    screen.wait_for("aero> ");
    shell.wait_for("every 1 s: uptime");
    shell.keys("\x03");
    shell.wait_for("aero> ");
}

#[test]
fn what_left_the_screen_comes_back() {
    let (_shell, mut screen) = machine("scroll", &["--cpus", "2"]);
    for _ in 0..3 {
        screen.type_in(&["h", "e", "l", "p", "ret"]);
    }
    let mut shown = screen.wait_for("`help COMMAND` says more");
    while shown.contains("a screen of") {
        shown = screen.wait_for("`help COMMAND` says more");
    }
    for _ in 0..4 {
        screen.press(&["shift", "pgup"]);
    }
    let shown = screen.wait_for("a screen of 146 x 48 characters, with a keyboard");
    assert!(shown.contains("aero> help"), "{shown}");
    for _ in 0..5 {
        screen.press(&["shift", "pgdn"]);
    }
    screen.wait_for("aero> ");
}

#[test]
fn a_german_keyboard_and_a_crash() {
    let (mut shell, mut screen) = machine("german", &["--cpus", "2", "--append", "keyboard=de"]);
    // Y and Z are exchanged; the minus is on the US keyboard's slash key; the key to the right of
    // zero has the question mark.
    screen.type_in(&["y", "z", "slash"]);
    screen.press(&["shift", "minus"]);
    screen.wait_for("aero> zy-?");
    screen.press(&["ctrl", "c"]);
    // A crash in the other session: the report appears on both.
    shell.keys("panic of the serial session\r");
    shell.wait_for("post-mortem> ");
    let shown = screen.wait_for("*** end of report ***");
    assert!(
        shown.contains("panic: of the serial session") && shown.contains("kernel::crash::panic::panicked"),
        "{shown}"
    );
}
