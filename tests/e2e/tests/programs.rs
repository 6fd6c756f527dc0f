//! Programs: `aero` builds them, the kernel runs them, they misbehave and are killed, and the
//! kernel and other programs go on.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Session, aero, stderr, stdout};

fn directory(path: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).to_string_lossy().into_owned()
}

/// Boots with programs and runs a script. Returns the exit status, standard output and standard
/// error.
fn run(programs: &[&str], script: &str, options: &[&str]) -> (Option<i32>, String, String) {
    let mut command = aero();
    command.args(["boot", "--run", script]);
    for program in programs {
        command.arg("--hrt").arg(directory(program));
    }
    let output = command.args(options).output().expect("aero can be run");
    (output.status.code(), stdout(&output), stderr(&output))
}

/// Commands that show what must be the same before and after any program: allocated bytes, stacks
/// in use, and threads.
const TAKE_STOCK: &str = "reclaim; mem; threads";

/// Like [`run`], for a script that leaves nothing behind. The script runs twice; the second run
/// must not add to what is in use after the first, which fills permanent caches.
fn run_and_take_stock(programs: &[&str], script: &str, options: &[&str]) -> (Option<i32>, String, String) {
    let twice = format!("{TAKE_STOCK}; {script}; {TAKE_STOCK}; {script}; {TAKE_STOCK}");
    // The status is that of the last command that failed.
    let (status, out, errors) = run(programs, &twice, options);
    let taken: Vec<(u64, Vec<String>)> = out.split(" total         used").skip(1).map(stock).collect();
    assert_eq!(taken.len(), 3, "{out}{errors}");
    assert!(taken[0].1.len() > 2, "memory, stacks and threads: {out}{errors}");
    let (bytes, others) = (taken[1].0.abs_diff(taken[2].0), (&taken[1].1, &taken[2].1));
    assert!(bytes <= SLOT_NOTES, "{bytes} bytes more or less after `{script}`, once and twice: {out}{errors}");
    assert_eq!(others.0, others.1, "after `{script}`, once and twice: {out}{errors}");
    (status, out, errors)
}

/// Tolerance in bytes: the kernel keeps a note of 16 bytes for the address of each stack ever in
/// use at the same time, and their number depends on how the threads are scheduled.
const SLOT_NOTES: u64 = 8 * 16;

/// Extracts from the commands' output what must not change: the number of allocated bytes, and the
/// stacks and thread names.
fn stock(text: &str) -> (u64, Vec<String>) {
    let mut bytes = 0;
    let each = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(number) = line.strip_suffix(" bytes are allocated").and_then(|rest| rest.rsplit(' ').next()) {
            bytes = number.parse().expect("a number of bytes");
        }
        let is_thread = words.len() > 8 && words[0].parse::<u64>().is_ok() && words[7] == "KiB";
        (line.starts_with("stacks: ")).then(|| line.to_string()).or_else(|| is_thread.then(|| words[1].to_string()))
    };
    let others = text.lines().filter_map(each).collect();
    (bytes, others)
}

const HELLO: &str = "examples/hello";
const HELLO_C: &str = "examples/hello-c";
const MISBEHAVE: &str = "tests/programs/misbehave";
const VECTORS: &str = "tests/programs/vectors";
const TEAMS: &str = "tests/programs/teams";
const COLLECTIVE: &str = "tests/programs/collective";

#[test]
fn hello_in_rust_and_c() {
    let script = "programs; run hello-c world; run hello; run hello one three";
    let (status, out, errors) = run_and_take_stock(&[HELLO, HELLO_C], script, &["--cpus", "3"]);
    // The exit status of the last program is the number of its arguments.
    assert_eq!(status, Some(2), "{out}{errors}");
    for cpu in 0..3 {
        assert_eq!(out.matches(&format!("hello from CPU {cpu}")).count(), 6, "{out}");
    }
    assert!(out.contains("hello, world") && out.contains("hello, one, 0.333"), "{out}");
    let (status, out, _) = run(&[HELLO], "run nonsense", &[]);
    assert_eq!(status, Some(1));
    assert!(out.contains("the image has no program `nonsense`"), "{out}");
}

#[test]
fn tasks_collectives_and_device_lines() {
    for cpus in ["1", "4"] {
        let (status, out, errors) = run_and_take_stock(&[TEAMS], "run teams", &["--cpus", cpus]);
        assert_eq!(status, Some(0), "{out}{errors}");
        assert_eq!(out.matches(": ok").count(), 10, "{out}");
        assert!(!out.contains("left "), "something was not freed: {out}");
    }
}

#[test]
fn the_same_from_cpp() {
    for cpus in ["1", "4"] {
        let (status, out, errors) = run_and_take_stock(&[COLLECTIVE], "run collective", &["--cpus", cpus]);
        assert_eq!(status, Some(0), "{out}{errors}");
        assert_eq!(out.matches(": ok").count(), 10, "{out}");
        assert!(!out.contains("left "), "something was not freed: {out}");
    }
}

/// Builds an example for Linux, runs it on the host and returns its output.
fn natively(example: &str, arguments: &[&str]) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    // The flags and directory of `aero bench hrt`, so that both share one build.
    let target = root.join("target/linux");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = root.join("examples").join(example).join("Cargo.toml");
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--release", "--bin", example, "--manifest-path"]).arg(manifest);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static -C target-cpu=x86-64 -C strip=symbols");
    build.args(["--target", "x86_64-unknown-linux-gnu", "--target-dir"]).arg(&target);
    let built = build.output().expect("cargo can be run");
    assert!(built.status.success(), "{example} does not build here: {}", stderr(&built));
    let output = Command::new(target.join("x86_64-unknown-linux-gnu/release").join(example))
        .args(arguments)
        .output()
        .expect("it can be run");
    assert!(output.status.success(), "{example} failed here: {}{}", stdout(&output), stderr(&output));
    stdout(&output)
}

/// Returns the result lines, sorted and without duplicates.
fn results(output: &str) -> Vec<&str> {
    let mut results: Vec<&str> = output.lines().filter(|line| line.starts_with("result ")).collect();
    results.sort_unstable();
    results.dedup();
    results
}

#[test]
fn parallel_programs_compute_what_they_compute_natively() {
    let examples = [("forkjoin", "all", 4), ("bsp", "stencil:65", 1), ("actors", "all", 2)];
    let script: Vec<String> = examples
        .iter()
        .flat_map(|(example, program, _)| [1, 2, 3].map(|workers| format!("run {example} {program} {workers}")))
        .collect();
    let directories = examples.map(|(example, ..)| format!("examples/{example}"));
    let directories: Vec<&str> = directories.iter().map(String::as_str).collect();
    let (status, out, errors) = run(&directories, &script.join("; "), &["--cpus", "3", "--timeout", "300"]);
    assert_eq!(status, Some(0), "{out}{errors}");
    assert!(!out.contains("left "), "something was not freed: {out}");
    // Results do not depend on the number of workers, so the runs with 1, 2 and 3 workers leave one
    // line each.
    let ours = results(&out);
    let native: String = examples.iter().map(|(example, program, _)| natively(example, &[program, "2"])).collect();
    assert_eq!(ours, results(&native));
    assert_eq!(ours.len(), examples.iter().map(|(_, _, count)| count).sum::<usize>(), "{out}");
    let (status, out, _) = run(&["examples/forkjoin"], "run forkjoin nonsense", &[]);
    assert!(status == Some(2) && out.contains("there is no program `nonsense`"), "{out}");
}

#[test]
fn registers_survive_preemption_migration_and_interrupts() {
    for isa in ["x86-64", "x86-64-v3"] {
        let (status, out, errors) = run(&[VECTORS], "run vectors 150 1500", &["--isa", isa, "--mem", "512M"]);
        assert_eq!(status, Some(0), "{isa}: {out}{errors}");
        assert!(out.contains(" 0 wrong"), "{out}");
    }
    // A CPU without XSAVE, for which the kernel uses FXSAVE.
    let (status, out, errors) = run(&[VECTORS], "run vectors 20 500", &["--", "-cpu", "qemu64"]);
    assert_eq!(status, Some(0), "{out}{errors}");
}

#[test]
fn a_program_that_misbehaves_is_named_and_the_kernel_goes_on() {
    for (argument, told) in [
        ("null", "misbehave` failed: page fault: read from 0x0"),
        ("wild", "misbehave` failed: page fault: write to 0xfffff00000000000"),
        ("code", "misbehave` failed: page fault: write to 0xffffe1"),
        ("divide", "misbehave` failed: divide error"),
        (
            "opcode",
            "misbehave` failed: invalid opcode (vector 6, code 0x0); it was built for x86-64, this CPU has x86-64-v",
        ),
        ("overflow", "stack overflow in thread"),
        ("fiber-overflow", "stack overflow in a fiber of thread"),
        ("elsewhere", "\"faulty\" on CPU 1"),
        ("panic", "misbehave` failed: panic: as asked"),
        ("free", "which is not allocated"),
        ("behind", "misbehave` misused its memory: a block of 100 bytes"),
        ("leak", "left 1064 B in 2 blocks; taken back"),
        ("exit", "exited with status 7"),
    ] {
        // The script runs twice: the second run must not see anything of the first.
        let script = format!("run misbehave {argument}; run hello; programs");
        let (status, out, errors) = run_and_take_stock(&[MISBEHAVE, HELLO], &script, &["--cpus", "2"]);
        let expected = match argument {
            "leak" => 0,
            "exit" => 7,
            _ => 1,
        };
        assert_eq!(status, Some(expected), "{argument}: {out}{errors}");
        assert!(out.contains(told), "{argument}: {out}");
        assert!(!out.contains("are still there"), "{argument}: {out}");
        assert!(out.contains("hello from CPU 1") && out.contains("no program runs"), "{argument}: {out}");
        if told.contains("failed") {
            assert!(out.contains("misbehave!misbehave::main+"), "{argument}: no names in the backtrace: {out}");
            assert!(out.contains(" at tests/programs/misbehave/src/lib.rs:"), "{argument}: no lines: {out}");
        }
    }
}

#[test]
fn a_bad_pointer_ends_the_program_and_nothing_else() {
    let functions = [
        "print",
        "panic",
        "spawn",
        "options",
        "event_init",
        "event_signal",
        "event_broadcast",
        "event_wait",
        "mutex_lock",
        "mutex_try_lock",
        "mutex_unlock",
        "condition_wait",
        "condition_signal",
        "condition_broadcast",
        "semaphore_init",
        "semaphore_down",
        "semaphore_up",
        "barrier_init",
        "barrier_wait",
        "reader_writer_read",
        "reader_writer_read_unlock",
        "reader_writer_write",
        "reader_writer_write_unlock",
        "message_queue_create",
        "timer_create",
        "interrupt_register",
        "line_register",
        "pool_create",
        "collective_create",
        "fiber_create",
    ];
    for kind in ["unmapped", "constant"] {
        // Reading a constant does not fault.
        let faulty =
            functions.iter().filter(|name| kind == "unmapped" || !["print", "panic", "options"].contains(name));
        let script: Vec<String> = faulty.clone().map(|name| format!("run misbehave pointer {name} {kind}")).collect();
        let (status, out, errors) = run_and_take_stock(&[MISBEHAVE], &script.join("; "), &["--cpus", "2"]);
        assert_eq!(status, Some(1), "{kind}: {out}{errors}");
        assert_eq!(out.matches("misbehave` failed: page fault").count(), 2 * faulty.count(), "{kind}: {out}{errors}");
    }
}

#[test]
fn a_pending_exception_is_no_other_threads() {
    // QEMU's emulator does not raise x87 exceptions; Bochs does, in `aero test bochs`.
    let (status, out, errors) = run_and_take_stock(&[MISBEHAVE], "run misbehave x87", &[]);
    assert_eq!(status, Some(0), "{out}{errors}");
}

/// Builds a program in C and runs a script with it.
fn run_c(name: &str, source: &str, script: &str) -> (Option<i32>, String, String) {
    let directory = std::env::temp_dir().join(format!("aerokernel-{}", std::process::id())).join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("program.c"), source).expect("a file");
    let output = aero()
        .args(["boot", "--cpus", "2", "--run", script, "--hrt"])
        .arg(&directory)
        .output()
        .expect("aero can be run");
    std::fs::remove_dir_all(&directory).expect("the directory goes");
    (output.status.code(), stdout(&output), stderr(&output))
}

#[test]
fn a_large_frame_does_not_jump_over_the_guard() {
    let source = "#include <aerokernel.h>\n\
        static void big(void *a) { volatile char b[40000]; for (int i = 0; i < 4000; i++) b[i] = 2; }\n\
        static int32_t start(int32_t c, const char *const *v) {\n\
            aero_thread *t; aero_thread_spawn(0, big, 0, &t); return aero_thread_join(t, AERO_NEVER); }\n\
        AERO_PROGRAM(start);\n";
    let (status, out, errors) = run_c("clash", source, "run clash; uptime");
    assert_eq!(status, Some(1), "{out}{errors}");
    assert!(out.contains("stack overflow in thread") && out.contains("up "), "{out}{errors}");
}

#[test]
fn a_handler_that_fails_stops_the_kernel_with_the_reason() {
    for (argument, reason) in [("handler-panic", "in a handler"), ("handler-allocate", "memory allocation of")] {
        let (status, _, errors) = run(&[MISBEHAVE], &format!("run misbehave {argument}"), &[]);
        assert_eq!(status, Some(3), "{argument}: {errors}");
        let told = format!("a program's interrupt handler failed: panic: {reason}");
        assert!(errors.contains(&told), "{argument}: {errors}");
    }
}

#[test]
fn a_run_that_does_not_end_says_where_it_was() {
    let (status, out, errors) = run(&[MISBEHAVE], "run misbehave spin", &["--timeout", "20"]);
    assert_eq!((status, out.as_str()), (Some(3), "spinning\n"));
    assert!(errors.contains("did not finish `run misbehave spin` within 20 s"), "{errors}");
    // Both CPUs spin in the program: the one that reports, and the other.
    assert!(errors.matches("misbehave!").count() >= 2 && errors.contains(" was at:"), "{errors}");
}

#[test]
fn a_deadlock_and_an_endless_loop_are_named() {
    let mut shell = Session::start(&["--cpus", "2", "--hrt", &directory(MISBEHAVE), "--hrt", &directory(HELLO)]);
    shell.command("run misbehave deadlock &");
    shell.wait_for("deadlock: its 2 threads wait for each other");
    for _ in 0..2 {
        shell.wait_for("misbehave!");
        shell.wait_for("misbehave::deadlock");
    }
    shell.keys("kill all\r");
    shell.wait_for("aero> ");
    shell.command("run misbehave partial-deadlock &");
    shell.wait_for("deadlock: 2 of its threads wait for each other's mutexes");
    for _ in 0..2 {
        shell.wait_for("waits for a mutex that thread");
        shell.wait_for("misbehave!");
        // The last line of a backtrace.
        shell.wait_for("context::start");
    }
    shell.keys("kill all\r");
    shell.wait_for("aero> ");
    shell.command("run misbehave orphaned-mutex &");
    shell.wait_for("deadlock: a thread waits for a mutex that no thread will unlock");
    let owner = shell.wait_for("had when it ended, at:");
    assert!(owner.contains("\"orphan\" waits for a mutex that ") && owner.contains("\"forgetful\""), "{owner}");
    shell.wait_for("misbehave::orphaned_mutex");
    shell.wait_for("context::start");
    // A program that can still continue is not reported, however long it waits.
    shell.keys("run misbehave patient\r");
    let patient = shell.wait_for("aero> ");
    assert!(!patient.contains("deadlock") && !patient.contains("error"), "{patient}");
    shell.command("watchdog 1");
    shell.command("run misbehave spin &");
    shell.wait_for("has run without giving way");
    shell.wait_for("misbehave!");
    // The prompt at which the stopped machine can be inspected.
    shell.wait_for("stopped> ");
    shell.keys("continue\r\r");
    shell.wait_for("aero> ");
    assert!(shell.command("run hello").contains("hello from CPU 1"));
    shell.keys("kill all\r");
    shell.wait_for("was killed");
    shell.wait_for("was killed");
}

#[test]
fn programs_are_killed_whatever_they_do_and_give_everything_back() {
    let mut shell = Session::start(&["--cpus", "4", "--hrt", &directory(MISBEHAVE), "--hrt", &directory(HELLO)]);
    let allocated = |shell: &mut Session| {
        let text = shell.command("mem");
        let (before, _) = text.split_once(" bytes are allocated").expect("a line about what is allocated");
        before.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).expect("a number of bytes")
    };
    let mut after = Vec::new();
    for _ in 0..6 {
        let mut ids = Vec::new();
        for kind in ["spin", "deadlock", "busy", "tasks"] {
            let started = shell.command(&format!("run misbehave {kind} &"));
            // Messages about an earlier program may come first.
            let id = started.lines().find_map(|line| line.trim().strip_prefix("program ")?.strip_suffix(" runs"));
            ids.push(id.unwrap_or_else(|| panic!("no number: {started}")).to_string());
        }
        // Another program runs beside them on all CPUs.
        assert!(shell.command("run hello").contains("hello from CPU 3"));
        for id in ids {
            shell.keys(format!("kill {id}\r"));
            shell.wait_for(&format!("program misbehave ({id}) was killed"));
            shell.wait_for("aero> ");
        }
        assert!(shell.command("programs").contains("no program runs"));
        assert!(!shell.command("threads").contains("worker"));
        shell.command("reclaim");
        after.push(allocated(&mut shell));
    }
    // The first rounds fill the line history, which holds 50 lines. After that, a round allocates
    // no additional byte.
    assert_eq!(after[5], after[4], "bytes allocated after each round: {after:?}");
    // Ctrl-C kills the program that the shell waits for.
    shell.keys("run misbehave spin\r");
    shell.wait_for("spinning");
    shell.keys("\x03");
    assert!(shell.wait_for("aero [1]> ").contains("was killed"));
}

/// Builds a program that the kernel must refuse, and returns the output of an attempt to run it.
fn refused(name: &str, source: &str) -> String {
    let directory = std::env::temp_dir().join(format!("aerokernel-{}", std::process::id())).join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("program.c"), source).expect("a file");
    let output = aero()
        .args(["boot", "--run", &format!("run {name}; uptime"), "--hrt"])
        .arg(&directory)
        .output()
        .expect("aero can be run");
    std::fs::remove_dir_all(Path::new(&directory)).expect("the directory goes");
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    stdout(&output) + &stderr(&output)
}

#[test]
fn images_that_cannot_run_are_refused_with_the_reason() {
    let program = |description: &str| {
        format!(
            "#include <aerokernel.h>\nstatic int32_t start(int32_t c, const char *const *v) {{ return 0; }}\n\
             __attribute__((visibility(\"default\"))) const struct aero_program aero_program = {{ {description} }};\n"
        )
    };
    for (name, source, reason) in [
        ("no-entry", "int f(void) { return 1; }\n".to_string(), "it has no entry"),
        ("unknown", "#include <aerokernel.h>\nint g(void);\nstatic int32_t s(int32_t c, const char *const *v) { return g(); }\nAERO_PROGRAM(s);\n".into(), "it needs `g`"),
        ("other-version", program("AERO_MAGIC, 99, start, 0"), "built for version 99 of the interface, this kernel has"),
        ("bad-magic", program("1, AERO_VERSION, start, 0"), "`aero_program` is malformed"),
        ("no-main", program("AERO_MAGIC, AERO_VERSION, 0, 0"), "`aero_program` is malformed"),
        ("too-large", format!("static char big[300 << 20];\nvoid *keep(void) {{ return big; }}\n{}", program("AERO_MAGIC, AERO_VERSION, (void *)keep, 0")), "larger than the 256 MiB allowed"),
        ("no-memory", format!("static char big[252 << 20];\nvoid *keep(void) {{ return big; }}\n{}", program("AERO_MAGIC, AERO_VERSION, (void *)keep, 0")), "out of memory for its image"),
        ("thread-local", format!("_Thread_local int mine __attribute__((aligned(8192))) = 1;\nint keep(int c, const char *const *v) {{ return mine; }}\n{}", program("AERO_MAGIC, AERO_VERSION, keep, 0")), "thread-local variables is damaged, or aligned to more than a page"),
    ] {
        let text = refused(name, &source);
        assert!(text.contains(reason), "{name}: {text}");
    }
}
