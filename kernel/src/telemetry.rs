//! Telemetry: the state and how it changes, for a live view on a line of its own.
//!
//! Both ends send postcard values in COBS frames, each behind a zero byte. The host asks, the kernel answers. Whoever asks first
//! says hello, and is told the kernel's versions; nothing else is understood before that.

pub mod latency;

use alloc::vec::Vec;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arch::{Architecture, Machine};
use crate::snapshot::{self, CpuState, InterruptState, MachineState, MemoryState, ProgramState, Snapshot, ThreadState};
use crate::thread::{self, Builder, SpawnError};
use crate::trace;
use latency::{Histogram, Latencies};

/// First word of a hello.
pub const MAGIC: u32 = u32::from_le_bytes(*b"ATEL");
/// Version of the requests and answers, [`snapshot::VERSION`] apart.
pub const VERSION: u32 = 1;
/// Ends a frame.
pub const FRAME_END: u8 = 0;
/// Longest request, in bytes.
const REQUEST_LIMIT: usize = 64;
/// Threads per CPU told of.
const THREAD_LIMIT: usize = 256;
/// Time between two looks at the line.
const POLL: Duration = Duration::from_millis(10);

/// What the host asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who is there? [`MAGIC`] first.
    Hello(u32),
    /// What has changed since the last answer of this session.
    Look,
    /// Records events from now on, or no longer: without, there are no latencies.
    Trace(bool),
}

/// What the kernel answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The versions: [`MAGIC`], [`VERSION`], [`snapshot::VERSION`]; and what does not change.
    Hello(u32, u32, u32, MachineState),
    /// What has changed.
    Changes(Changes),
    /// It is done.
    Done,
    /// It is not, for this reason.
    Refused(alloc::string::String),
}

/// What has changed between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Time of this look, ns since the image was entered.
    pub taken_at_ns: u64,
    /// CPUs that have changed.
    pub cpus: Vec<CpuState>,
    /// Threads that are new or have changed.
    pub threads: Vec<ThreadState>,
    /// Numbers of threads that are gone.
    pub gone: Vec<u64>,
    /// Threads that are not told of.
    pub threads_omitted: u64,
    /// Programs, if they have changed.
    pub programs: Option<Vec<ProgramState>>,
    /// Memory, if it has changed.
    pub memory: Option<MemoryState>,
    /// Interrupts that have changed.
    pub interrupts: Vec<InterruptState>,
    /// True while events are recorded.
    pub tracing: bool,
    /// Latencies seen since the last look, by kind.
    pub latencies: Vec<Histogram>,
}

impl Changes {
    /// What leads from one state to the other.
    pub fn between(before: &Snapshot, now: &Snapshot) -> Self {
        let threads = now.threads.iter().filter(|thread| !before.threads.contains(thread));
        let is_gone = |id: u64| now.threads.iter().all(|thread| thread.id != id);
        let gone = before.threads.iter().map(|thread| thread.id).filter(|&id| is_gone(id));
        Self {
            taken_at_ns: now.taken_at_ns,
            cpus: now.cpus.iter().filter(|cpu| !before.cpus.contains(cpu)).cloned().collect(),
            threads: threads.cloned().collect(),
            gone: gone.collect(),
            threads_omitted: now.threads_omitted,
            programs: (before.programs != now.programs).then(|| now.programs.clone()),
            memory: (before.memory != now.memory).then(|| now.memory.clone()),
            interrupts: now.interrupts.iter().filter(|one| !before.interrupts.contains(one)).cloned().collect(),
            tracing: false,
            latencies: Vec::new(),
        }
    }

    /// Makes the later state of the earlier one.
    pub fn apply(self, state: &mut Snapshot) {
        state.taken_at_ns = self.taken_at_ns;
        state.threads_omitted = self.threads_omitted;
        merge(&mut state.cpus, self.cpus, |cpu| u64::from(cpu.index));
        state.threads.retain(|thread| !self.gone.contains(&thread.id));
        merge(&mut state.threads, self.threads, |thread| thread.id);
        merge(&mut state.interrupts, self.interrupts, |interrupt| u64::from(interrupt.vector));
        if let Some(programs) = self.programs {
            state.programs = programs;
        }
        if let Some(memory) = self.memory {
            state.memory = memory;
        }
    }
}

/// Replaces the entries that have the same key, and adds the others.
fn merge<T>(into: &mut Vec<T>, changed: Vec<T>, key: impl Fn(&T) -> u64) {
    for entry in changed {
        match into.iter_mut().find(|old| key(old) == key(&entry)) {
            Some(old) => *old = entry,
            None => into.push(entry),
        }
    }
}

/// Encodes a request or an answer, with its frame.
///
/// # Errors
/// If there is no memory.
pub fn encode(value: &impl Serialize) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_allocvec_cobs(value)
}

/// Decodes what came in a frame, without its end.
///
/// # Errors
/// If it is damaged.
pub fn decode<'a, T: Deserialize<'a>>(frame: &'a mut [u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes_cobs(frame)
}

/// Listens, if there is a line; false if not.
///
/// # Errors
/// [`SpawnError`] for its thread.
pub(crate) fn start() -> Result<bool, SpawnError> {
    if !Machine::telemetry_init() {
        return Ok(false);
    }
    Builder::new("telemetry").stack_size(4 * crate::memory::stack::DEFAULT_SIZE).spawn(listen)?.detach();
    Ok(true)
}

/// What somebody who said hello was told.
struct Session {
    told: Snapshot,
    latencies: Latencies,
}

/// The listener's life.
fn listen() {
    let mut frame: Vec<u8> = Vec::new();
    let mut session: Option<Session> = None;
    loop {
        let Some(byte) = Machine::telemetry_read() else {
            thread::sleep(POLL);
            continue;
        };
        if byte != FRAME_END {
            // What is too long cannot be decoded, and is dropped at its end.
            if frame.len() <= REQUEST_LIMIT {
                frame.push(byte);
            }
            continue;
        }
        frame.push(FRAME_END);
        if let Ok(request) = decode::<Request>(&mut frame)
            && let Some(answer) = answer(request, &mut session)
            && let Ok(bytes) = encode(&answer)
        {
            Machine::telemetry_write(&bytes);
        }
        frame.clear();
    }
}

fn answer(request: Request, session: &mut Option<Session>) -> Option<Answer> {
    match (request, session) {
        (Request::Hello(MAGIC), session) => {
            let machine = Snapshot::take_without_threads().machine;
            *session = Some(Session { told: Snapshot::default(), latencies: Latencies::new() });
            Some(Answer::Hello(MAGIC, VERSION, snapshot::VERSION, machine))
        }
        (Request::Look, Some(session)) => {
            let now = Snapshot::take_with(THREAD_LIMIT);
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
        // Nobody who speaks this protocol.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::snapshot::Activity;

    fn thread(id: u64, run_ns: u64) -> ThreadState {
        ThreadState {
            id,
            name: "t".into(),
            cpu: 0,
            activity: Activity::Ready,
            certain: true,
            run_ns,
            stack_bottom: 0,
            stack_size: 0,
            stack_used: 0,
            resumes_at: 0,
            waits_for: 0,
        }
    }

    #[test]
    fn changes_lead_from_one_state_to_the_other() {
        let cpu = |index, switches| CpuState { index, switches, ..CpuState::default() };
        let before = Snapshot {
            taken_at_ns: 1,
            cpus: vec![cpu(0, 5), cpu(1, 5)],
            threads: vec![thread(1, 0), thread(2, 0), thread(3, 0)],
            ..Snapshot::default()
        };
        let now = Snapshot {
            taken_at_ns: 2,
            cpus: vec![cpu(0, 5), cpu(1, 6)],
            threads: vec![thread(1, 0), thread(3, 9), thread(4, 0)],
            programs: vec![ProgramState::default()],
            ..Snapshot::default()
        };
        let changes = Changes::between(&before, &now);
        assert_eq!((changes.cpus.len(), changes.threads.len(), &changes.gone[..]), (1, 2, &[2][..]));
        let mut bytes = encode(&Answer::Changes(changes)).expect("it can be encoded");
        let Ok(Answer::Changes(changes)) = decode(&mut bytes) else { panic!("it is not what it was") };
        let mut state = before;
        changes.apply(&mut state);
        assert_eq!(state, now);
    }

    #[test]
    fn noise_is_no_request() {
        for noise in [&mut [][..], &mut [0], &mut [5, 9, 0], &mut [0xff; 70]] {
            assert!(decode::<Request>(noise).is_err());
        }
    }
}
