//! The kernel's state at one moment, which every command, test and tool reads. The kernel's
//! `snapshot` module takes it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

/// Version of the format. It changes with every change of these types.
pub const VERSION: u32 = 5;

/// The kernel's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`VERSION`] of the kernel that took the snapshot.
    pub version: u32,
    /// Time at which the snapshot was begun, in ns since the image was entered.
    pub taken_at_ns: u64,
    /// The machine.
    pub machine: MachineState,
    /// The CPUs.
    pub cpus: Vec<CpuState>,
    /// The threads, by CPU, oldest first.
    pub threads: Vec<ThreadState>,
    /// The running programs.
    pub programs: Vec<ProgramState>,
    /// Number of threads that `threads` has no room for.
    pub threads_omitted: u64,
    /// Memory usage.
    pub memory: MemoryState,
    /// The interrupt vectors that were used or have a handler.
    pub interrupts: Vec<InterruptState>,
    /// The execution groups, with their event channels.
    pub groups: Vec<GroupState>,
    /// The firmware tables.
    pub tables: Vec<TableState>,
    /// Irregularities found at start-up.
    pub notices: Vec<String>,
}

/// The properties of the machine, which do not change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    /// The architecture.
    pub architecture: String,
    /// The loader of the image.
    pub loader: String,
    /// The command line.
    pub command_line: String,
    /// Rate of the time counter in Hz.
    pub cycle_hz: u64,
    /// True if the rate, and therefore every time, is a guess.
    pub times_are_guesses: bool,
    /// The device behind the timers.
    pub timer: String,
    /// The kind of interrupt controllers.
    pub interrupt_controller: String,
    /// Number of CPUs that the firmware lists.
    pub cpus_listed: u32,
    /// Time at which the first thread could run, in ns since the image was entered.
    pub ready_at_ns: u64,
    /// Physical address of the image, and its length in bytes.
    pub image: (u64, u64),
}

/// A running program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramState {
    /// The program's id, from the same sequence as thread ids.
    pub id: u64,
    /// The program's name.
    pub name: String,
    /// Number of its threads.
    pub threads: u64,
    /// Number of memory blocks it has allocated.
    pub blocks: u64,
    /// Size of these blocks in bytes.
    pub bytes: u64,
    /// Address of the program's image.
    pub image: u64,
    /// Time at which the program was started, in ns since the kernel's image was entered.
    pub started_at_ns: u64,
    /// True once the program is ending.
    pub ending: bool,
}

/// A CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    /// The CPU's index.
    pub index: u32,
    /// The CPU's APIC id.
    pub hardware_id: u32,
    /// The CPU's NUMA node.
    pub node: u32,
    /// False if the CPU did not answer; the fields below were then read while they may have been
    /// changing.
    pub answered: bool,
    /// Id of the running thread.
    pub running: u64,
    /// True if the running thread is the idle thread.
    pub idle: bool,
    /// Ids of the first 64 ready threads, in run queue order.
    pub ready: Vec<u64>,
    /// Number of ready threads.
    pub ready_count: u64,
    /// Number of threads bound to the CPU.
    pub threads: u64,
    /// Number of context switches.
    pub switches: u64,
    /// Number of times a thread was preempted.
    pub preemptions: u64,
    /// Number of times another CPU made a thread of this CPU ready.
    pub remote_wakeups: u64,
    /// Number of functions run for other CPUs.
    pub calls: u64,
    /// Time spent in the idle thread, in ns.
    pub idle_ns: u64,
    /// True while the scheduler's tick is on.
    pub ticking: bool,
    /// Number of timers that are set.
    pub timers: u64,
    /// The earliest deadline, in ns since the image was entered.
    pub next_deadline_ns: Option<u64>,
    /// Number of timers that have fired.
    pub timers_fired: u64,
}

/// A thread's activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// The thread runs on its CPU.
    Running,
    /// The thread is in its CPU's run queue.
    Ready,
    /// The thread waits.
    Blocked,
    /// The thread has exited.
    Exited,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadState {
    /// The thread's id.
    pub id: u64,
    /// The thread's name.
    pub name: String,
    /// The CPU that the thread is bound to.
    pub cpu: u32,
    /// The thread's activity.
    pub activity: Activity,
    /// False if the thread's CPU did not answer.
    pub certain: bool,
    /// Time the thread has run up to its last switch, in ns.
    pub run_ns: u64,
    /// Lowest address of the stack.
    pub stack_bottom: u64,
    /// Size of the stack in bytes.
    pub stack_size: u64,
    /// Bytes of stack in use when the thread last gave up its CPU; 0 while it runs.
    pub stack_used: u64,
    /// Address at which the thread resumes; 0 while it runs.
    pub resumes_at: u64,
    /// Id of the thread that holds the mutex this thread waits for, 0 for none.
    pub waits_for: u64,
}

/// Memory usage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryState {
    /// The NUMA nodes.
    pub nodes: Vec<NodeState>,
    /// Bytes of free small objects, in the CPUs' caches and in slabs.
    pub cached: u64,
    /// Number of stacks in use.
    pub stacks: u64,
    /// Bytes of freed stacks that are kept for reuse.
    pub cached_stacks: u64,
}

/// Memory of a node, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The node's number.
    pub node: u32,
    /// All memory of the node.
    pub total: u64,
    /// Free memory.
    pub free: u64,
    /// Memory that the allocator's records occupy.
    pub records: u64,
    /// The largest free block.
    pub largest_free: u64,
}

/// An interrupt vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptState {
    /// The vector's number.
    pub vector: u8,
    /// The vector's purpose.
    pub purpose: String,
    /// Number of interrupts taken, by CPU.
    pub counts: Vec<u64>,
}

/// An execution group and its event channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupState {
    /// The group's number.
    pub number: u32,
    /// What it is doing.
    pub state: String,
    /// Its partner thread's id in the regular OS.
    pub partner: u64,
    /// Id of its thread here.
    pub thread: u64,
    /// Its CPU's index.
    pub cpu: u32,
    /// Sequence number of its channel's latest event.
    pub sequence: u64,
    /// The event that its partner is serving.
    pub serving: Option<ServingState>,
    /// Statistics of the channel's events, by kind.
    pub kinds: Vec<EventStatistics>,
    /// The latest events that are over, oldest first.
    pub events: Vec<ChannelEvent>,
}

/// An event that is being served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServingState {
    /// The event.
    pub what: String,
    /// How long it has taken so far, in ns.
    pub ns: u64,
}

/// Statistics of the events of one kind on a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventStatistics {
    /// The kind.
    pub kind: String,
    /// Number of events.
    pub count: u64,
    /// How long they took together, in ns.
    pub ns: u64,
    /// How long the longest took, in ns.
    pub longest_ns: u64,
    /// How many took how long: entry n counts those of at least 2^n cycles, but fewer than
    /// 2^(n+1). Zeros at the end are left out.
    pub classes: Vec<u32>,
}

/// An event that is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelEvent {
    /// Its sequence number.
    pub sequence: u64,
    /// The event.
    pub what: String,
    /// Its result.
    pub result: u64,
    /// Time at which it began, in ns since the kernel's image was entered.
    pub began_ns: u64,
    /// How long it took, in ns.
    pub ns: u64,
}

/// A firmware table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// The table's signature.
    pub signature: String,
    /// The table's physical address.
    pub address: u64,
    /// The table's length in bytes.
    pub length: u32,
    /// True if the table's checksum is right.
    pub intact: bool,
}

impl Snapshot {
    /// Encodes the snapshot in its wire format, postcard.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_allocvec(self)
    }

    /// Decodes a snapshot from its wire format.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        // The version is read on its own first, because the other fields may differ between
        // versions.
        let (version, _) = postcard::take_from_bytes::<u32>(bytes).map_err(|_| DecodeError::Damaged)?;
        if version != VERSION {
            return Err(DecodeError::WrongVersion(version));
        }
        postcard::from_bytes(bytes).map_err(|_| DecodeError::Damaged)
    }
}

/// The reason bytes cannot be read as a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A kernel of another version took the snapshot, with this [`VERSION`].
    WrongVersion(u32),
    /// The bytes end too early or are damaged.
    Damaged,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongVersion(version) => {
                write!(
                    f,
                    "another version of the kernel took the snapshot: its format is {version}, this one reads {VERSION}"
                )
            }
            Self::Damaged => f.write_str("the snapshot is damaged, or not whole"),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;

    /// A state without CPUs as version 3 wrote it, without `times_are_guesses`.
    const RECORDED_VERSION_3: [u8; 24] =
        [3, 9, 1, b'x', 1, b'q', 0, 0x80, 0x94, 0xeb, 0xdc, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn another_version_is_named_and_a_damaged_one_refused() {
        let error = Snapshot::decode(&RECORDED_VERSION_3).expect_err("it is old");
        assert_eq!(error, DecodeError::WrongVersion(3));
        assert!(error.to_string().contains("its format is 3"), "{error}");
        let snapshot = Snapshot {
            version: VERSION,
            cpus: vec![CpuState { index: 1, ..CpuState::default() }],
            notices: vec!["n".into()],
            ..Snapshot::default()
        };
        let whole = snapshot.encode().expect("there is memory");
        assert_eq!(Snapshot::decode(&whole), Ok(snapshot));
        for length in 0..whole.len() {
            assert_eq!(Snapshot::decode(&whole[..length]), Err(DecodeError::Damaged), "{length} bytes");
        }
    }
}
