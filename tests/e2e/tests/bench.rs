//! The benchmarks, at the prompt and from the command line.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use e2e::{aero, boot_and_run, stderr, stdout};
use serde_json::Value;

/// Names that must not change, so that results remain comparable over years.
const KEPT: [&str; 25] = [
    "thread_spawn",
    "thread_spawn_cold",
    "thread_create_join",
    "thread_create_join_remote",
    "context_switch",
    "event_wake_local",
    "event_wake_remote_idle",
    "event_wake_remote_busy",
    "condvar_wake_local",
    "mutex_uncontended",
    "semaphore_uncontended",
    "ipi_round_trip",
    "remote_call",
    "interrupt_null",
    "alloc_free_64",
    "alloc_free_4096",
    "timer_set",
    "timer_cancel",
    "timer_lateness",
    "fiber_switch",
    "fiber_create_run",
    "task_queue_run",
    "migration_round_trip",
    "barrier_all",
    "empty",
];
const FIELDS: [&str; 11] =
    ["name", "unit", "count", "min", "median", "p95", "p99", "p999", "max", "stddev", "histogram"];

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("aerokernel-{}-{name}", std::process::id()))
}

fn results(report: &Value) -> &[Value] {
    report["results"].as_array().expect("results")
}

#[test]
fn names_that_are_kept() {
    let list = stdout(&boot_and_run("bench list", &[]));
    for name in KEPT {
        assert!(list.lines().any(|line| line.split_whitespace().next() == Some(name)), "no {name} in\n{list}");
    }
}

#[test]
fn a_report_at_the_prompt() {
    let output = boot_and_run("bench --json empty mutex_uncontended context_switch", &["--icount"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).expect("it is JSON");
    let meta = &report["meta"];
    assert_eq!((&meta["icount"], &meta["accelerator"], &meta["cpus"]), (&true.into(), &"tcg".into(), &2.into()));
    // A complete name selects only its own benchmark, not others that begin with it.
    assert_eq!(results(&report).len(), 3, "{report}");
    for row in results(&report) {
        assert!(FIELDS.iter().all(|field| !row[*field].is_null()), "{row}");
        assert_eq!(row["unit"], "instructions");
        let counted: u64 =
            row["histogram"].as_array().expect("classes").iter().filter_map(|class| class[1].as_u64()).sum();
        assert_eq!(Some(counted), row["count"].as_u64(), "{row}");
    }
    assert_eq!(results(&report)[0]["max"], 0, "the method adds something: {report}");
}

#[test]
fn a_cpu_that_polls_is_woken_without_an_interrupt() {
    let wake = |idle: &str| {
        let file = temporary(idle);
        let path = file.to_str().expect("a name");
        let output = aero().args(["bench", "event_wake_remote_idle", "--idle", idle, "--json", path]).output();
        let output = output.expect("aero can be run");
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stdout(&output).contains("2 CPUs that poll when idle"), idle == "poll", "{}", stdout(&output));
        let report: Value = serde_json::from_str(&fs::read_to_string(&file).expect("the file")).expect("it is JSON");
        fs::remove_file(file).expect("it was there");
        assert_eq!(report["meta"]["idle_polls"], idle == "poll");
        results(&report)[0]["median"].as_u64().expect("a number")
    };
    // In instructions, an interrupt's entry and exit cost more than one look of a polling CPU.
    assert!(wake("poll") < wake("halt"));
    let baseline = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/baseline.json");
    let mixed = aero().args(["bench", "empty", "--idle", "poll", "--baseline", baseline]).output();
    let mixed = mixed.expect("aero can be run");
    assert!(!mixed.status.success() && stderr(&mixed).contains("cannot be compared"), "{}", stderr(&mixed));
}

#[test]
fn cycles_are_not_called_instructions() {
    let text = stdout(&boot_and_run("bench empty", &["--accel", "tcg"]));
    assert!(text.starts_with("cycles; 2 CPUs, ") && text.contains("accelerator tcg"), "{text}");
}

#[test]
fn wrong_names_and_options() {
    for (command, reason) in [
        ("bench --csv", "there is no option `--csv`"),
        ("bench nothing", "there is no benchmark `nothing`"),
        ("bench --json list", "`bench list` is for people"),
        ("bench scale 5", "begins with 10 threads"),
        ("bench scale many", "`many` is no number of threads"),
    ] {
        let output = boot_and_run(command, &[]);
        assert_eq!(output.status.code(), Some(2), "{command}: {}", stdout(&output));
        assert!((stdout(&output) + &stderr(&output)).contains(reason), "{command}: {}", stdout(&output));
    }
}

#[test]
fn files_pictures_and_baselines() {
    let (json, picture) = (temporary("bench.json"), temporary("bench.svg"));
    let bench = |arguments: &[&str]| aero().arg("bench").args(arguments).output().expect("aero can be run");
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    let output = bench(&["empty", "fiber_switch", "--json", &path(&json), "--plot", &path(&picture)]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("not time"), "{}", stdout(&output));
    assert!(fs::read_to_string(&picture).expect("a picture").contains("fiber_switch"));
    let text = fs::read_to_string(&json).expect("a report");
    let report: Value = serde_json::from_str(&text).expect("it is JSON");
    // Instruction counts repeat, so the same run is no worse than itself.
    let output = bench(&["--baseline", &path(&json)]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    // An earlier run whose median was two thirds of this one.
    let median = results(&report)[1]["median"].as_u64().expect("a number");
    let better = text.replace(&format!("\"median\":{median}"), &format!("\"median\":{}", median * 2 / 3));
    assert_ne!(better, text);
    fs::write(&json, better).expect("a file");
    let output = bench(&["--baseline", &path(&json)]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stderr(&output).contains(&format!("fiber_switch: {median} instead of")), "{}", stderr(&output));
    fs::write(&json, "{}").expect("a file");
    let output = bench(&["--baseline", &path(&json)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is no report of `aero bench --json`"), "{}", stderr(&output));
    fs::remove_file(&json).expect("the report goes");
    fs::remove_file(&picture).expect("the picture goes");
}

/// Returns the median instruction counts of `bench scale 100`, by operation and number of threads.
fn curves(cpus: &str) -> BTreeMap<String, u64> {
    let output = boot_and_run("bench --json scale 100", &["--icount", "--cpus", cpus]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).expect("it is JSON");
    let point = |row: &Value| (row["name"].as_str().expect("a name").into(), row["median"].as_u64().expect("a number"));
    results(&report).iter().map(point).collect()
}

#[test]
fn what_is_local_does_not_grow_with_cpus_or_threads() {
    let (one, four) = (curves("1"), curves("4"));
    for operation in ["create_join", "event", "allocate"] {
        let smallest = one[&format!("{operation}@10")];
        for (cpus, curves) in [(1, &one), (4, &four)] {
            for threads in [10, 100] {
                let median = curves[&format!("{operation}@{threads}")];
                // Instructions do not vary as time does; the twentieth covers the ends of the other
                // CPUs' runs.
                assert!(
                    median <= smallest + smallest / 20,
                    "{operation} takes {median} with {cpus} CPUs and {threads} threads, {smallest} with 1 and 10"
                );
            }
        }
    }
    // A CPU's share of a barrier grows at most logarithmically.
    assert!(four["barrier@10"] <= 3 * one["barrier@10"], "{one:?} {four:?}");
    assert!(four["broadcast@10"] > one["broadcast@10"], "a broadcast to others costs nothing: {one:?} {four:?}");
    assert_eq!(one.len(), 10, "{one:?}");
}
