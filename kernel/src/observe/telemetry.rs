//! Telemetry ([`wire::telemetry`]): the kernel's side of a serial line on which a host asks for the
//! kernel's state and its changes.

mod latency;

use alloc::vec::Vec;
use core::time::Duration;
use wire::snapshot::Snapshot;
use wire::telemetry::{Answer, Changes, FRAME_END, MAGIC, Request, VERSION, decode};

use crate::arch::*;
use crate::snapshot;
use crate::thread::{self, Builder, SpawnError};
use crate::trace;
use latency::Latencies;

/// Maximum length of a request, in bytes.
const REQUEST_LIMIT: usize = 64;
/// Maximum number of threads reported per CPU.
const THREAD_LIMIT: usize = 256;
/// Time between two polls of the line.
const POLL: Duration = Duration::from_millis(10);

/// Starts listening, if there is a telemetry line. Returns false if there is none.
///
/// # Errors
/// [`SpawnError`] for the listening thread.
pub(crate) fn start() -> Result<bool, SpawnError> {
    if !Platform::telemetry_init() {
        return Ok(false);
    }
    Builder::new("telemetry").stack_size(4 * crate::memory::stack::DEFAULT_SIZE).spawn(listen)?.detach();
    Ok(true)
}

/// The state last sent to the host, since its hello.
struct Session {
    told: Snapshot,
    latencies: Latencies,
    trace: trace::Reader,
}

/// Main loop of the listening thread.
fn listen() {
    let mut frame: Vec<u8> = Vec::new();
    let mut session: Option<Session> = None;
    loop {
        let Some(byte) = Platform::telemetry_read() else {
            thread::sleep(POLL);
            continue;
        };
        if byte != FRAME_END {
            // A request over the limit cannot be decoded, and is dropped at its end.
            if frame.len() <= REQUEST_LIMIT {
                frame.push(byte);
            }
            continue;
        }
        frame.push(FRAME_END);
        if let Ok(request) = decode::<Request>(&mut frame)
            && let Some(answer) = answer(request, &mut session)
            && let Ok(bytes) = answer.encode()
        {
            Platform::telemetry_write(&bytes);
        }
        frame.clear();
    }
}

fn answer(request: Request, session: &mut Option<Session>) -> Option<Answer> {
    match (request, session) {
        (Request::Hello(MAGIC), session) => {
            let machine = snapshot::take_without_threads().machine;
            *session =
                Some(Session { told: Snapshot::default(), latencies: Latencies::new(), trace: trace::Reader::new() });
            Some(Answer::Hello(MAGIC, VERSION, wire::snapshot::VERSION, machine))
        }
        (Request::Look, Some(session)) => {
            let now = snapshot::take_with(THREAD_LIMIT);
            let mut changes = Changes::between(&session.told, &now);
            changes.tracing = trace::is_on();
            changes.latencies = session.latencies.since_last();
            session.told = now;
            Some(Answer::Changes(changes))
        }
        (Request::Trace(true), Some(session)) => Some(match trace::start() {
            Ok(()) => {
                session.latencies = Latencies::new();
                Answer::Done
            }
            Err(error) => Answer::Refused(alloc::format!("{error}")),
        }),
        (Request::Trace(false), Some(_)) => {
            trace::stop();
            Some(Answer::Done)
        }
        (Request::Records, Some(session)) => {
            let (bytes, is_last) = session.trace.read();
            Some(Answer::Records { bytes, is_last })
        }
        // The peer does not speak this protocol, or has not said hello.
        _ => None,
    }
}
