//! A real gdb on the kernel's stub: on all CPUs, whatever they execute, and however gdb ends.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use e2e::gdb::{Client, Gdb, line, machine, socket};
use e2e::{LIMIT, Session};

#[test]
fn every_kernel_thread_is_a_thread_with_its_registers() {
    let (mut shell, socket) = machine("kernel-threads", &["--cpus", "3"]);
    shell.command("spawn spin 2 1");
    shell.command("spawn sleep 50 2");
    let mut gdb = Gdb::attach(&socket);
    let threads = gdb.command("info threads");
    let count = |name: &str, state: &str| {
        let is_one = |line: &&str| line.contains(&format!("\"{name}\" (")) && line.contains(state);
        threads.lines().filter(is_one).count()
    };
    assert_eq!(count("load-sleep", "CPU 2)"), 50, "{threads}");
    assert_eq!((count("load-spin", "(runs, CPU 1)"), count("load-spin", "(ready, CPU 1)")), (1, 1), "{threads}");
    assert_eq!(count("main", "blocked, CPU 0"), 1, "{threads}");
    // The protocol's thread ids are the kernel's.
    assert!(threads.lines().any(|line| line.contains("Thread 1.2 \"main\"")), "{threads}");
    let traces = gdb.command("thread apply all backtrace");
    assert!(traces.contains("console::shell::interact"), "{traces}");
    assert_eq!(traces.matches("console::load::work").count(), 52, "{traces}");
    // A blocked thread cannot be stepped, and its instruction pointer stays where it is.
    gdb.select("main");
    let before = gdb.command("print/x $pc");
    for step in ["stepi", "step"] {
        let stepped = gdb.command(step);
        assert!(stepped.contains("it does not run") && stepped.contains("SIGSTOP"), "{stepped}");
    }
    assert_eq!(gdb.command("print/x $pc"), before.replace("$1", "$2"));
    assert!(gdb.command("print $rip = 0").contains("Could not write"), "a register that is none is written");
    // A blocked thread cannot continue alone either: nothing would run, and no CPU would see a
    // Ctrl-C.
    gdb.command("set scheduler-locking on");
    let stopped = gdb.command("continue");
    assert!(stopped.contains("it does not run") && stopped.contains("SIGSTOP"), "{stopped}");
    gdb.command("set scheduler-locking off");
    // `finish` follows the thread, whatever else runs meanwhile.
    gdb.command("break view::commands::inspect::uptime");
    gdb.type_in("continue");
    shell.keys("uptime\r");
    let stopped = gdb.wait_for_prompt();
    assert!(stopped.contains("\"main\" hit Breakpoint 1"), "{stopped}");
    assert!(gdb.command("finish").contains("Run till exit"));
    gdb.command("detach");
    shell.wait_for("ready after");
    shell.wait_for("> \x1b[K");
    let killed = shell.command("kill all");
    assert!(killed.contains("52 threads ended"), "{killed}");
}

#[test]
fn a_cpu_that_comes_up_is_stopped_by_name() {
    let socket = socket("coming");
    let [dashes, serial, place] = line(&socket);
    let arguments = ["--cpus", "2", "--append", "gdb=wait", &dashes, &serial, &place];
    let mut shell = Session::start_until(&arguments, "waiting for gdb on the debugger's line");
    let mut gdb = Gdb::attach(&socket);
    gdb.command("break kernel::start::other_cpu_main");
    let stopped = gdb.command("continue");
    assert!(stopped.contains("hit Breakpoint 1, kernel::start::other_cpu_main"), "{stopped}");
    let threads = gdb.command("info threads");
    let current = threads.lines().find(|line| line.starts_with('*')).unwrap_or_else(|| panic!("none: {threads}"));
    assert!(current.contains("CPU 1)") && current.contains("other_cpu_main"), "{threads}");
    assert!(threads.contains("CPU 0)"), "{threads}");
    gdb.command("delete");
    gdb.command("detach");
    shell.wait_for("2 of 2 CPUs run");
    shell.wait_for("aero> ");
}

#[test]
fn every_cpu_is_a_thread_if_that_is_wanted() {
    let (mut shell, socket) = machine("cpus", &["--cpus", "4", "--append", "gdb=cpus"]);
    shell.command("spawn spin 1 2");
    let mut gdb = Gdb::attach(&socket);
    let threads = gdb.command("info threads");
    for cpu in 0..4 {
        assert!(threads.contains(&format!("(CPU {cpu}, thread ")), "{threads}");
    }
    assert!(threads.contains("\"load-spin\""), "{threads}");
    gdb.command("thread 3");
    assert!(gdb.command("backtrace").contains("console::load::"), "CPU 2 does not run the load");
    let registers = gdb.command("info registers rip eflags cs gs_base cr3 efer xmm0 mxcsr");
    assert!(registers.contains("mxcsr          0x1f80") && registers.contains("uint128"), "{registers}");
    assert!(gdb.command("x/2gx 0").contains("Cannot access memory at address 0x0"));
    // Ctrl-C works whichever CPU continues alone: the line interrupts one CPU, and the debugger may
    // keep that one stopped.
    gdb.command("set scheduler-locking on");
    for cpu in [3, 1, 4, 2] {
        gdb.command(&format!("thread {cpu}"));
        gdb.type_in("continue");
        gdb.wait_for("Continuing.");
        gdb.interrupt();
        let stopped = gdb.wait_for_prompt();
        assert!(stopped.contains("SIGINT"), "CPU {}: {stopped}", cpu - 1);
    }
    // CPU 1 has run the debugger in this stop, and stays stopped in the next order. It keeps what
    // gdb has set.
    gdb.command("set $before = $r11");
    gdb.command("set $r11 = 0x13572468");
    gdb.command("thread 3");
    gdb.command("set $place = $pc");
    gdb.command("stepi");
    let moved = gdb.command("print $pc != $place");
    assert!(moved.contains(" = true"), "a CPU that was kept stopped does not step: {moved}");
    gdb.command("thread 2");
    // What gdb remembers would not show what the CPU has.
    gdb.command("maintenance flush register-cache");
    let kept = gdb.command("print/x $r11");
    assert!(kept.contains("0x13572468"), "{kept}");
    gdb.command("set $r11 = $before");
    gdb.command("set scheduler-locking off");
    // A debugger must not read the local APIC's registers.
    assert!(gdb.command("x/wx 0xffffa00000000000").contains("Cannot access memory"));
    gdb.command("detach");
    assert!(shell.command("uptime").contains("up "));
}

#[test]
fn a_thread_that_does_not_run_has_the_registers_that_are_known() {
    let (_shell, socket) = machine("threads", &["--cpus", "2"]);
    let mut gdb = Gdb::attach(&socket);
    // The console's thread is blocked until a key arrives.
    assert!(gdb.command("monitor thread 2").contains("its registers are shown"));
    gdb.command("maintenance flush register-cache");
    let registers = gdb.command("info registers rip rsp rbx rax xmm0 cs cr3");
    for known in [
        "rip            0xffff8",
        "rsp            0xffffc",
        "rbx            0x",
        "cs             0x",
        "cr3            0x",
    ] {
        assert!(registers.contains(known), "{known:?} is not in {registers}");
    }
    let unknown = |name: &str| registers.lines().any(|line| line.starts_with(name) && line.contains("<unavailable>"));
    assert!(unknown("rax") && unknown("xmm0"), "{registers}");
    let backtrace = gdb.command("backtrace");
    assert!(
        backtrace.contains("kernel::threads::scheduler::switch") && backtrace.contains("console::shell::interact"),
        "{backtrace}"
    );
    assert!(gdb.command("monitor thread 77777").contains("there is no thread 77777"));
    gdb.command("monitor thread off");
    gdb.command("maintenance flush register-cache");
    assert!(!gdb.command("info registers rax xmm0").contains("<unavailable>"));
    assert!(gdb.command("monitor help").contains("runqueues"));
    gdb.command("detach");
}

#[test]
fn a_command_that_needs_cpus_runs_when_they_do() {
    let (mut shell, socket) = machine("deferred", &["--cpus", "2"]);
    let mut gdb = Gdb::attach(&socket);
    // An unknown command is refused at once and not deferred.
    assert!(gdb.command("monitor nosuch").contains("there is no command `nosuch`"));
    assert!(gdb.command("monitor spawn sleep 2 1").contains("it needs CPUs that run: `continue`"));
    assert!(gdb.command("monitor spawn spin").contains("another command waits"));
    gdb.type_in("continue");
    // The output appears in gdb as output of the debuggee, and also on the console.
    for _ in 0..2 {
        gdb.wait_for(" on CPU 1");
    }
    shell.wait_for("gdb: spawn sleep 2 1");
    gdb.interrupt();
    let stopped = gdb.wait_for_prompt();
    assert!(stopped.contains("SIGINT"), "{stopped}");
    assert_eq!(gdb.command("monitor threads").matches("load-sleep").count(), 2);
    assert!(gdb.command("monitor bench empty").contains("it needs CPUs that run"));
    gdb.type_in("continue");
    gdb.wait_for("empty");
    gdb.interrupt();
    gdb.wait_for_prompt();
    gdb.command("detach");
    assert!(shell.command("kill all").contains("ended after"));
}

/// The thread that reports a deferred command's result runs on the CPU whose idle thread is being
/// stepped. The step ends where it would have ended without it.
#[test]
fn a_message_does_not_end_a_step() {
    let (_shell, socket) = machine("message", &["--cpus", "1"]);
    let mut gdb = Gdb::attach(&socket);
    gdb.command("break arch::cpu::interrupts::wait_for_interrupt");
    let stopped = gdb.command("continue");
    assert!(stopped.contains("hit Breakpoint 1, arch::cpu::interrupts::wait_for_interrupt"), "{stopped}");
    gdb.command("delete");
    let (mut said, begun_at) = (0, Instant::now());
    while said < 3 {
        assert!(begun_at.elapsed() < LIMIT, "no message came during a step");
        // Refused while the previous command is still waiting.
        gdb.command("monitor spawn yield 0 0");
        let stepped = gdb.command("next");
        said += usize::from(stepped.contains("error: spawn"));
        assert!(!stepped.contains("SIG") && !stepped.contains("stop_for_message"), "{stepped}");
        let place = gdb.command("frame");
        assert!(
            ["wait_for_interrupt", "scheduler::idle", "run_idle"].iter().any(|name| place.contains(name)),
            "{place}"
        );
    }
    gdb.command("detach");
}

#[test]
fn sections_are_compared_where_the_kernel_runs() {
    let (_shell, socket) = machine("sections", &[]);
    let mut gdb = Gdb::attach(&socket);
    // Memory reads do not show the debugger's own breakpoints.
    gdb.command("break view::commands::inspect::uptime");
    for section in [".text", ".rodata"] {
        let compared = gdb.command(&format!("compare-sections {section}"));
        assert!(compared.contains("matched.") && compared.contains("0xffff8000"), "{compared}");
    }
    gdb.command("detach");
}

#[test]
fn functions_of_assembly_have_names_and_frames() {
    let (mut shell, socket) = machine("assembly", &["--cpus", "2"]);
    let mut gdb = Gdb::attach(&socket);
    for name in [
        "arch::cpu::context::start",
        "arch::cpu::context::switch_through",
        "arch::cpu::trace::write_entry",
        "arch::cpu::system_call::entry",
    ] {
        let planted = gdb.command(&format!("break {name}"));
        assert!(planted.contains(" at 0x") && planted.contains(": file arch-x64/src/"), "{planted}");
    }
    gdb.command("delete");
    let lines = gdb.command("info line arch::cpu::interrupts::wait_for_interrupt");
    assert!(lines.contains("arch-x64/src/cpu/interrupts.rs"), "{lines}");
    gdb.command("break arch::cpu::context::switch");
    let stopped = gdb.command("continue");
    assert!(stopped.contains("context::switch ()"), "{stopped}");
    gdb.command("delete");
    // From each instruction, the backtrace leads to the thread's first frame and no further.
    for _ in 0..15 {
        let trace = gdb.command("backtrace");
        let last = trace.trim_end().lines().last().unwrap_or_default();
        assert!(last.contains("context::start ()") || last.contains("landing::land ()"), "{trace}");
        assert!(trace.contains("kernel::threads::scheduler::switch_to"), "{trace}");
        gdb.command("stepi");
    }
    let traces = gdb.command("thread apply all backtrace");
    let ends = traces.matches("context::start ()").count() + traces.matches("landing::land ()").count();
    assert_eq!(ends, traces.matches("\n#0 ").count(), "{traces}");
    assert!(!traces.contains("Backtrace stopped"), "{traces}");
    gdb.command("detach");
    assert!(shell.command("uptime").contains("up "));
}

/// A stop between the two halves of an interrupt controller command sends commands of its own. The
/// interrupted command must still reach its target, or that CPU is never told again.
#[test]
fn an_interrupt_that_was_begun_before_a_stop_arrives_after_it() {
    let socket = socket("torn");
    let [dashes, serial, place] = line(&socket);
    // Without x2APIC: in x2APIC mode a command is a single write.
    let mut shell = Session::start(&["--cpus", "3", &dashes, &serial, &place, "-cpu", "max,-x2apic"]);
    // CPU 1 computes, and looks into its mailbox only when an IPI tells it to.
    shell.command("spawn spin 1 1");
    let mut gdb = Gdb::attach(&socket);
    // The instruction that writes the second half, where a thread is sent to another CPU.
    let sender = gdb.command("info line kernel::threads::scheduler::send");
    let start = sender.split_whitespace().find(|word| word.starts_with("0x")).unwrap_or_else(|| panic!("{sender}"));
    let sender = gdb.command(&format!("disassemble {start}"));
    let second_half = sender.lines().find(|line| line.contains("mov") && line.contains(",0x300(%r"));
    let address = second_half.and_then(|line| line.split_whitespace().find(|word| word.starts_with("0x")));
    let address = address.unwrap_or_else(|| panic!("no command is written in {sender}"));
    assert!(gdb.command(&format!("break *{address}")).contains("Breakpoint 1 at"));
    gdb.type_in("continue");
    shell.keys("spawn yield 1 1\r");
    let stopped = gdb.wait_for_prompt();
    assert!(stopped.contains("hit Breakpoint 1"), "{stopped}");
    // Make the debugger stop the other CPUs a few more times.
    for _ in 0..3 {
        gdb.command("stepi");
        gdb.command("info threads");
    }
    gdb.command("delete");
    gdb.command("detach");
    shell.wait_for("on CPU 1");
    let deadline = Instant::now() + LIMIT;
    loop {
        shell.keys("threads\r");
        shell.wait_for("load-yield");
        if !shell.wait_for("\n").contains(" 0 ns ") {
            break;
        }
        assert!(Instant::now() < deadline, "a thread that was given to CPU 1 never runs");
    }
}

#[test]
fn breakpoints_steps_and_watchpoints() {
    let (mut shell, socket) = machine("break", &["--cpus", "4"]);
    let mut gdb = Gdb::attach(&socket);
    let planted = gdb.command("break view::commands::inspect::uptime");
    assert!(planted.contains("Breakpoint 1 at"), "{planted}");
    gdb.type_in("continue");
    shell.keys("uptime\r");
    let stopped = gdb.wait_for_prompt();
    assert!(stopped.contains("hit Breakpoint 1") && stopped.contains("view::commands::inspect::uptime"), "{stopped}");
    assert!(gdb.command("backtrace").contains("console::shell::"));
    // Only this CPU moves, one instruction at a time.
    gdb.command("set scheduler-locking on");
    let before = gdb.command("print/x $pc");
    for _ in 0..20 {
        gdb.command("stepi");
    }
    assert_ne!(gdb.command("print/x $pc"), before);
    gdb.command("set scheduler-locking off");
    let stepped = gdb.command("next");
    assert!(!stepped.contains("error") && !stepped.contains("SIG"), "{stepped}");
    gdb.command("delete");
    // Another command performs the write.
    let watched = gdb.command("watch -l log::MAX_LOG_LEVEL_FILTER");
    assert!(watched.contains("Hardware watchpoint"), "{watched}");
    gdb.type_in("continue");
    shell.wait_for("up ");
    shell.keys("log debug\r");
    let stopped = gdb.wait_for_prompt();
    assert!(stopped.contains("Hardware watchpoint") && stopped.contains("New value"), "{stopped}");
    gdb.command("delete");
    let hardware = gdb.command("hbreak view::commands::inspect::uptime");
    assert!(hardware.contains("Hardware assisted breakpoint"), "{hardware}");
    gdb.type_in("continue");
    shell.keys("\ruptime\r");
    assert!(gdb.wait_for_prompt().contains("view::commands::inspect::uptime"));
    // gdb's `kill` leaves the kernel running without breakpoints.
    gdb.command("kill");
    shell.wait_for("up ");
    shell.wait_for("\x1b[K");
    assert!(shell.command("uptime").contains("up "));
}

#[test]
fn a_cpu_that_spins_with_interrupts_off_is_stopped() {
    let (mut shell, socket) = machine("deaf", &["--cpus", "4"]);
    let mut gdb = Gdb::attach(&socket);
    // On the CPU that listens to gdb, step until the load has disabled interrupts.
    gdb.command("tbreak console::load::work");
    gdb.type_in("continue");
    shell.keys("spawn deaf 1 0\r");
    assert!(gdb.wait_for_prompt().contains("hit Temporary breakpoint"));
    assert!(gdb.command("info registers eflags").contains("IF"), "interrupts are off already");
    gdb.command("set language c");
    for line in ["while ((int)$eflags & 0x200)", "stepi", "end"] {
        gdb.type_in(line);
    }
    let stepped = gdb.wait_for_prompt();
    assert!(!gdb.command("info registers eflags").contains("IF"), "interrupts are still on: {stepped}");
    for _ in 0..3 {
        gdb.type_in("continue");
        gdb.wait_for("Continuing.");
        gdb.interrupt();
        let stopped = gdb.wait_for_prompt();
        assert!(stopped.contains("SIGINT"), "{stopped}");
        gdb.select("load-deaf");
        let backtrace = gdb.command("backtrace");
        assert!(backtrace.contains("console::load::work"), "{backtrace}");
        let flags = gdb.command("info registers eflags rip");
        assert!(!flags.contains("IF"), "interrupts are on: {flags}{backtrace}");
    }
    gdb.command("detach");
}

#[test]
fn faults_and_panics_stop_before_they_are_reported() {
    let misbehave = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/programs/misbehave");
    let (mut shell, socket) = machine("faults", &["--cpus", "2", "--hrt", misbehave]);
    let mut gdb = Gdb::attach(&socket);
    gdb.type_in("continue");
    shell.keys("run misbehave null\r");
    let stopped = gdb.wait_for_prompt();
    assert!(stopped.contains("SIGSEGV"), "{stopped}");
    // The fault is in the program's own code.
    let place = gdb.command("print/x $pc");
    assert!(place.contains("0xffffe1"), "{place}");
    let end = |gdb: &mut Gdb, shell: &mut Session| {
        gdb.type_in("continue");
        shell.wait_for("page fault: read from 0x0");
        shell.wait_for("failed");
        shell.wait_for("\x1b[K");
    };
    end(&mut gdb, &mut shell);
    // A step onto the faulting instruction reports the fault, which is still attributed to the
    // program.
    gdb.interrupt();
    gdb.wait_for_prompt();
    gdb.command(&format!("thbreak *{}", place.trim().rsplit(' ').next().expect("an address")));
    gdb.type_in("continue");
    gdb.wait_for("Continuing.");
    shell.keys("run misbehave null\r");
    assert!(gdb.wait_for_prompt().contains("hit Temporary breakpoint 1"));
    let stepped = gdb.command("stepi");
    assert!(stepped.contains("SIGSEGV"), "{stepped}");
    end(&mut gdb, &mut shell);
    shell.keys("panic\r");
    let stopped = gdb.wait_for_prompt();
    assert!(stopped.contains("SIGTRAP"), "{stopped}");
    assert!(gdb.command("backtrace").contains("kernel::crash::panic::panicked"));
    gdb.type_in("continue");
    shell.wait_for("*** Aerokernel crash report ***");
    shell.wait_for("*** end of report ***");
}

#[test]
fn the_line_stands_noise_and_gdbs_that_come_and_go() {
    let (mut shell, socket) = machine("noise", &["--cpus", "2"]);
    // No client detaches.
    for _ in 0..100 {
        let mut client = Client::connect(&socket);
        assert!(client.ask("qSupported:swbreak+").contains("PacketSize"));
    }
    for _ in 0..300 {
        let mut client = Client::connect(&socket);
        assert!(client.ask("qSupported:swbreak+").contains("PacketSize"));
        assert!(client.ask("D").contains("OK"));
    }
    let mut stream = Client::connect(&socket).into_stream();
    stream.write_all(&[b'a'; 1 << 16]).expect("the line takes bytes");
    stream.write_all(b"$m0,").expect("the line takes bytes");
    stream.write_all(&[b'1'; 1 << 17]).expect("the line takes bytes");
    stream.write_all(b"#00$g#00\xff\x00$").expect("the line takes bytes");
    drop(stream);
    let mut gdb = Gdb::attach(&socket);
    assert!(gdb.command("info threads").contains("CPU 1"));
    gdb.command("break view::commands::inspect::uptime");
    gdb.type_in("continue");
    gdb.wait_for("Continuing.");
    // gdb dies with a breakpoint in the code; the next gdb can attach.
    gdb.die();
    let mut gdb = Gdb::attach(&socket);
    let detached = gdb.command("detach");
    assert!(detached.contains("detached]"), "{detached}");
    assert!(shell.command("uptime").contains("up "));
}

#[test]
fn a_cpu_that_was_stopped_as_it_was_about_to_halt_hears_of_interrupts() {
    let (mut shell, socket) = machine("halt", &["--cpus", "1"]);
    let mut gdb = Gdb::attach(&socket);
    // gdb's expressions in Rust cannot name assembly labels.
    gdb.command("set language c");
    for _ in 0..5 {
        let planted = gdb.command("hbreak *&halt_start");
        assert!(planted.contains("breakpoint"), "{planted}");
        let stopped = gdb.command("continue");
        assert!(stopped.contains("wait_for_interrupt"), "{stopped}");
        assert!(gdb.command("x/i $pc").contains("hlt"));
        // A single interrupt arrives while all CPUs are stopped, and is taken before the `hlt`
        // executes. A CPU that halted all the same would sleep through it.
        shell.keys("\r");
        gdb.command("delete");
        // Let the timer interrupts, which would end such a sleep and hide the error, arrive before
        // as well.
        let asked_at = Instant::now();
        while gdb.command("monitor timers").lines().any(|line| line.contains(" in ") && !line.ends_with(" in 0 ns")) {
            assert!(asked_at.elapsed() < LIMIT, "a timer does not come");
        }
        gdb.type_in("continue");
        shell.wait_for("aero> ");
        gdb.interrupt();
        gdb.wait_for_prompt();
    }
    gdb.command("detach");
}

#[test]
fn a_backtrace_leads_through_an_interrupt_from_each_of_its_instructions() {
    let (mut shell, socket) = machine("interrupted", &["--cpus", "2"]);
    // Two threads alternate on CPU 1, by preemption.
    shell.command("spawn spin 2 1");
    let mut gdb = Gdb::attach(&socket);
    // gdb's expressions in Rust cannot name assembly labels.
    gdb.command("set language c");
    // Not every interrupt preempts the thread, and each attempt resumes after a handler's end.
    let gives_way = (0..20).any(|_| walk_from_each_instruction_of_an_interrupt(&mut gdb));
    assert!(gives_way, "no thread gave way");
    gdb.command("detach");
    assert!(shell.command("kill all").contains("ended after"));
}

/// Walks the stack from each instruction of an interrupt. Returns whether the interrupted thread
/// was preempted.
fn walk_from_each_instruction_of_an_interrupt(gdb: &mut Gdb) -> bool {
    gdb.command("hbreak *&interrupt_common if $_thread == 2");
    let stopped = gdb.command("continue");
    assert!(stopped.contains("interrupt_common"), "{stopped}");
    gdb.command("delete");
    let is_whole = |trace: &str| trace.contains("console::load::work") && trace.contains("context::start");
    // Until its frame moves to the thread's own stack, the kernel's own backtrace agrees.
    let mut gives_way = false;
    loop {
        let instruction = gdb.command("x/i $pc");
        let trace = gdb.command("backtrace");
        assert!(is_whole(&trace), "{instruction}\n{trace}");
        if !gives_way {
            let threads = gdb.command("monitor threads");
            let running = threads.lines().find(|line| line.contains("load-spin") && line.contains("running"));
            let running = running.and_then(|line| line.split_whitespace().next()).expect("a thread that runs");
            let walk = gdb.command(&format!("monitor bt {running}"));
            assert!(is_whole(&walk) && walk.contains(", interrupted"), "{instruction}\n{walk}");
        }
        if instruction.contains("iretq") {
            return gives_way;
        }
        gives_way |= instruction.contains("%rdx,%rsp");
        gdb.command("nexti");
    }
}

#[test]
fn gdb_can_be_waited_for_at_boot() {
    let socket = socket("wait");
    let mut arguments = vec!["--cpus".into(), "2".into(), "--append".into(), "gdb=wait".into()];
    arguments.extend(line(&socket));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut shell = Session::start_until(&arguments, "waiting for gdb on the debugger's line");
    let mut gdb = Gdb::attach(&socket);
    assert!(gdb.command("backtrace").contains("kernel::start::kernel_main"));
    assert!(!gdb.command("info threads").contains("CPU 1"), "another CPU runs already");
    gdb.command("detach");
    shell.wait_for("aero> ");
    assert!(shell.command("cpus").contains("1"));
}

#[test]
fn aero_gdb_boots_attaches_and_leaves_nothing_behind() {
    let mut command = e2e::aero();
    command.args(["gdb", "--cpus", "3", "--append", "gdb=wait", "--", "-nx", "-batch"]);
    for line in ["backtrace", "tbreak kernel::threads::scheduler::idle", "continue", "info threads", "detach"] {
        command.args(["-ex", line]);
    }
    let output = command.stdin(std::process::Stdio::null()).output().expect("aero can be run");
    let (out, errors) = (e2e::stdout(&output), e2e::stderr(&output));
    assert!(output.status.success(), "{out}{errors}");
    assert!(out.contains("kernel::start::kernel_main"), "{out}{errors}");
    assert!(out.contains("Temporary breakpoint 1, kernel::threads::scheduler::idle"), "{out}{errors}");
    assert!(out.contains("kernel/src/threads/scheduler/mod.rs"), "no sources: {out}");
    let console = errors.lines().find_map(|line| line.split_once("console goes to ")).expect("a place").1;
    assert!(!Path::new(console).exists(), "{console} is left");
}

/// A pseudo-random sequence that is the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn packets_of_any_content_do_no_harm() {
    /// Beginnings of packets that gdb sends, except those that change the machine.
    const BEGINNINGS: [&str; 21] = [
        "?",
        "g",
        "m",
        "p",
        "Hg",
        "Hc",
        "T",
        "z0,",
        "z1,",
        "z2,",
        "qSupported:",
        "qXfer:features:read:",
        "qRcmd,",
        "qOffsets",
        "qfThreadInfo",
        "qsThreadInfo",
        "qThreadExtraInfo,",
        "vMustReplyEmpty",
        "vFile:",
        "QStartNoAckMode:",
        "!",
    ];
    const CHARACTERS: &[u8] = b"0123456789abcdef,;:.-+pQ}*{target.xml";
    let (mut shell, socket) = machine("packets", &["--cpus", "2"]);
    let mut numbers = Numbers(1);
    let mut client = Client::connect(&socket);
    assert!(client.ask("qSupported:swbreak+").contains("PacketSize"));
    for _ in 0..1500 {
        let mut text = BEGINNINGS[numbers.below(BEGINNINGS.len())].to_string();
        for _ in 0..numbers.below(40) {
            text.push(char::from(CHARACTERS[numbers.below(CHARACTERS.len())]));
        }
        // Any answer is accepted. A packet that gdbstub cannot parse ends its session; a new
        // initial packet begins the next one.
        client.ask(&text);
        if numbers.below(20) == 0 {
            client.begin_anew();
        }
    }
    drop(client);
    let mut gdb = Gdb::attach(&socket);
    assert!(gdb.command("backtrace").contains("#0"));
    assert!(gdb.command("monitor cpus").contains("idle"));
    gdb.command("detach");
    assert!(shell.command("uptime").contains("up "));
}

#[test]
fn a_ctrl_c_that_overtakes_the_order_to_go_on_stops() {
    let (mut shell, socket) = machine("overtaken", &["--cpus", "2"]);
    let mut client = Client::connect(&socket);
    client.begin_anew();
    // The order in which gdb sends them if Ctrl-C is pressed as it is about to resume.
    for _ in 0..3 {
        client.interrupt();
        let stopped = client.resume("vCont;c");
        assert!(stopped.starts_with("$T02"), "{stopped}");
    }
    // The same before gdb has asked how it can resume, or before it sets breakpoints.
    for before in ["vCont?", "Hc-1", "Z1,ffff800000000000,1", "z1,ffff800000000000,1"] {
        client.interrupt();
        let answer = client.ask(before);
        assert!(answer.starts_with("$OK") || answer.starts_with("$vCont"), "{before}: {answer}");
        let stopped = client.resume("vCont;c");
        assert!(stopped.starts_with("$T02"), "after {before}: {stopped}");
    }
    // A Ctrl-C before a query of the stop reason is late: gdb has learned of another stop
    // meanwhile.
    client.interrupt();
    assert!(client.ask("?").starts_with("$T"));
    client.go_on("vCont;c");
    assert!(shell.command("uptime").contains("up "));
    client.interrupt();
    assert!(client.stop("Ctrl-C").starts_with("$T02"));
}
