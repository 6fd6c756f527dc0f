//! `aero top` on a running machine: its display on a terminal and as text, and its errors if the
//! other end is no kernel or one of another version.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Output;

use e2e::gdb::socket;
use e2e::{Session, aero, stderr, stdout};

fn machine(name: &str, script: &str) -> (Session, std::path::PathBuf) {
    let socket = socket(name);
    let path = socket.to_string_lossy().into_owned();
    let script = format!("script=\"{script}\"");
    (Session::start(&["--cpus", "3", "--telemetry", &path, "--append", &script]), socket)
}

fn once(socket: &Path) -> Output {
    aero().args(["top", "--once", "--every", "0.5"]).arg(socket).output().expect("aero can be run")
}

#[test]
fn it_shows_what_runs_and_how_long_it_takes() {
    let (mut shell, socket) = machine("top", "spawn spin 1 2; spawn yield 2 1; trace on");
    let output = once(&socket);
    let out = stdout(&output);
    assert!(output.status.success(), "{out}{}", stderr(&output));
    assert!(out.contains("x86-64, up ") && out.contains("3 CPUs"), "{out}");
    let busiest: Vec<&str> = out.lines().filter(|line| line.contains("load-")).collect();
    assert!(busiest.iter().filter(|line| line.contains("load-yield")).count() >= 2, "{out}");
    let spin = busiest.iter().find(|line| line.contains("load-spin") && line.contains("running")).expect(&out);
    // The thread has its CPU to itself.
    assert!(spin.contains("100.0 %") || spin.contains(" 9"), "{spin}");
    assert!(out.contains("wake-up to turn: ") && out.contains("interrupt: ") && out.contains(" ##"), "{out}");
    // `aero top` can be started again, and ended threads are gone.
    shell.command("trace off; kill all");
    let out = stdout(&once(&socket));
    assert!(!out.contains("load-") && out.contains("press `t`"), "{out}");
    shell.keys("poweroff\r");
    assert_eq!(shell.end(), 0);
    assert!(!socket.exists(), "the machine is gone, its socket is not");
    let output = once(&socket);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("no machine listens"), "{}", stderr(&output));
}

#[test]
fn on_a_terminal_it_draws_follows_its_size_and_quits_cleanly() {
    let (_shell, socket) = machine("top-terminal", "spawn spin 1 1");
    let path = socket.to_string_lossy().into_owned();
    let mut top = Session::start_command(&["top", &path, "--every", "0.2"], "busiest");
    top.wait_for("load-spin");
    top.keys("t");
    top.wait_for("turn: ");
    top.resize(60, 20);
    top.wait_for("busiest");
    top.keys("q");
    assert_eq!(top.end(), 0);
    // The original screen and the cursor are back.
    assert!(top.all().contains("\x1b[?1049l") && top.all().contains("\x1b[?25h"), "{:?}", top.all());
}

#[test]
fn another_version_or_something_else_is_an_error() {
    let path = socket("top-other");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket can be made");
    let serve = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("aero connects");
        let mut request = [0; 16];
        let _ = stream.read(&mut request).expect("aero says hello");
        // Noise, followed by a hello of a future kernel: variant 0, the magic, versions 99 and 98.
        let mut hello = vec![0xff, 0x12, 0x00];
        let mut fields = vec![0];
        fields.extend(varint(u32::from_le_bytes(*b"ATEL")));
        fields.extend([99, 98, 1]);
        hello.extend(framed(&fields));
        stream.write_all(&hello).expect("aero reads");
        let _ = stream.read(&mut request);
    });
    let output = once(&path);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the kernel's telemetry is version 99.98"), "{}", stderr(&output));
    serve.join().expect("it serves");
    let _ = std::fs::remove_file(&path);
}

/// Encodes a number as postcard does: seven bits per byte, the lowest first.
fn varint(number: u32) -> Vec<u8> {
    let mut rest = number;
    let mut out = Vec::new();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

/// Encodes a few bytes as a frame of the telemetry line (consistent overhead byte stuffing).
fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for block in bytes.split(|&byte| byte == 0) {
        out.push(block.len() as u8 + 1);
        out.extend(block);
    }
    out.push(0);
    out
}
