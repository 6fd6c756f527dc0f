//! Converts the kernel's trace to Chrome's trace event format, which Perfetto and
//! `chrome://tracing` open. Each CPU has a track with its threads and interrupts, and each thread
//! has a track with the CPUs it ran on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use wire::trace::{Event, EventKind, Trace};

/// The format's processes, which group its tracks.
const CPUS: u32 = 1;
pub const THREADS: u32 = 2;
pub const ROS: u32 = 3;

/// Returns the path of the file that QEMU writes the trace to in the kernel's own format, beside
/// the requested file.
pub fn raw_path(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".raw");
    name.into()
}

/// Converts the raw trace that the machine left beside `to`.
pub fn convert(to: &Path, was_streamed: bool) -> Result<()> {
    let raw = raw_path(to);
    let bytes = fs::read(&raw).with_context(|| format!("the machine left no trace in {}", raw.display()))?;
    ensure!(
        !bytes.is_empty(),
        "the machine left no trace: it was killed; `--stream` keeps what was recorded until then"
    );
    let trace = write(to, &bytes, |_| Vec::new())?;
    fs::remove_file(&raw)?;
    tell(to, &trace, was_streamed);
    Ok(())
}

/// Converts a trace in the kernel's own format, and adds further events.
pub fn write(to: &Path, bytes: &[u8], further: impl FnOnce(&Trace) -> Vec<Value>) -> Result<Trace> {
    let trace = wire::trace::read(bytes).context("the machine's trace cannot be read")?;
    let mut events = chrome(&trace);
    events.extend(further(&trace));
    let text = serde_json::to_vec(&json!({ "displayTimeUnit": "ns", "traceEvents": events }))?;
    fs::write(to, text).with_context(|| format!("{} cannot be written", to.display()))?;
    Ok(trace)
}

/// Tells what a trace has, and how it was recorded.
pub fn tell(to: &Path, trace: &Trace, was_streamed: bool) {
    let events: usize = trace.rings.iter().map(|(_, events)| events.len()).sum();
    let lost: u64 = trace.rings.iter().map(|(ring, _)| ring.lost).sum();
    let lost = match (lost, was_streamed) {
        (0, _) => String::new(),
        (lost, true) => format!("; {lost} were overwritten before they could be written"),
        (lost, false) => format!("; {lost} were overwritten, which `--stream` avoids"),
    };
    let end = if trace.is_whole { "" } else { "; the machine was killed before it had written all" };
    eprintln!("aero: {events} events in {}{lost}{end}; open it in Perfetto", to.display());
}

/// Returns a time in the trace's unit.
pub fn microseconds(trace: &Trace, cycles: u64) -> f64 {
    cycles.saturating_sub(trace.header.epoch) as f64 * 1e6 / trace.header.cycle_hz.max(1) as f64
}

/// Returns the trace's events.
fn chrome(trace: &Trace) -> Vec<Value> {
    let names = thread_names(trace);
    let name_of = |id: u64| names.get(&id).cloned().unwrap_or_else(|| format!("thread {id}"));
    let mut out = Vec::new();
    out.push(metadata("process_name", CPUS, 0, "CPUs"));
    out.push(metadata("process_name", THREADS, 0, "threads"));
    for (ring, _) in &trace.rings {
        out.push(metadata("thread_name", CPUS, u64::from(ring.cpu), &format!("CPU {}", ring.cpu)));
    }
    for (id, name) in &names {
        out.push(metadata("thread_name", THREADS, *id, &format!("{name} ({id})")));
    }
    for (ring, events) in &trace.rings {
        let microseconds = |event: &Event| microseconds(trace, event.cycles);
        let mut running: Option<(u64, f64)> = events.first().map(|event| (event.thread, microseconds(event)));
        let mut interrupts: Vec<(u64, f64)> = Vec::new();
        let end = events.last().map_or(0.0, microseconds);
        let mut ran = |thread: u64, from: f64, to: f64| {
            if thread != ring.idle {
                out.push(slice(
                    CPUS,
                    u64::from(ring.cpu),
                    &name_of(thread),
                    "run",
                    from,
                    to,
                    json!({ "thread": thread }),
                ));
                out.push(slice(THREADS, thread, &format!("CPU {}", ring.cpu), "run", from, to, json!({})));
            }
        };
        let mut points = Vec::new();
        let mut handled = Vec::new();
        for event in events {
            let at = microseconds(event);
            match event.kind {
                EventKind::Switch => {
                    if let Some((thread, from)) = running.replace((event.first, at)) {
                        ran(thread, from, at);
                    }
                }
                EventKind::InterruptBegin => interrupts.push((event.first, at)),
                EventKind::InterruptEnd => {
                    if let Some((vector, from)) = interrupts.pop() {
                        handled.push((vector, from, at));
                    }
                }
                EventKind::Name => {}
                _ => points.push((at, event)),
            }
        }
        if let Some((thread, from)) = running {
            ran(thread, from, end);
        }
        for (vector, from, to) in handled {
            let name = format!("interrupt {vector:#x}");
            out.push(slice(CPUS, u64::from(ring.cpu), &name, "interrupt", from, to, json!({ "vector": vector })));
        }
        for (at, event) in points {
            out.push(json!({
                "name": event.to_string(), "cat": format!("{:?}", event.kind), "ph": "i", "s": "t", "ts": at,
                "pid": CPUS, "tid": ring.cpu,
                "args": { "thread": event.thread, "first": event.first, "second": event.second },
            }));
        }
    }
    out
}

pub fn metadata(kind: &str, process: u32, track: u64, name: &str) -> Value {
    json!({ "name": kind, "ph": "M", "pid": process, "tid": track, "args": { "name": name } })
}

pub fn slice(process: u32, track: u64, name: &str, category: &str, from: f64, to: f64, arguments: Value) -> Value {
    json!({
        "name": name, "cat": category, "ph": "X", "ts": from, "dur": to - from, "pid": process, "tid": track,
        "args": arguments,
    })
}

/// Collects the threads' names: whole names of the threads that existed at the end, and for the
/// others the beginnings recorded at their spawn.
fn thread_names(trace: &Trace) -> BTreeMap<u64, String> {
    let mut names = BTreeMap::new();
    for (_, events) in &trace.rings {
        for pair in events.windows(2) {
            if let [
                Event { kind: EventKind::Spawn, first: id, .. },
                Event { kind: EventKind::Name, first, second, .. },
            ] = pair
            {
                names.insert(*id, wire::trace::name(*first, *second));
            }
        }
    }
    names.extend(trace.threads.iter().filter(|thread| thread.id != 0).map(|thread| (thread.id, thread.name.clone())));
    names
}
