//! Unmodified Linux programs in kernel mode: each does the same as beside it, in the same Linux,
//! natively.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{aero, program, stderr, stdout};

const MISSING: i32 = 4;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Programs of tests/multiverse, and how they are linked.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("threads", &[]),
    ("threads", &["-static"]),
    ("signals", &[]),
    ("processes", &[]),
    ("faults", &["-static", "-no-pie"]),
    ("faults", &[]),
    ("exits", &[]),
];
const OVERRIDDEN: &[(&str, &[&str])] = &[("overrides", &[]), ("overrides", &["-static"])];

/// Compiles programs; `None` if there is no compiler.
fn compiled(directory: &Path, programs: &[(&str, &[&str])]) -> Option<Vec<PathBuf>> {
    std::fs::create_dir_all(directory).expect("a directory can be made");
    let mut made = Vec::new();
    for (name, flags) in programs {
        let program = directory.join(format!("{name}{}", flags.concat()));
        let source = root().join(format!("tests/multiverse/{name}.c"));
        let status = Command::new("cc").args(["-O1", "-pthread", "-o"]).arg(&program).arg(source).args(*flags).status();
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

/// Runs programs natively and split, with options for that, in one emulated Linux. Returns what
/// each has said split and natively, with its name; `None` if that cannot be here.
fn both_ways(
    directory: &Path,
    programs: &[(&str, &[&str])],
    options: &str,
    files: &[PathBuf],
) -> Option<Vec<[String; 3]>> {
    let [runtime, image] = run_as_a_user()?;
    let programs = compiled(directory, programs)?;
    let run = format!("./aero run {options} --built ./aero-multiverse ./aerokernel-hrt.boot --");
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
    for file in [program(), runtime, image].iter().chain(&programs).chain(files) {
        ros.arg("--with").arg(file);
    }
    let output = ros.args(["--", &line]).output().expect("aero can be run");
    let said = stdout(&output);
    let parts: Vec<&str> = said.split("== ").skip(1).collect();
    assert_eq!(parts.len(), programs.len(), "{said}\n{}", stderr(&output));
    let runs = parts.into_iter().map(|part| {
        let (split, natively) = part.split_once("-- natively\n").expect("both have run");
        let (name, split) = split.split_once('\n').expect("a name");
        [name, split, natively].map(String::from)
    });
    Some(runs.collect())
}

/// A directory for a test's files, which is removed with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("aero-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        Self(directory)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let file = self.0.join(name);
        std::fs::write(&file, content).expect("a file can be written");
        file
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn programs_do_in_kernel_mode_what_they_do_natively() {
    let directory = Scratch::new("multiverse");
    let Some(runs) = both_ways(&directory.0, PROGRAMS, "", &[]) else { return };
    let mut in_ring_0 = 0;
    for [name, split, natively] in &runs {
        in_ring_0 += split.matches("ring 0\n").count();
        assert_eq!(split.replace("ring 0\n", ""), natively.replace("natively", ""), "{name}");
    }
    assert_eq!(in_ring_0, 2);
}

/// Threads, signals, cancellation and children find the overridden functions as they know them.
#[test]
fn overridden_functions_do_what_the_librarys_do() {
    let directory = Scratch::new("overrides");
    let file = directory.file("overridden", "pthread\nsched_yield  # in the HRT\nnanosleep\n");
    let Some(runs) = both_ways(&directory.0, OVERRIDDEN, "--stats --override overridden", &[file]) else { return };
    for [name, split, natively] in &runs {
        let (said, statistics) = split.split_once("aero: ").expect("statistics");
        let status = split.lines().last().unwrap_or_default();
        assert_eq!(format!("{said}{status}\n"), *natively, "{name}");
        assert!(natively.ends_with("turns afterwards 400\nstatus 0\n"), "{natively}");
        // They sleep without Linux.
        assert!(statistics.contains("futex") && !statistics.contains("nanosleep"), "{name}: {statistics}");
    }
}

/// With `--follow-exec`, the programs that a program and its children execute run in kernel mode
/// too.
#[test]
fn executed_programs_are_followed() {
    let directory = Scratch::new("executes");
    let programs: &[(&str, &[&str])] = &[("executes", &[]), ("executes", &["-static"])];
    let Some(runs) = both_ways(&directory.0, programs, "--follow-exec", &[]) else { return };
    for [name, split, natively] in &runs {
        assert_eq!(natively.matches("ring 3").count(), 6, "{natively}");
        assert_eq!(split.replace("ring 0", "ring 3"), *natively, "{name}");
        assert_eq!(split.matches("ring 0").count(), 6, "{split}");
    }
}

/// The example's own function runs in the HRT; what is wrong with overrides is an error.
#[test]
fn a_programs_own_function_can_be_moved() {
    if run_as_a_user().is_none() {
        return;
    }
    let (directory, example) = (Scratch::new("moved"), root().join("examples/override"));
    let relay = directory.0.join("relay");
    let compile = |arguments: &[&str], to: &Path, sources: &[&str]| {
        let sources = sources.iter().map(|source| example.join(source));
        let include = format!("-I{}", root().join("hrt/include").display());
        let compiler =
            Command::new("cc").args(["-O1", "-o"]).arg(to).args(sources).args(arguments).arg(include).status();
        compiler.is_ok_and(|status| status.success())
    };
    if !compile(&["-pthread"], &relay, &["relay.c", "baton.c"]) {
        eprintln!("skipped: there is no `cc`");
        return;
    }
    let flags = ["-shared", "-fPIC", "-nostdlib"];
    assert!(compile(&flags, &directory.0.join("baton-hrt.so"), &["baton-hrt.c"]), "the library can be compiled");
    let run = |overrides: &Path| {
        let mut run = aero();
        run.args(["run", "--emulate", "--stats", "--override"]).arg(overrides).arg("--").arg(&relay).arg("300");
        run.output().expect("aero can be run")
    };
    let listed = std::fs::read_to_string(example.join("overrides")).expect("the example has overrides");
    let output = run(&directory.file("overrides", &listed));
    let said = stdout(&output);
    assert!(output.status.success() && said.starts_with("own function  "), "{said}{}", stderr(&output));
    let futexes = said.lines().find_map(|line| line.trim().strip_prefix("futex")?.split_whitespace().next());
    let futexes: u32 = futexes.and_then(|count| count.parse().ok()).expect("threads are joined");
    assert!(futexes < 50, "they hand over in the HRT: {said}");
    for (line, status, wrong) in [
        ("baton_give hrt_baton_take from baton-hrt.so", 1, "baton_give: the program has no such function"),
        ("baton_take hrt_baton_give from baton-hrt.so", 1, "it has no function hrt_baton_give"),
        ("baton_take aero_thread_exit()", 1, "aero_thread_exit needs a program of the kernel's own"),
        ("baton_take aero_thread_leave()", 1, "line 1: the kernel has no function `aero_thread_leave`"),
        ("baton_take hrt_baton_take from nowhere.so", 1, "nowhere.so"),
    ] {
        let output = run(&directory.file("wrong", line));
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(output.status.code() == Some(status) && said.contains(wrong), "{line}: {said}");
    }
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
