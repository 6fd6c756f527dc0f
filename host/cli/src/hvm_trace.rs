//! `aero hvm trace`: records what a running hybrid runtime does.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use machine::status;
use wire::telemetry::{Answer, Request};

use crate::top::Line;
use crate::trace_file;

/// Pause between two pieces of the trace that are asked for.
const PAUSE: Duration = Duration::from_millis(20);

/// Records for some seconds, and writes the trace.
pub fn run(socket: &Path, to: &Path, seconds: f64) -> Result<u8> {
    ensure!((0.001..=3600.0).contains(&seconds), "--for is from 0.001 to 3600 seconds");
    let mut line = Line::connect(socket)?;
    line.hello()?;
    switch(&mut line, true)?;
    let deadline = Instant::now() + Duration::from_secs_f64(seconds);
    let mut bytes = Vec::new();
    let recorded = record(&mut line, deadline, &mut bytes);
    // Also after an error: a trace costs time.
    switch(&mut line, false)?;
    recorded?;
    while !take(&mut line, &mut bytes)? {}
    trace_file::tell(to, &trace_file::write(to, &bytes)?, true);
    Ok(status::DONE)
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
