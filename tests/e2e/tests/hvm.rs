//! `aero hvm`: the kernel as a hybrid runtime (HRT) beside Linux. What needs a KVM runs in an
//! emulated Linux, which is there on any machine.

use std::process::{Command, Output};

use e2e::ros::{MISSING, in_linux};
use e2e::{Session, aero, stderr, stdout};

/// Runs commands in an HRT; `None` where there is no Linux to be had.
fn run(options: &[&str], script: &str) -> Option<Output> {
    let output =
        aero().args(["hvm", "boot", "--emulate", "--run", script]).args(options).output().expect("aero can be run");
    if output.status.code() == Some(MISSING) {
        eprintln!("skipped: {}", stderr(&output));
        return None;
    }
    Some(output)
}

#[test]
fn an_hrt_has_its_cpus_and_its_memory_and_its_status_is_aeros() {
    let Some(output) =
        run(&["--cpus", "2", "--mem", "64M"], "cpus; mem; spawn yield 3; threads; spawn sleep 1000; uptime; nonsense")
    else {
        return;
    };
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(2), "{said}\n{}", stderr(&output));
    assert!(said.contains("load-yield") && said.contains("there is no command `nonsense`"), "{said}");
    assert!(said.contains(" on CPU 1\n"), "two CPUs:\n{said}");
}

#[test]
fn an_hrt_can_have_more_memory_than_lies_below_the_rings() {
    let Some(output) = run(&["--mem", "5G"], "mem") else { return };
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", stderr(&output));
    let total = said.lines().nth(1).and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    assert!(total.is_some_and(|mib| mib > 5000.0), "{said}");
}

#[test]
fn a_crash_in_an_hrt_is_reported_and_linux_goes_on() {
    let Some(output) = run(&["--cpus", "2"], "panic null") else { return };
    assert_eq!(output.status.code(), Some(3), "{}", stdout(&output));
    let said = stdout(&output);
    for part in ["page fault", "console/src/commands/control.rs:", "CPU 1 was at:", "the kernel crashed"] {
        assert!(said.contains(part), "no {part:?}:\n{said}");
    }
    assert!(!said.contains("aero inspect"), "a file in the emulated Linux is of no use:\n{said}");
}

#[test]
fn what_is_no_hrt_is_refused_by_what_is_wrong() {
    let directory = std::env::temp_dir().join(format!("aero-hvm-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    let image = directory.join("no-image");
    std::fs::write(&image, "no image").expect("a file can be written");
    let output =
        aero().args(["hvm", "boot", "--run", "uptime", "--emulate"]).arg(&image).output().expect("aero can be run");
    std::fs::remove_dir_all(&directory).expect("the directory can be removed");
    if output.status.code() == Some(MISSING) {
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("no-image does not boot") && said.contains("it is no ELF file"), "{said}");
}

#[test]
fn without_a_usable_kvm_it_says_what_is_missing() {
    let output = aero().args(["hvm", "boot", "--run", "uptime"]).output().expect("aero can be run");
    match output.status.code() {
        Some(0) => assert!(stdout(&output).contains("up "), "{}", stdout(&output)),
        code => {
            assert_eq!(code, Some(MISSING), "{}", stderr(&output));
            assert!(stderr(&output).contains("no usable KVM: ") && stderr(&output).contains("--emulate"));
        }
    }
}

#[test]
fn an_hrts_console_is_at_the_terminal_and_takes_ctrl_c() {
    if run(&[], "uptime").is_none() {
        return;
    }
    let mut shell = Session::start_command(&["hvm", "boot", "--emulate"], "aero> ");
    assert!(shell.command("uptime").contains("up "));
    shell.keys("watch 1 uptime\r");
    shell.wait_for("up ");
    shell.keys("\x03");
    shell.wait_for("aero");
    shell.keys("\rpoweroff\r");
    assert_eq!(shell.end(), 0);
}

#[test]
fn the_demonstration_sums_what_linux_has_in_memory() {
    let output = aero().args(["hvm", "demo", "--emulate"]).output().expect("aero can be run");
    if output.status.code() == Some(MISSING) {
        eprintln!("skipped: {}", stderr(&output));
        return;
    }
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", stderr(&output));
    // Two rounds on two CPUs.
    assert!(said.contains("the same; 4 shares were done, as Linux sees"), "{said}");
}

#[test]
fn what_an_hrt_cannot_do_fails_and_harms_nobody() {
    an_example_finds_all_right("hvm-abuse");
}

#[test]
fn functions_in_the_hrt_live_as_in_their_thread_and_what_they_do_wrong_ends_their_calls() {
    an_example_finds_all_right("hvm-partners");
}

#[test]
fn functions_in_the_hrt_print_allocate_and_read_files() {
    let output = aero().args(["hvm", "demo", "callback", "--emulate"]).output().expect("aero can be run");
    if output.status.code() == Some(MISSING) {
        eprintln!("skipped: {}", stderr(&output));
        return;
    }
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", stderr(&output));
    assert!(said.contains("42 is seen in ring 3") && said.contains("42 is seen in ring 0"), "{said}");
    assert!(said.matches("beside Linux, half of it is 21.00").count() == 2, "{said}");
    assert!(said.contains("this thread made 3 calls"), "{said}");
}

#[test]
fn the_ways_between_the_two_are_measured_in_instructions_that_repeat() {
    let measure = || {
        let output = aero().args(["hvm", "bench", "--emulate"]).output().expect("aero can be run");
        (output.status.code(), stdout(&output), stderr(&output))
    };
    let (status, first, said) = measure();
    if status == Some(MISSING) {
        eprintln!("skipped: {said}");
        return;
    }
    assert_eq!(status, Some(0), "{first}\n{said}");
    let row = |table: &str, what: &str| {
        let line = table.lines().find(|line| line.starts_with(what)).unwrap_or_default().to_owned();
        line.split_whitespace().rev().nth(1).and_then(|least| least.parse::<u64>().ok())
    };
    let (_, second, _) = measure();
    for what in ["call of a function in the HRT", "getppid, forwarded from the HRT", "merge, all windows known"] {
        assert!(row(&first, what).is_some_and(|least| least > 1000), "{what}: {first}");
        assert_eq!(row(&first, what), row(&second, what), "{what}");
    }
}

#[test]
fn the_console_of_a_running_process_is_found_and_used_from_outside() {
    let script = "mkfifo keys; ./hvm-process aerokernel-hrt.boot waits < keys > said & \
                  exec 3> keys; until grep -q ready said; do :; done; \
                  ./aero hvm ps; ./aero hvm console $! --run groups; ./aero hvm console $! --run 'thread 1'; \
                  stat -c '%a' /tmp/aerokernel-0 /tmp/aerokernel-0/*; ./aero hvm console 1 --run groups; \
                  exec 3>&-; wait; ./aero hvm ps; ls /tmp/aerokernel-0 | wc -l";
    let Some(output) = in_linux("hvm-process", &[], script) else { return };
    let said = stdout(&output);
    let of =
        |start: &str| said.lines().find(|line| line.trim_start().starts_with(start)).unwrap_or_default().to_owned();
    assert!(said.contains("./hvm-process aerokernel-hrt.boot waits"), "{said}");
    assert!(of("0  running").contains("1"), "the group is seen while its function runs: {said}");
    assert!(said.contains("thread 1 \"idle\" on CPU 0"), "{said}");
    assert!(said.contains("700\n600"), "the socket is this user's alone: {said}");
    assert!(said.contains("process 1 has no console line of a hybrid runtime here"), "{said}{}", stderr(&output));
    assert!(said.trim_end().ends_with('0'), "the socket goes with the process: {said}");
}

#[test]
fn a_process_with_an_hrt_can_be_killed_and_stopped_and_make_children() {
    an_example_finds_all_right("hvm-process");
}

#[test]
fn an_hrt_is_reset_over_and_over_and_leaves_nothing_behind() {
    an_example_finds_all_right("hvm-reset");
}

#[test]
fn an_image_of_another_project_is_served() {
    an_example_finds_all_right("hvm-foreign");
}

#[test]
fn programs_in_c_and_cpp_call_into_the_hrt() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let directory = format!("{root}/target/hvm");
    let built = aero().args(["build", "hrt"]).status().expect("aero can be run");
    assert!(built.success(), "the image can be built");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "-p", "aero-hvm-c", "--target-dir", &directory])
        .status();
    assert!(built.is_ok_and(|status| status.success()), "the library can be built");
    let mut programs = Vec::new();
    for (compiler, source) in [("cc", "hvm-sum.c"), ("c++", "hvm-callback.cc")] {
        let program = format!("{directory}/{}", source.replace('.', "-"));
        let compiled = Command::new(compiler)
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", &program])
            .args([format!("-I{root}/host/hvm-c/include"), format!("{root}/host/hvm-c/examples/{source}")])
            .args([format!("{directory}/release/libaerohvm.a"), "-ldl".into(), "-lm".into()])
            .status();
        match compiled {
            Err(error) => return eprintln!("skipped: there is no `{compiler}`: {error}"),
            Ok(status) => assert!(status.success(), "{source} can be compiled"),
        }
        programs.push(program);
    }
    let output = aero()
        .args(["ros", "--mem", "2G", "--with", &programs[0], "--with", &programs[1]])
        .args(["--with", &format!("{root}/target/kernel/hrt/aerokernel-hrt.boot"), "--"])
        .arg("export AEROKERNEL_HRT=aerokernel-hrt.boot; ./hvm-sum-c && ./hvm-callback-cc")
        .output()
        .expect("aero can be run");
    if output.status.code() == Some(MISSING) {
        eprintln!("skipped: {}", stderr(&output));
        return;
    }
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", stderr(&output));
    for line in
        ["one call: right", "parallel calls: right", "synchronous calls: right", "after a reset: right", "all is right"]
    {
        assert!(said.contains(line), "{said}");
    }
    assert!(said.contains("a call before the merge: the HRT cannot reach"), "{said}");
}

/// Builds an example of the library and runs it in an emulated Linux.
fn an_example_finds_all_right(example: &str) {
    let Some(output) = in_linux(example, &[], &format!("./{example} ./aerokernel-hrt.boot")) else { return };
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", stderr(&output));
    assert!(said.contains("all is right") && !said.contains("WRONG"), "{said}");
}
