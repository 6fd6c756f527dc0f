//! `aero hvm trace`: records what a running hybrid runtime does, with the events of its event
//! channels: the runtime's threads and their partners in Linux are on one time line, with an arrow
//! from one side to the other for each event.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use hvm::events::{self, Event};
use hvm::lines;
use machine::status;
use protocol::group::Kind;
use protocol::system_call;
use serde_json::{Value, json};
use wire::snapshot::GroupState;
use wire::telemetry::{Answer, Request};
use wire::trace::Trace;

use crate::hvm_console;
use crate::top::Line;
use crate::trace_file::{self, ROS, THREADS};

/// Pause between two pieces of the trace that are asked for.
const PAUSE: Duration = Duration::from_millis(20);

/// Time limit for what is left of the trace.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Records for some seconds, and writes the trace.
pub fn run(of: hvm_console::Which, to: &Path, seconds: f64) -> Result<u8> {
    ensure!((0.001..=3600.0).contains(&seconds), "--for is from 0.001 to 3600 seconds");
    let mut line = Line::connect(&hvm_console::socket(of, lines::Line::Telemetry)?)?;
    line.hello()?;
    let listener = Listener::start(&hvm_console::socket(of, lines::Line::Events)?)?;
    switch(&mut line, true)?;
    let deadline = Instant::now() + Duration::from_secs_f64(seconds);
    let mut bytes = Vec::new();
    let recorded = record(&mut line, deadline, &mut bytes);
    // Also after an error: a trace costs time.
    switch(&mut line, false)?;
    recorded?;
    let deadline = Instant::now() + END_LIMIT;
    while !take(&mut line, &mut bytes)? {
        ensure!(Instant::now() < deadline, "the kernel still records: `trace on` was typed at its console meanwhile");
    }
    let events = listener.end()?;
    let groups = match line.ask(Request::Look)? {
        Answer::Changes(changes) => changes.groups.unwrap_or_default(),
        other => bail!("the kernel gives the unexpected answer {other:?}"),
    };
    let trace = trace_file::write(to, &bytes, |trace| partners(trace, &groups, &events))?;
    trace_file::tell(to, &trace, true);
    let lost: u64 = events.iter().map(|event| event.lost).sum();
    let lost = if lost == 0 { String::new() } else { format!("; {lost} came too fast and were lost") };
    eprintln!("aero: {} events of {} event channels{lost}", events.len(), groups.len());
    Ok(status::DONE)
}

/// Reads the events of event channels as they come.
struct Listener {
    stream: UnixStream,
    reader: JoinHandle<io::Result<Vec<u8>>>,
}

impl Listener {
    fn start(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let mut input = stream.try_clone()?;
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes).map(|_| bytes)
        });
        Ok(Self { stream, reader })
    }

    fn end(self) -> Result<Vec<Event>> {
        // The library looks after its rings as often as this.
        thread::sleep(PAUSE);
        self.stream.shutdown(Shutdown::Both)?;
        let bytes = self.reader.join().map_err(|_| anyhow!("the reader of events panicked"))??;
        Ok(events::read(&bytes)?)
    }
}

/// Returns the tracks of the partners, and the arrows.
fn partners(trace: &Trace, groups: &[GroupState], events: &[Event]) -> Vec<Value> {
    let mut out = vec![trace_file::metadata("process_name", ROS, 0, "Linux")];
    for group in groups {
        let name = format!("partner of group {} ({})", group.number, group.partner);
        out.push(trace_file::metadata("thread_name", ROS, group.partner, &name));
    }
    for (number, event) in events.iter().enumerate() {
        let Some(group) = groups.iter().find(|group| u64::from(group.number) == event.group) else { continue };
        let begin = trace_file::microseconds(trace, event.began);
        let end = trace_file::microseconds(trace, event.began.saturating_add(event.cycles));
        let (partner, thread) = ((ROS, group.partner), (THREADS, group.thread));
        let name = name_of(event);
        let arguments = json!({ "sequence": event.sequence, "result": event.result as i64 });
        let category = event.kind.name();
        out.push(trace_file::slice(ROS, group.partner, &name, category, begin, end, arguments.clone()));
        let (from, to) = if event.kind == Kind::Call {
            out.push(trace_file::slice(THREADS, group.thread, &name, category, begin, end, arguments));
            (partner, thread)
        } else {
            (thread, partner)
        };
        for (phase, (process, track)) in [("s", from), ("f", to)] {
            out.push(json!({
                "name": category, "cat": "event", "ph": phase, "bp": "e", "id": number, "ts": begin, "pid": process,
                "tid": track,
            }));
        }
    }
    out
}

fn name_of(event: &Event) -> String {
    match (event.kind, system_call::name(event.detail)) {
        (Kind::SystemCall, Some(name)) => name.into(),
        (Kind::SystemCall | Kind::Exception, _) => format!("{} {}", event.kind.name(), event.detail),
        (kind, _) => format!("{} {:#x}", kind.name(), event.detail),
    }
}

fn record(line: &mut Line, deadline: Instant, bytes: &mut Vec<u8>) -> Result<()> {
    while Instant::now() < deadline {
        take(line, bytes)?;
        thread::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

/// Takes a piece of the trace. Returns whether it was the last one.
fn take(line: &mut Line, bytes: &mut Vec<u8>) -> Result<bool> {
    match line.ask(Request::Records)? {
        Answer::Records { bytes: piece, is_last } => {
            bytes.extend(piece);
            Ok(is_last)
        }
        other => bail!("the kernel gives the unexpected answer {other:?}"),
    }
}

fn switch(line: &mut Line, on: bool) -> Result<()> {
    match line.ask(Request::Trace(on))? {
        Answer::Done => Ok(()),
        Answer::Refused(reason) => bail!("the kernel does not trace: {reason}"),
        other => bail!("the kernel gives the unexpected answer {other:?}"),
    }
}
