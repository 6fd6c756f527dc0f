//! Telemetry: the kernel's state and its changes, for a live view on a serial line of its own.
//!
//! Both ends send postcard values in COBS frames, each terminated by a zero byte. The host asks and
//! the kernel answers. A session begins with a hello, which the kernel answers with its versions;
//! it answers nothing else before that. The host also sends a zero byte before each request, which
//! separates it from noise on the line.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::snapshot::{
    CpuState, GroupState, InterruptState, MachineState, MemoryState, ProgramState, Snapshot, ThreadState,
};

/// First word of a hello.
pub const MAGIC: u32 = u32::from_le_bytes(*b"ATEL");
/// Version of the requests and answers, independent of [`crate::snapshot::VERSION`].
pub const VERSION: u32 = 2;
/// The byte that ends a frame.
pub const FRAME_END: u8 = 0;

/// A request of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Begins a session. The word is [`MAGIC`].
    Hello(u32),
    /// Asks for the changes since the last answer of this session.
    Look,
    /// Starts or stops recording trace events, from which latencies are derived.
    Trace(bool),
    /// Asks for the next piece of the trace.
    Records,
}

/// An answer of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The versions, as [`MAGIC`], [`VERSION`] and [`crate::snapshot::VERSION`], and the properties
    /// that do not change.
    Hello(u32, u32, u32, MachineState),
    /// The changes since the last look.
    Changes(Changes),
    /// The request was carried out.
    Done,
    /// The request was refused, for this reason.
    Refused(String),
    /// A piece of the trace.
    Records {
        /// The trace's bytes ([`crate::trace`]) that follow the previous piece's.
        bytes: Vec<u8>,
        /// There are no more, because recording has stopped.
        is_last: bool,
    },
}

/// The changes between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Time of this look, in ns since the image was entered.
    pub taken_at_ns: u64,
    /// The CPUs that have changed.
    pub cpus: Vec<CpuState>,
    /// The threads that are new or have changed.
    pub threads: Vec<ThreadState>,
    /// Ids of threads that no longer exist.
    pub gone: Vec<u64>,
    /// Number of threads that are not reported.
    pub threads_omitted: u64,
    /// All programs, if any has changed.
    pub programs: Option<Vec<ProgramState>>,
    /// Memory usage, if it has changed.
    pub memory: Option<MemoryState>,
    /// The interrupts that have changed.
    pub interrupts: Vec<InterruptState>,
    /// All execution groups, if any has changed.
    pub groups: Option<Vec<GroupState>>,
    /// True while events are recorded.
    pub tracing: bool,
    /// Latencies seen since the last look, by kind.
    pub latencies: Vec<Histogram>,
}

impl Changes {
    /// Returns the changes that lead from one state to the other. Compiled here, for size.
    #[inline(never)]
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
            groups: (before.groups != now.groups).then(|| now.groups.clone()),
            tracing: false,
            latencies: Vec::new(),
        }
    }

    /// Turns the earlier state into the later one.
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
        if let Some(groups) = self.groups {
            state.groups = groups;
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

/// Encodes a request or an answer as a frame.
///
/// # Errors
/// If memory runs out.
pub fn encode(value: &impl Serialize) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_allocvec_cobs(value)
}

impl Answer {
    /// Encodes the answer as a frame. It is no generic function, so that it is compiled here, for
    /// size.
    ///
    /// # Errors
    /// When memory runs out.
    #[inline(never)]
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        encode(self)
    }
}

/// Decodes a frame, including its final zero byte. The decoding overwrites the frame.
///
/// # Errors
/// If the frame is damaged.
pub fn decode<'a, T: Deserialize<'a>>(frame: &'a mut [u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes_cobs(frame)
}

/// Number of buckets of a histogram. The first counts 0 ns, bucket n counts 2^(n-1) to 2^n - 1 ns,
/// and the last one everything above.
pub const BUCKETS: usize = 32;

/// A distribution of latencies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// The kind of latency.
    pub name: String,
    /// The counts by bucket; see [`BUCKETS`].
    pub buckets: Vec<u64>,
}

impl Histogram {
    /// Creates an empty histogram.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_string(), buckets: vec![0; BUCKETS] }
    }

    /// Counts one latency.
    pub fn add(&mut self, nanoseconds: u64) {
        let bucket = (u64::BITS - nanoseconds.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
    }
}

#[cfg(test)]
mod tests {
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
            groups: vec![GroupState::default()],
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
