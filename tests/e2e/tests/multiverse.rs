//! Unmodified Linux programs in kernel mode: each does the same as beside it, in the same Linux,
//! natively.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Session, aero, program, stderr, stdout};

const MISSING: i32 = 4;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compiles the programs of tests/multiverse; `None` if there is no compiler.
fn compiled(directory: &Path) -> Option<Vec<PathBuf>> {
    let programs = [
        ("threads", &[][..]),
        ("threads", &["-static"][..]),
        ("signals", &[][..]),
        ("processes", &[][..]),
        ("faults", &["-static", "-no-pie"][..]),
        ("faults", &[][..]),
        ("exits", &[][..]),
    ];
    std::fs::create_dir_all(directory).expect("a directory can be made");
    let mut made = Vec::new();
    for (name, flags) in programs {
        let program = directory.join(format!("{name}{}", flags.concat()));
        let source = root().join(format!("tests/multiverse/{name}.c"));
        let status = Command::new("cc").args(["-O1", "-pthread", "-o"]).arg(&program).arg(source).args(flags).status();
        match status {
            Err(error) => {
                eprintln!("skipped: there is no `cc`: {error}");
                return None;
            }
            Ok(status) => assert!(status.success(), "{name} can be compiled"),
        }
        made.push(program);
    }
    Some(made)
}

/// Runs a program as a user does. Returns what that has built, the runtime and the image, or `None`
/// if there is no emulated Linux here.
fn run_as_a_user() -> Option<[PathBuf; 2]> {
    let output = aero()
        .args([
            "run",
            "--emulate",
            "--stats",
            "--",
            "/bin/sh",
            "-c",
            "echo $((6 * 7)) $0 $1; exit 5",
            "first",
            "second",
        ])
        .output()
        .expect("aero can be run");
    if output.status.code() == Some(MISSING) {
        eprintln!("skipped: {}", stderr(&output));
        return None;
    }
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    let said = stdout(&output);
    let (its, statistics) = said.split_once("aero: ").expect("statistics");
    assert_eq!(its, "42 first second\n");
    let calls: Vec<&str> = statistics.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(statistics.starts_with("1 thread, ") && calls.contains(&"write") && calls.contains(&"mmap"), "{said}");
    let built =
        ["target/multiverse/x86_64-unknown-linux-gnu/release/aero-multiverse", "target/kernel/hrt/aerokernel-hrt.boot"];
    Some(built.map(|file| root().join(file)))
}

#[test]
fn programs_do_in_kernel_mode_what_they_do_natively() {
    let directory = std::env::temp_dir().join(format!("aero-multiverse-{}", std::process::id()));
    let Some([runtime, image]) = run_as_a_user() else { return };
    let Some(programs) = compiled(&directory) else { return };
    let run = "./aero run --built ./aero-multiverse ./aerokernel-hrt.boot --";
    let line: String = programs
        .iter()
        .map(|program| {
            let name = program.file_name().unwrap_or_default().display();
            format!(
                "./{name} >natively 2>&1; echo \"status $?\" >>natively; \
                 RING=1 {run} ./{name} >split 2>&1; echo \"status $?\" >>split; \
                 echo \"== {name}\"; cat split; echo \"-- natively\"; cat natively; "
            )
        })
        .collect();
    let mut ros = aero();
    // With several CPUs, the emulator loses a virtual machine now and then.
    ros.args(["ros", "--cpus", "1", "--mem", "1G", "--timeout", "280"]);
    for file in [program(), runtime, image].iter().chain(&programs) {
        ros.arg("--with").arg(file);
    }
    let output = ros.args(["--", &line]).output().expect("aero can be run");
    let _ = std::fs::remove_dir_all(&directory);
    let said = stdout(&output);
    let mut in_ring_0 = 0;
    let parts: Vec<&str> = said.split("== ").skip(1).collect();
    assert_eq!(parts.len(), programs.len(), "{said}\n{}", stderr(&output));
    for part in parts {
        let (split, natively) = part.split_once("-- natively\n").expect("both have run");
        let (name, split) = split.split_once('\n').expect("a name");
        in_ring_0 += split.matches("ring 0\n").count();
        let expected = natively.replace("natively", "");
        assert_eq!(split.replace("ring 0\n", ""), expected, "{name}");
    }
    assert_eq!(in_ring_0, 2, "{said}");
}

/// A program's HRT can be looked at from outside while it runs, and leaves no socket behind.
#[test]
fn a_running_program_can_be_looked_at() {
    let Some([runtime, image]) = run_as_a_user() else { return };
    let line = "./aero run --share --built ./aero-multiverse ./aerokernel-hrt.boot -- /bin/sleep 1000 & p=$!; \
                for i in $(seq 200); do printf 'groups\n' | timeout 60 ./aero hvm console $p >groups 2>&1; \
                grep -q nanosleep groups && break; usleep 50000; done; ./aero hvm ps; cat groups; \
                timeout 60 ./aero hvm top --once $p; timeout 60 ./aero hvm top $p; echo \"top $?\"; kill $p; wait $p; \
                ./aero run --share --built ./aero-multiverse ./aerokernel-hrt.boot -- /bin/sh -c \
                'for n in 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$n ] && echo low $n; done; echo checked'; \
                ls /tmp/aerokernel-0 | grep -v ^$p; echo done";
    let mut ros = aero();
    ros.args(["ros", "--cpus", "1", "--mem", "1G", "--timeout", "200"]);
    for file in [program(), runtime, image] {
        ros.arg("--with").arg(file);
    }
    let said = stdout(&ros.args(["--", line]).output().expect("aero can be run"));
    assert!(said.contains("/bin/sleep 1000") && said.contains("nanosleep, for "), "{said}");
    assert!(said.contains("no terminal that can be drawn on") && said.contains("top 1\n"), "{said}");
    assert!(!said.contains("low ") && said.ends_with("checked\ndone\n"), "{said}");
}

/// A program in an emulated Linux has the terminal.
#[test]
fn a_person_can_work_with_a_program() {
    if run_as_a_user().is_none() {
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

#[test]
fn what_cannot_be_run_is_refused() {
    let output = aero().args(["run", "--emulate", "--", "no-such-program"]).output().expect("aero can be run");
    assert!(stderr(&output).contains("there is no program `no-such-program`"), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(1));
    let script = std::env::temp_dir().join(format!("aero-no-program-{}", std::process::id()));
    for (content, why) in [("text", "is no program"), ("#!/no/interpreter\n", "/no/interpreter cannot be read")] {
        std::fs::write(&script, content).expect("a file can be written");
        for option in ["--check", "--emulate"] {
            let output = aero().args(["run", option, "--"]).arg(&script).output().expect("aero can be run");
            assert!(stderr(&output).contains(why), "{option}: {}", stderr(&output));
        }
    }
    std::fs::remove_file(&script).expect("it is there");
    let output = aero().args(["run", "--check", "--", "/bin/sh"]).output().expect("aero can be run");
    assert!(stdout(&output).contains("fork: processes, which run natively"), "{}", stdout(&output));
    if !Path::new("/dev/kvm").exists() {
        let output = aero().args(["run", "--", "/bin/true"]).output().expect("aero can be run");
        assert!(stderr(&output).contains("--emulate"), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(MISSING));
    }
}
