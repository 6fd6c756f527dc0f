//! Looking at a hybrid runtime (HRT) from outside of its process: `aero hvm top`, `trace` and
//! `gdb`, and the file that a crash leaves.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::ros::in_linux;
use e2e::{stderr, stdout};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Starts a process in whose HRT one function runs and another one waits for a system call.
const START: &str = "mkfifo keys; ./hvm-process aerokernel-hrt.boot wait < keys > said & \
                     exec 3> keys; until grep -q ready said; do sleep 0.1; done; P=$!; \
                     until ./aero hvm console $P --run groups | grep -q '1  served'; do sleep 0.1; done; ";

#[test]
fn a_running_hrt_is_seen_live_and_traced() {
    let script = format!(
        "{START} ./aero hvm ps; ./aero hvm top $P --once --every 0.3; \
         ./aero hvm trace $P --for 0.3 --to trace.json; grep -o '\"name\":\"CPU [0-9]\"' trace.json | sort -u; \
         grep -c telemetry trace.json; ./aero hvm top 1 --once; ./aero hvm trace $P --for 0; \
         exec 3>&-; wait; ls /tmp/aerokernel-0 | wc -l"
    );
    let Some(output) = in_linux("hvm-process", &[], &script) else { return };
    let (said, errors) = (stdout(&output), stderr(&output));
    for part in [
        "console telemetry gdb events",
        "x86-64, as an HRT, up",
        "serving",
        "group 0",
        "\"name\":\"CPU 0\"\n",
        "process 1 has no telemetry line of a hybrid runtime here",
        "--for is from 0.001 to 3600 seconds",
    ] {
        assert!(said.contains(part) || errors.contains(part), "no {part:?}: {said}\n{errors}");
    }
    let served = said.lines().find(|line| line.contains("served") && line.contains("read"));
    assert!(served.is_some(), "the group that waits for its partner is in `top`: {said}");
    assert!(said.trim_end().ends_with('0'), "the sockets go with the process: {said}");
}

#[test]
fn a_trace_has_both_sides_and_arrows_from_one_to_the_other() {
    let script = "mkfifo keys; ./hvm-process aerokernel-hrt.boot calls < keys > said & \
                  exec 3> keys; until grep -q ready said; do sleep 0.1; done; \
                  P=$!; mkfifo typed; ./aero hvm console $P < typed > followed 3>&- & C=$!; exec 4> typed; \
                  printf 'channel 0 --follow\\r' >&4; \
                  until [ \"$(grep -c 'getppid = ' followed)\" -gt 40 ]; do sleep 0.1; done; \
                  printf '\\003uptime\\r' >&4; until grep -q 'up [0-9]' followed; do sleep 0.1; done; kill $C; exec 4>&-; \
                  echo it was followed; \
                  ./aero hvm trace $P --for 0.3 --to trace.json; exec 3>&-; wait; cat said; \
                  grep -o 'partner of group 0' trace.json; \
                  for part in '\"cat\":\"system call\",\"dur\":[0-9.]*,\"name\":\"getppid\",\"ph\":\"X\",\"pid\":3' \
                  '\"name\":\"system call\",\"ph\":\"s\",\"pid\":2' '\"name\":\"system call\",\"ph\":\"f\",\"pid\":3'; \
                  do grep -o \"$part\" trace.json | wc -l; done";
    let Some(output) = in_linux("hvm-process", &[], script) else { return };
    let said = stdout(&output);
    assert!(said.contains("it was followed"), "{said}");
    assert!(said.contains("partner of group 0") && said.contains("\ndone\n"), "{said}\n{}", stderr(&output));
    let counts = said.trim_end().lines().rev().take(3).filter_map(|count| count.trim().parse::<u64>().ok());
    let counts: Vec<u64> = counts.collect();
    assert!(counts.len() == 3 && counts[0] > 10, "calls in the trace: {said}");
    assert!(counts.iter().all(|&count| count == counts[0]), "each call has an arrow: {said}");
}

#[test]
fn a_crash_leaves_a_file_that_shows_what_there_was() {
    let script = "./aero hvm boot ./aerokernel-hrt.boot --cpus 2 --run 'spawn yield 2; panic gone' > said 2>&1; echo status $?; \
                  F=$(grep -o '/[^ ]*\\.crash' said | head -1); ./aero inspect $F 'threads'; ./aero inspect $F";
    let Some(output) = in_linux("hvm-process", &[], script) else { return };
    let said = stdout(&output);
    for part in ["status 3", "panic: gone", "load-yield", "control.rs"] {
        assert!(said.contains(part), "no {part:?}: {said}\n{}", stderr(&output));
    }
}

#[test]
fn gdb_stops_an_hrt_and_sees_both_sides() {
    let Some(files) = gdb_and_what_it_needs() else { return };
    let commands = "-ex 'info threads' -ex 'thread name 1 first' -ex 'hbreak hvm_process::loop_until_told' \
                    -ex 'thread find group 0' -ex 'thread 2' -ex 'bt' -ex 'x/2i $pc' -ex 'stepi' -ex 'delete' -ex 'detach'";
    let script = format!(
        "{START} (cd /; tar xf root/gdb.tar); mkdir -p {ROOT}/gdb; cp aerokernel.py {ROOT}/gdb; export LANG=C.UTF-8; \
         ./aero hvm gdb $P --image ./aerokernel-hrt -- -batch {commands} 2>&1; \
         ./aero hvm console $P --run uptime; kill -0 $P && echo it goes on; exec 3>&-; wait; cat said"
    );
    let files: Vec<&str> = files.iter().filter_map(|file| file.to_str()).collect();
    let Some(output) = in_linux("hvm-process", &files, &script) else { return };
    let said = stdout(&output);
    let threads: Vec<&str> = said.lines().filter(|line| line.contains("Thread 1.")).collect();
    let of = |name: &str| threads.iter().copied().find(|line| line.contains(name)).unwrap_or_default();
    assert!(of("\"group 0\"").contains("(runs, CPU 1)"), "the partner's CPU is stopped: {said}");
    assert!(of("\"group 1\"").contains("its partner is in read"), "{said}");
    for part in [
        "hvm_process::loop_until_told",
        "transport::groups::serve",
        "arch::cpu::context::start",
        "Hardware assisted breakpoint 1",
        "up ",
        "it goes on",
        // Of the function that ran while the CPU was stopped.
        "\n7\n",
    ] {
        assert!(said.contains(part), "no {part:?}: {said}\n{}", stderr(&output));
    }
}

/// Returns gdb, the kernel with its debug information, gdb's script for it, and an archive of what
/// Python in gdb needs; `None` where that is not to be had.
fn gdb_and_what_it_needs() -> Option<Vec<PathBuf>> {
    let find = |program: &str| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).map(|path| path.join(program)).find(|path| path.is_file())
    };
    let Some(gdb) = find("gdb") else {
        eprintln!("skipped: there is no `gdb`");
        return None;
    };
    // The libraries of gdb tell the version of its Python.
    let libraries = Command::new("ldd").arg(&gdb).output().map(|output| stdout(&output)).unwrap_or_default();
    let version = libraries.split("libpython").nth(1).and_then(|rest| rest.split(".so").next().map(str::to_owned));
    let Some(version) = version.filter(|version| Path::new(&format!("/usr/lib/python{version}/encodings")).is_dir())
    else {
        eprintln!("skipped: the files of gdb's Python are not where Debian has them");
        return None;
    };
    let archive = PathBuf::from(ROOT).join("target/gdb.tar");
    let library = format!("usr/lib/python{version}");
    let packed = Command::new("tar")
        .args(["--create", "--directory=/", "--exclude=__pycache__", "--exclude=test", "--exclude=lib-dynload"])
        .args(["--exclude=dist-packages", "--exclude=config-*", "--exclude=idlelib", "--exclude=tkinter"])
        .arg(format!("--file={}", archive.display()))
        .args([&library, "usr/share/gdb"])
        .status();
    assert!(packed.is_ok_and(|status| status.success()), "the files of gdb's Python can be packed");
    let kernel = PathBuf::from(ROOT).join("target/kernel/hrt/x86_64-unknown-none/kernel/aerokernel-hrt");
    Some(vec![gdb, kernel, PathBuf::from(ROOT).join("gdb/aerokernel.py"), archive])
}
