//! `aero boot --run`: output, exit statuses, machines of all sizes, bad input.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::transcript::Transcript;
use e2e::{BUILD_LIMIT, aero, boot_and_run, stderr, stdout};

#[test]
fn output_is_the_commands_only() {
    let output = boot_and_run("uptime; help keys", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.starts_with("up ") && text.contains("Tab"), "{text}");
    assert!(!text.contains("Aerokernel"), "{text}");
}

#[test]
fn statuses_tell_what_happened() {
    assert_eq!(boot_and_run("peek 0", &[]).status.code(), Some(1));
    assert_eq!(boot_and_run("nonsense", &[]).status.code(), Some(2));
    assert_eq!(aero().args(["boot", "--nonsense"]).output().unwrap().status.code(), Some(2));
    let worst = boot_and_run("uptime; nonsense; kill 4000000000", &[]);
    assert_eq!(worst.status.code(), Some(2), "{}", stderr(&worst));
}

#[test]
fn a_programs_status_can_be_told_from_a_crash() {
    let file = std::env::temp_dir().join(format!("aero-ended-{}", std::process::id()));
    let place = file.display().to_string();
    let misbehave = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs/misbehave");
    let ended = |script: &str, options: &[&str]| {
        let _ = fs::remove_file(&file);
        let output = boot_and_run(script, &[&["--json", &place], options].concat());
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
        let said: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        (output.status.code(), said["ended"].as_str().map(str::to_string), said)
    };
    let finished = |status| (Some(status), Some("finished".to_string()));
    let (code, how, said) = ended("run misbehave status 3", &["--hrt", misbehave]);
    assert_eq!(((code, how), &said["status"]), (finished(3), &3.into()), "{said}");
    // Switching the machine off is not a crash either.
    let (code, how, said) = ended("uptime; poweroff", &[]);
    assert_eq!((code, how), finished(0), "{said}");
    let (code, how, said) = ended("panic as asked", &[]);
    assert_eq!((code, how.as_deref()), (Some(3), Some("crashed")), "{said}");
    assert!(said["status"].is_null() && fs::metadata(said["crash_file"].as_str().expect("a file")).is_ok(), "{said}");
    let (code, how, said) = ended("sleep 100", &["--timeout", "1"]);
    assert_eq!((code, how.as_deref()), (Some(3), Some("timed-out")), "{said}");
    let (code, how, said) = ended("uptime", &["--", "-nosucharg"]);
    assert_eq!((code, how.as_deref()), (Some(1), Some("failed")), "{said}");
    let (code, how, said) = ended("uptime", &["--hrt", "no-such-directory"]);
    assert_eq!((code, how.as_deref()), (Some(1), Some("failed")), "{said}");
    let _ = fs::remove_file(&file);
}

#[test]
fn arguments_in_quotes_are_one() {
    for script in ["run misbehave arguments 'a b; c' d", "run misbehave arguments \"a b; c\" d"] {
        let misbehave = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs/misbehave");
        let output = boot_and_run(script, &["--hrt", misbehave]);
        assert!(
            stdout(&output).contains("<misbehave> <arguments> <a b; c> <d>"),
            "{}{}",
            stdout(&output),
            stderr(&output)
        );
    }
    let both = boot_and_run("run x 'a' \"b\"", &[]);
    assert!(
        both.status.code() == Some(2) && stderr(&both).contains("single or double quotes, not both"),
        "{}",
        stderr(&both)
    );
}

#[test]
fn what_a_killed_aero_left_is_removed() {
    let crashes = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/crashes");
    let left = |pid: u32| -> Vec<String> {
        let entries = fs::read_dir(crashes).expect("the directory").flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(&format!("{pid}-"))).collect()
    };
    let mut killed = aero().arg("boot").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("aero can be run");
    let mut said = Transcript::new("aero", killed.stdout.take().expect("a pipe"));
    said.wait_at_most(BUILD_LIMIT, "aero> ");
    assert!(left(killed.id()).iter().any(|name| name.ends_with(".qmp")), "{:?}", left(killed.id()));
    killed.kill().expect("it ends");
    // Until we reap it, its process id is in use, so no other `aero` removes its files.
    said.wait_for_end();
    assert!(!left(killed.id()).is_empty(), "it could clean up");
    killed.wait().expect("it has ended");
    assert_eq!(boot_and_run("uptime", &[]).status.code(), Some(0));
    assert_eq!(left(killed.id()), [""; 0]);
}

#[test]
fn crashes_are_reported_with_names_and_lines() {
    for (command, expected) in [
        ("panic out of ideas", "panic: out of ideas"),
        ("panic null", "page fault: read from 0x0"),
        ("panic opcode", "invalid opcode"),
        ("panic overflow", "stack overflow in thread"),
    ] {
        let output = boot_and_run(command, &["--cpus", "4"]);
        let report = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{report}");
        assert!(report.contains(expected), "{report}");
        assert!(report.contains("console::commands::control") && report.contains(" at console/src/"), "{report}");
        for cpu in 1..4 {
            assert!(report.contains(&format!("CPU {cpu} was at:")), "{report}");
        }
        assert!(!stdout(&output).contains("crash report"), "the report is on standard output");
    }
    let output = boot_and_run("panic overflow", &[]);
    assert!(stderr(&output).contains("\"overflower\": its stack of 16384 bytes is full"), "{}", stderr(&output));
}

#[test]
fn a_kernel_that_does_not_finish_is_ended() {
    let output = boot_and_run("spawn spin 100 0; bench", &["--timeout", "1", "--cpus", "1"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("did not finish"), "{}", stderr(&output));
}

#[test]
fn machines_of_all_sizes_boot() {
    for cpus in ["1", "2", "4", "16", "64"] {
        let output = boot_and_run("cpus", &["--cpus", cpus]);
        // One line for each running CPU and one for the heading; another line would report CPUs
        // that do not run.
        let text = stdout(&output);
        assert_eq!(text.lines().count(), cpus.parse::<usize>().unwrap() + 1, "{cpus} CPUs: {text}{}", stderr(&output));
        assert!(!text.contains("do not run"), "{cpus} CPUs: {text}");
    }
    for (memory, total) in [("64M", 62), ("1G", 1022), ("4G", 4094), ("16G", 16382)] {
        let output = boot_and_run("mem", &["--mem", memory]);
        let text = stdout(&output);
        let found = text.lines().find_map(|line| line.split(" of ").nth(1)?.split('.').next()?.parse::<u64>().ok());
        assert!(found.is_some_and(|found| found >= total), "{memory}: {text}{}", stderr(&output));
    }
}

#[test]
fn numa_nodes_are_found() {
    let numa = [
        "--mem",
        "512M",
        "--cpus",
        "4",
        "--",
        "-object",
        "memory-backend-ram,id=m0,size=256M",
        "-object",
        "memory-backend-ram,id=m1,size=256M",
        "-numa",
        "node,nodeid=0,cpus=0-1,memdev=m0",
        "-numa",
        "node,nodeid=1,cpus=2-3,memdev=m1",
        "-numa",
        "dist,src=0,dst=1,val=21",
    ];
    let text = stdout(&boot_and_run("mem; cpus; acpi", &numa));
    assert!(text.contains("SRAT") && text.contains("SLIT"), "{text}");
    assert!(text.contains("CPU 3: APIC id 3, node 1"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("   1  ") && line.contains("MiB")), "{text}");
}

#[test]
fn unknown_words_of_the_command_line_are_told() {
    let output = boot_and_run("log", &["--append", "colour=red log=loud"]);
    let text = stdout(&output);
    assert!(text.contains("colour=red is ignored: there is no such word"), "{text}");
    assert!(text.contains("log=loud is ignored; expected log=off|error"), "{text}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn fewer_cpus_and_weaker_ones_do() {
    let text = stdout(&boot_and_run("cpus", &["--cpus", "4", "--append", "cpus=2"]));
    assert!(text.contains("2 more that the firmware lists do not run"), "{text}");
    // QEMU's plainest 64-bit CPU: no 1 GiB pages, no x2APIC, no TSC deadline mode.
    let output = boot_and_run("uptime", &["--", "-cpu", "qemu64"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // A CPU without 64-bit mode can only be reported.
    let output = boot_and_run("uptime", &["--", "-cpu", "qemu32"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("this CPU has no 64-bit mode"), "{}", stderr(&output));
}

#[test]
fn a_machine_without_acpi_boots_on_one_cpu() {
    let output = boot_and_run("cpus; acpi; log", &["--", "-machine", "microvm,acpi=off"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(text.contains("no ACPI tables were found"), "{text}");
    assert!(text.contains("no RSDP found"), "{text}");
}

/// Returns the rate of the time counter, in MHz, that the kernel reports.
fn megahertz(text: &str) -> f64 {
    let before = text.split(" MHz,").next().unwrap_or_else(|| panic!("no rate: {text}"));
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no rate: {text}"))
}

#[test]
fn the_clock_is_right_by_whatever_reference_there_is() {
    // With `--icount`, an instruction takes 1 ns, so other load on the host does not affect the
    // rate.
    let usual = megahertz(&stdout(&boot_and_run("log", &["--icount"])));
    assert!((usual - 1000.0).abs() < 50.0, "{usual} MHz");
    // The references, one per machine: the interval timer, the real-time clock, and the known rate
    // of an emulated APIC. The first two hide the hypervisor, which would reveal the third.
    for (machine, cpu) in [
        ("acpi=off", "max,-hypervisor"),
        ("acpi=off,pit=off,pic=off", "max,-hypervisor"),
        ("acpi=off,rtc=off,pit=off,pic=off", "max"),
    ] {
        let machine = format!("microvm,{machine}");
        let options = ["--icount", "--", "-machine", &machine, "-rtc", "clock=vm", "-cpu", cpu];
        let output = boot_and_run("log; uptime", &options);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{machine}: {}", stderr(&output));
        assert!(!text.contains("guess"), "{machine}: {text}");
        let rate = megahertz(&text);
        assert!((rate / usual - 1.0).abs() < 0.05, "{machine}: {rate} MHz instead of {usual}");
    }
    let nothing = ["--", "-machine", "microvm,acpi=off,rtc=off,pit=off,pic=off", "-cpu", "max,-hypervisor"];
    let text = stdout(&boot_and_run("log; uptime", &nothing));
    assert!(text.contains("MHz is a guess, and so is every time"), "{text}");
    assert!(text.contains("these times, and all others, are guesses"), "{text}");
}

#[test]
fn the_lower_half_is_empty_and_code_is_not_writable() {
    for address in ["0", "0x1000", "0x100000", "0x200000", "0x7fffffffffff"] {
        let output = boot_and_run(&format!("peek {address} 1"), &[]);
        assert_eq!(output.status.code(), Some(1), "something is mapped at {address}: {}", stdout(&output));
    }
    let output = boot_and_run("poke 0xffff800000201000 0 1", &[]);
    assert_eq!(output.status.code(), Some(1), "the kernel's code is writable");
}

#[test]
fn a_machine_that_qemu_does_not_start_is_no_crash() {
    let trace = "/nowhere/trace";
    for options in [&["--", "-nosucharg"][..], &["--mem", "64T"], &["--trace", trace]] {
        let output = aero().args(["boot", "--run", "uptime"]).args(options).output().expect("aero can be run");
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{options:?}: {errors}");
        assert!(
            errors.contains("QEMU did not start the machine") && !errors.contains("crashed"),
            "{options:?}: {errors}"
        );
    }
}

#[test]
fn what_cannot_be_meant_is_told_before_anything_is_built() {
    for options in [&["--run", "print \"x\""][..], &["--timeout", "0"], &["--cpus", "0"]] {
        let output = aero().arg("boot").args(options).output().expect("aero can be run");
        assert_eq!(output.status.code(), Some(2), "{options:?}: {}", stderr(&output));
    }
}

#[test]
fn a_script_that_does_not_end_is_no_crash_and_its_output_is_shown_once() {
    let output = aero()
        .args(["boot", "--run", "uptime; sleep 0.1; sleep 600", "--timeout", "8"])
        .output()
        .expect("aero can be run");
    let (out, errors) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(3), "{out}{errors}");
    assert!(errors.contains("did not finish `uptime; sleep 0.1; sleep 600` within 8 s"), "{errors}");
    assert!(out.contains("since the image was entered") || out.contains("up "), "{out}");
    let line = out.lines().next().expect("a line");
    assert!(!errors.contains(line), "the output is shown twice: {out}{errors}");
}

#[test]
fn a_cpu_that_cannot_run_the_kernel_is_named_at_once() {
    let output = aero()
        .args(["boot", "--run", "uptime", "--timeout", "600", "--", "-cpu", "max,-nx"])
        .output()
        .expect("aero can be run");
    let errors = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("cannot run the kernel. Aerokernel: this CPU has no 64-bit mode or no NX"), "{errors}");
}

#[test]
fn a_command_line_that_is_too_long_is_refused() {
    let output = boot_and_run(&format!("print {}", "x".repeat(4000)), &[]);
    let errors = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("command line would have") && errors.contains("shorten `--run`"), "{errors}");
}

#[test]
fn memory_that_the_image_does_not_fit_into_is_refused() {
    let output = boot_and_run("uptime", &["--mem", "3M"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("`--mem 3M` is too small: the image"), "{}", stderr(&output));
    // The stated minimum is sufficient.
    let text = stderr(&output);
    let least = text.split("the kernel wants ").nth(1).and_then(|text| text.split(' ').next()).expect("a size");
    let output = boot_and_run("uptime", &["--mem", least, "--cpus", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let command = format!("'{}' boot --run 'help; help boot; help; help' | head -n 1", aero().get_program().display());
    let output =
        Command::new("bash").args(["-c", &format!("{command}; exit ${{PIPESTATUS[0]}}")]).output().expect("bash runs");
    assert_eq!(stdout(&output).lines().count(), 1);
    // `aero` either notices the closed pipe or finishes before it closes.
    assert!(matches!(output.status.code(), Some(0 | 141)), "{:?}", output.status);
    assert!(!stderr(&output).contains("aero:"), "{}", stderr(&output));
}

#[test]
fn the_image_is_a_proper_elf_file_with_an_aligned_note() {
    assert_eq!(boot_and_run("uptime", &[]).status.code(), Some(0));
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kernel/x64/aerokernel-x64.boot");
    let bytes = std::fs::read(&image).expect("the image was built");
    let word =
        |at: usize, size: usize| bytes[at..at + size].iter().rev().fold(0, |word, &byte| word << 8 | usize::from(byte));
    // Offset, size and number of the program headers (System V ABI, chapter 4).
    let (start, size, count) = (word(32, 8), word(54, 2), word(56, 2));
    let notes: Vec<usize> = (0..count).map(|index| start + index * size).filter(|&at| word(at, 4) == 4).collect();
    assert_eq!(notes.len(), 1);
    assert_eq!((word(notes[0] + 48, 8), word(notes[0] + 8, 8) % 4), (4, 0), "alignment and offset");
}
