//! The tracer at the prompt, and the trace file for Perfetto, which must state what really ran.

use std::collections::BTreeMap;
use std::path::PathBuf;

use e2e::{aero, boot_and_run, stderr, stdout};
use serde_json::Value;

/// Processes in the trace file whose tracks are CPUs and threads: see `host/cli/src/trace_file.rs`.
const CPUS: u64 = 1;
const THREADS: u64 = 2;

/// Boots with a trace file and returns its events.
fn traced(name: &str, script: &str, options: &[&str]) -> Vec<Value> {
    let file = std::env::temp_dir().join(format!("aerokernel-{}-{name}.json", std::process::id()));
    let hello = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello");
    let mut command = aero();
    command.args(["boot", "--run", script, "--trace"]).arg(&file).arg("--hrt").arg(hello).args(options);
    let output = command.output().expect("aero can be run");
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let text = std::fs::read(&file).expect("a trace file");
    std::fs::remove_file(&file).expect("the file goes");
    let trace: Value = serde_json::from_slice(&text).expect("the file is JSON");
    trace["traceEvents"].as_array().expect("events").clone()
}

fn number(event: &Value, key: &str) -> u64 {
    event[key].as_u64().unwrap_or_else(|| panic!("no {key} in {event}"))
}

fn time(event: &Value, key: &str) -> f64 {
    event[key].as_f64().unwrap_or_else(|| panic!("no {key} in {event}"))
}

/// Returns the slices of a process by track, in order.
fn runs(events: &[Value], process: u64) -> BTreeMap<u64, Vec<&Value>> {
    let mut tracks: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X" && event["cat"] == "run" && event["pid"] == process) {
        tracks.entry(number(event, "tid")).or_default().push(event);
    }
    tracks
}

#[test]
fn a_trace_says_what_ran_where() {
    let events = traced("what-ran", "run hello; bench context_switch", &["--cpus", "3"]);
    let cpus = runs(&events, CPUS);
    // Each CPU ran a thread of `hello`, which appears under its name.
    for cpu in 0..3 {
        let names: Vec<&str> = cpus[&cpu].iter().filter_map(|event| event["name"].as_str()).collect();
        assert!(names.contains(&"greeter"), "CPU {cpu} ran {names:?}");
        let track = events.iter().find(|event| {
            event["ph"] == "M" && event["pid"] == CPUS && event["tid"] == cpu && event["name"] == "thread_name"
        });
        assert_eq!(track.expect("a track for the CPU")["args"]["name"], format!("CPU {cpu}"));
    }
    // A CPU runs one thread at a time.
    for (cpu, slices) in &cpus {
        for pair in slices.windows(2) {
            let end = time(pair[0], "ts") + time(pair[0], "dur");
            assert!(end <= time(pair[1], "ts") + 0.001, "CPU {cpu} ran {} and {} at once", pair[0], pair[1]);
        }
    }
    // In that benchmark, two threads that yield to each other alternate a thousand times.
    let names: Vec<&str> = cpus[&0].iter().filter_map(|event| event["name"].as_str()).collect();
    let turns = names.windows(2).filter(|pair| *pair == ["main", "bench"]).count();
    assert!(turns >= 1000, "{turns} turns in {} runs", names.len());
    // The thread tracks agree with the CPU tracks.
    for (thread, slices) in runs(&events, THREADS) {
        for slice in slices {
            let name = slice["name"].as_str().expect("a name");
            let cpu: u64 = name.strip_prefix("CPU ").and_then(|number| number.parse().ok()).expect("a CPU");
            let same = cpus[&cpu].iter().any(|event| event["ts"] == slice["ts"] && event["args"]["thread"] == thread);
            assert!(same, "thread {thread} ran at {} on CPU {cpu}, which says otherwise", slice["ts"]);
        }
    }
    // A thread that was woken on a CPU ran there afterwards, unless the machine ended before that
    // CPU switched again.
    let wakes: Vec<&Value> = events.iter().filter(|event| event["cat"] == "Wake").collect();
    assert!(!wakes.is_empty());
    let ended = |thread: u64| !cpus.values().flatten().any(|event| event["args"]["thread"] == thread);
    for wake in wakes {
        let (thread, cpu) = (number(&wake["args"], "first"), number(&wake["args"], "second"));
        let ran = cpus[&cpu].iter().any(|event| {
            event["args"]["thread"] == thread && time(event, "ts") + time(event, "dur") >= time(wake, "ts")
        });
        let switched = cpus[&cpu].iter().any(|event| time(event, "ts") > time(wake, "ts"));
        assert!(
            ran || !switched || ended(thread),
            "thread {thread} was woken on CPU {cpu} and never ran there: {wake}"
        );
    }
}

/// Records more events than a ring holds. Returns the messages of `aero` and the events in the
/// trace.
fn long_trace(name: &str, options: &[&str]) -> (String, Vec<Value>) {
    let file = std::env::temp_dir().join(format!("aerokernel-{}-{name}.json", std::process::id()));
    let mut command = aero();
    // The sleeps give the kernel time to write and `aero` time to notice the loss; the results do
    // not depend on them.
    let bench = "bench context_switch; sleep 0.3; ".repeat(6);
    command.args(["boot", "--run", &format!("{bench}trace"), "--cpus", "1", "--trace"]).arg(&file).args(options);
    let output = command.output().expect("aero can be run");
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(!stdout(&output).contains(" 0 older ones overwritten"), "the ring is large enough: {}", stdout(&output));
    let trace: Value = serde_json::from_slice(&std::fs::read(&file).expect("a trace file")).expect("JSON");
    std::fs::remove_file(&file).expect("the file goes");
    (stderr(&output), trace["traceEvents"].as_array().expect("events").clone())
}

#[test]
fn a_trace_that_loses_events_says_so_and_a_stream_loses_none() {
    let ring = 16 * 1024;
    let (said, events) = long_trace("loses", &[]);
    let early = said.find("the trace loses its oldest events from now on");
    let end = said.find("were overwritten, which `--stream` avoids");
    assert!(early.is_some() && early < end, "{said}");
    let switches =
        |events: &[Value]| events.iter().filter(|event| event["cat"] == "run" && event["pid"] == CPUS).count();
    assert!(switches(&events) < ring, "{said}");
    let (said, events) = long_trace("stream", &["--stream"]);
    assert!(!said.contains("overwritten") && !said.contains("loses"), "{said}");
    // In each of the six benchmark runs, two threads switch at least 2,000 times.
    assert!(switches(&events) > 6 * 2000, "{} switches: {said}", switches(&events));
    let mut last = 0.0;
    for event in events.iter().filter(|event| event["cat"] == "run" && event["pid"] == CPUS) {
        assert!(time(event, "ts") >= last, "{event} begins before the one before it ended");
        last = time(event, "ts");
    }
}

#[test]
fn interrupts_timers_and_memory_are_in_the_trace() {
    let events = traced("kinds", "spawn sleep 2; uptime; bench ipi_round timer_late; kill all", &["--cpus", "2"]);
    for category in ["interrupt", "Ipi", "TimerSet", "TimerFire", "Allocate", "Free", "Wake"] {
        assert!(events.iter().any(|event| event["cat"] == category), "no {category} in the trace");
    }
    for event in events.iter().filter(|event| event["cat"] == "interrupt") {
        assert!(time(event, "dur") >= 0.0, "{event}");
    }
}

#[test]
fn a_crash_leaves_its_trace() {
    let file = std::env::temp_dir().join(format!("aerokernel-{}-crash.json", std::process::id()));
    let output = aero().args(["boot", "--run", "panic", "--trace"]).arg(&file).output().expect("aero can be run");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let text = std::fs::read_to_string(&file).expect("a trace file");
    std::fs::remove_file(&file).expect("the file goes");
    assert!(text.contains("\"main\""), "{text}");
}

/// Returns the time stamps, in us, of a dump's lines.
fn stamps(dump: &str) -> Vec<f64> {
    dump.lines().map_while(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

#[test]
fn the_tracer_at_the_prompt() {
    let output = boot_and_run("trace on; uptime; trace off; trace; trace dump 5; trace on; trace off; trace dump", &[]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.contains("tracing is off; "), "{text}");
    // Each dump has a header. The second contains only what happened after the end of the first.
    let dumps: Vec<Vec<f64>> = text.split("thread  event\n").skip(1).map(stamps).collect();
    let [first, second] = dumps.as_slice() else { panic!("two dumps were asked for:\n{text}") };
    assert_eq!(first.len(), 5, "{text}");
    assert!(!second.is_empty() && second[0] > first[4], "{text}");
    for dump in &dumps {
        assert!(dump.is_sorted(), "{text}");
    }
    let output = boot_and_run("trace sideways", &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
}
