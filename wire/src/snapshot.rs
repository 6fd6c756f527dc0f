//! The kernel's state at one moment: what every command, test and tool reads. The kernel's `snapshot` module takes it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

/// Version of the format: changes with every change of these types.
pub const VERSION: u32 = 4;

/// The state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`VERSION`] of the kernel that took it.
    pub version: u32,
    /// Time it was begun, in ns since the image was entered.
    pub taken_at_ns: u64,
    /// The machine.
    pub machine: MachineState,
    /// CPUs.
    pub cpus: Vec<CpuState>,
    /// Threads, by CPU, oldest first.
    pub threads: Vec<ThreadState>,
    /// Programs that run.
    pub programs: Vec<ProgramState>,
    /// Threads there were no lines for.
    pub threads_omitted: u64,
    /// Memory.
    pub memory: MemoryState,
    /// Interrupt vectors that were used or have a handler.
    pub interrupts: Vec<InterruptState>,
    /// Firmware tables.
    pub tables: Vec<TableState>,
    /// What was not as it should be at start-up.
    pub notices: Vec<String>,
}

/// What does not change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    /// Architecture.
    pub architecture: String,
    /// Who loaded the image.
    pub loader: String,
    /// The command line.
    pub command_line: String,
    /// Rate of the time counter in Hz.
    pub cycle_hz: u64,
    /// That rate is a guess, and so are all times.
    pub times_are_guesses: bool,
    /// What the timers are made of.
    pub timer: String,
    /// What the interrupt controllers are.
    pub interrupt_controller: String,
    /// CPUs the firmware lists.
    pub cpus_listed: u32,
    /// Time at which the first thread could run, in ns since the image was entered.
    pub ready_at_ns: u64,
    /// Physical address of the image, and its length in bytes.
    pub image: (u64, u64),
}

/// A program that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramState {
    /// Its number, from the same count as threads'.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its threads.
    pub threads: u64,
    /// Blocks of memory it has allocated, and their bytes.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where its image is.
    pub image: u64,
    /// Time it was started, ns since the kernel's image was entered.
    pub started_at_ns: u64,
    /// True once it ends.
    pub ending: bool,
}

/// A CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    /// Index.
    pub index: u32,
    /// APIC id.
    pub hardware_id: u32,
    /// NUMA node.
    pub node: u32,
    /// False if the CPU did not answer: what follows was then read while it may have been changing.
    pub answered: bool,
    /// Number of the running thread.
    pub running: u64,
    /// True if that is the idle thread.
    pub idle: bool,
    /// Numbers of ready threads in their order, the first 64.
    pub ready: Vec<u64>,
    /// Number of all ready threads.
    pub ready_count: u64,
    /// Threads bound to it.
    pub threads: u64,
    /// Context switches.
    pub switches: u64,
    /// Threads made to give way.
    pub preemptions: u64,
    /// Threads made ready by other CPUs.
    pub remote_wakeups: u64,
    /// Functions run for other CPUs.
    pub calls: u64,
    /// Time in the idle thread, ns.
    pub idle_ns: u64,
    /// True while the scheduler's tick is on.
    pub ticking: bool,
    /// Timers set.
    pub timers: u64,
    /// Earliest deadline, ns since the image was entered.
    pub next_deadline_ns: Option<u64>,
    /// Timers that fired.
    pub timers_fired: u64,
}

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// On its CPU.
    Running,
    /// In its CPU's run queue.
    Ready,
    /// Waiting.
    Blocked,
    /// Over.
    Exited,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadState {
    /// Number.
    pub id: u64,
    /// Name.
    pub name: String,
    /// CPU it is bound to.
    pub cpu: u32,
    /// What it is doing.
    pub activity: Activity,
    /// False if its CPU did not answer.
    pub certain: bool,
    /// Time it ran, ns, up to its last switch.
    pub run_ns: u64,
    /// Stack, lowest byte.
    pub stack_bottom: u64,
    /// Stack size in bytes.
    pub stack_size: u64,
    /// Bytes of stack in use when it last gave up its CPU; 0 while it runs.
    pub stack_used: u64,
    /// Address where it goes on; 0 while it runs.
    pub resumes_at: u64,
    /// Number of the thread whose mutex it waits for, 0 for none.
    pub waits_for: u64,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryState {
    /// By node.
    pub nodes: Vec<NodeState>,
    /// Bytes of free small objects, in the CPUs' caches and in slabs.
    pub cached: u64,
    /// Stacks in use.
    pub stacks: u64,
    /// Bytes of freed stacks kept for reuse.
    pub cached_stacks: u64,
}

/// Memory of a node, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Number.
    pub node: u32,
    /// All of it.
    pub total: u64,
    /// Free.
    pub free: u64,
    /// For the allocator's records.
    pub records: u64,
    /// Largest free block.
    pub largest_free: u64,
}

/// An interrupt vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptState {
    /// Vector.
    pub vector: u8,
    /// What for.
    pub purpose: String,
    /// Interrupts taken, by CPU.
    pub counts: Vec<u64>,
}

/// A firmware table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// Signature.
    pub signature: String,
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// True if its checksum is right.
    pub intact: bool,
}

impl Snapshot {
    /// The snapshot in its wire format, postcard.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_allocvec(self)
    }

    /// Reads the wire format.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (version, _) = postcard::take_from_bytes::<u32>(bytes).map_err(|_| DecodeError::Damaged)?;
        if version != VERSION {
            return Err(DecodeError::WrongVersion(version));
        }
        postcard::from_bytes(bytes).map_err(|_| DecodeError::Damaged)
    }
}

/// Why bytes are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Another version of the kernel took it, with this [`VERSION`].
    WrongVersion(u32),
    /// They end too early, or are damaged.
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

    /// As version 3 wrote a state of no CPUs: without `times_are_guesses`.
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
