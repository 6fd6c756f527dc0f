//! The kernel's state at one moment, as far as several CPUs have one: what every command, test and tool reads.
//!
//! Each CPU describes itself and its threads, with interrupts off, so what is said of one CPU is true together. A CPU
//! that does not answer is described from outside and marked as such.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use arrayvec::ArrayString;
use serde::{Deserialize, Serialize};

use crate::arch::{Architecture, Machine};
use crate::call;
use crate::cpu::{self, Cpu};
use crate::interrupts::{self, Purpose};
use crate::lock::SpinLock;
use crate::memory;
use crate::panic::walk_stack;
use crate::program::{self, Program};
use crate::start::boot_information;
use crate::thread::{self, NAME_LIMIT};
use crate::time;

/// Version of the format: changes with every change of these types.
pub const VERSION: u32 = 2;
/// Most threads described per CPU unless asked for more.
pub const THREAD_LIMIT: usize = 512;
/// How long a CPU may take to describe itself.
const ANSWER_LIMIT: Duration = Duration::from_millis(250);
/// Most ready threads listed per CPU.
const READY_LIMIT: usize = 64;

/// The state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    /// Architecture.
    pub architecture: String,
    /// Who loaded the image.
    pub loader: String,
    /// The command line.
    pub command_line: String,
    /// Rate of the time counter in Hz.
    pub cycle_hz: u64,
    /// What the timers are made of.
    pub timer: String,
    /// What the interrupt controllers are.
    pub interrupt_controller: String,
    /// CPUs the firmware lists.
    pub cpus_listed: u32,
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
}

/// Memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryState {
    /// By node.
    pub nodes: Vec<NodeState>,
    /// Bytes free in the CPUs' object caches.
    pub cached: u64,
    /// Stacks in use.
    pub stacks: u64,
    /// Bytes of freed stacks kept for reuse.
    pub cached_stacks: u64,
}

/// Memory of a node, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a CPU writes about a thread in its interrupt handler: no allocation.
#[derive(Clone, Copy)]
struct RawThread {
    id: u64,
    name: ArrayString<NAME_LIMIT>,
    cpu: u32,
    state: thread::State,
    run_cycles: u64,
    stack_bottom: usize,
    stack_size: usize,
    stack_pointer: usize,
    resumes_at: usize,
}

struct Part {
    cpu: CpuState,
    threads: Vec<RawThread>,
    omitted: u64,
}

fn describe_program(program: &Program) -> ProgramState {
    let usage = program.usage();
    ProgramState {
        id: program.id(),
        name: program.name().to_string(),
        threads: program.threads() as u64,
        blocks: usage.blocks as u64,
        bytes: usage.bytes as u64,
        image: program.image_start() as u64,
        started_at_ns: program.started_at_ns(),
        ending: program.is_ending(),
    }
}

impl Snapshot {
    /// Takes one. For threads; waits at most a quarter second per CPU.
    pub fn take() -> Self {
        Self::take_with(THREAD_LIMIT)
    }

    /// As [`Snapshot::take`], with at most so many threads described per CPU.
    pub fn take_with(thread_limit: usize) -> Self {
        let taken_at_ns = time::now_ns();
        let (mut cpus, mut threads, mut omitted) = (Vec::new(), Vec::new(), 0);
        for cpu in cpu::all() {
            let part = describe(cpu, thread_limit);
            let certain = part.cpu.answered;
            threads.extend(part.threads.iter().map(|raw| raw.describe(certain)));
            omitted += part.omitted;
            cpus.push(part.cpu);
        }
        let boot = boot_information();
        Self {
            version: VERSION,
            taken_at_ns,
            machine: MachineState {
                architecture: Machine::NAME.to_string(),
                loader: boot.loader.to_string(),
                command_line: boot.command_line.to_string(),
                cycle_hz: Machine::cycle_frequency_hz(),
                timer: Machine::timer_name().to_string(),
                interrupt_controller: Machine::interrupt_controller_name().to_string(),
                cpus_listed: boot.cpus.len() as u32,
                image: (boot.image.start, boot.image.len()),
            },
            cpus,
            threads,
            programs: program::all().iter().map(|program| describe_program(program)).collect(),
            threads_omitted: omitted,
            memory: describe_memory(),
            interrupts: describe_interrupts(),
            tables: boot.tables.iter().map(describe_table).collect(),
            notices: boot.notices.iter().map(|notice| alloc::format!("{} {:#x}", notice.text, notice.value)).collect(),
        }
    }

    /// The snapshot in its wire format, postcard.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_allocvec(self)
    }

    /// Reads the wire format.
    ///
    /// # Errors
    /// If the bytes are damaged or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        let (version, _) = postcard::take_from_bytes::<u32>(bytes)?;
        if version != VERSION {
            return Err(postcard::Error::WontImplement);
        }
        postcard::from_bytes(bytes)
    }
}

/// Lets a CPU describe itself, or does it from outside.
fn describe(cpu: &'static Cpu, thread_limit: usize) -> Part {
    let expected = cpu.registry.lock().len().min(thread_limit);
    // Room for threads that come while we ask.
    let room = (expected + expected / 4 + 16).min(thread_limit);
    let mut part = Part { cpu: CpuState::default(), threads: Vec::new(), omitted: 0 };
    let _ = part.threads.try_reserve_exact(room);
    let _ = part.cpu.ready.try_reserve_exact(READY_LIMIT);
    let shared = Arc::new(SpinLock::new(part));
    let theirs = shared.clone();
    let answer = call::on(cpu.index, move || fill(&mut theirs.lock(), cpu::this(), true), ANSWER_LIMIT);
    let mut part = shared.lock();
    if answer.is_err() {
        fill(&mut part, cpu, false);
    }
    let empty = Part { cpu: CpuState::default(), threads: Vec::new(), omitted: 0 };
    core::mem::replace(&mut part, empty)
}

/// Describes a CPU and its threads within the room there is.
fn fill(part: &mut Part, cpu: &Cpu, is_own: bool) {
    part.threads.clear();
    part.cpu.ready.clear();
    // A CPU that does not answer may have stopped while it held a lock.
    let locks = if is_own {
        Some((cpu.registry.lock(), cpu.timers.lock()))
    } else {
        cpu.registry.try_lock().zip(cpu.timers.try_lock())
    };
    let Some((registry, timers)) = locks else {
        part.cpu = CpuState { index: cpu.index as u32, hardware_id: cpu.hardware_id, ..CpuState::default() };
        return;
    };
    for thread in registry.iter() {
        if part.threads.len() == part.threads.capacity() {
            break;
        }
        let state = thread.state();
        let suspended = match state {
            // SAFETY: a suspended thread's context is not written while its CPU is here; from outside, whatever is
            // read is marked uncertain.
            thread::State::Ready | thread::State::Blocked => Machine::suspended_at(unsafe { &*thread.context.get() }),
            _ => Default::default(),
        };
        let mut name = ArrayString::new();
        name.push_str(thread.name());
        part.threads.push(RawThread {
            id: thread.id(),
            name,
            cpu: cpu.index as u32,
            state,
            run_cycles: thread.run_cycles.load(Ordering::Relaxed),
            stack_bottom: thread.stack().bottom(),
            stack_size: thread.stack().size(),
            stack_pointer: suspended.stack_pointer,
            resumes_at: suspended.instruction_pointer,
        });
    }
    part.omitted = (registry.len() - part.threads.len()) as u64;
    let (timers_set, first, timers_fired) = timers.summary();
    let ready = &mut part.cpu.ready;
    let mut ready_count = 0;
    let mut running = 0;
    if is_own {
        // SAFETY: this CPU's queue, interrupts off.
        let queue = unsafe { cpu.run_queue.get() };
        ready.extend(queue.iter().take(READY_LIMIT.min(ready.capacity())).map(thread::Thread::id));
        ready_count = queue.len() as u64;
        running = thread::current().id();
    } else if let Some(thread) = part.threads.iter().find(|thread| thread.state == thread::State::Running) {
        running = thread.id;
    }
    // SAFETY: set before the CPU became known.
    let idle_id = unsafe { cpu.idle.load(Ordering::Relaxed).as_ref() }.map_or(0, thread::Thread::id);
    part.cpu = CpuState {
        index: cpu.index as u32,
        hardware_id: cpu.hardware_id,
        node: cpu.node as u32,
        answered: is_own,
        running,
        idle: running == idle_id,
        ready: core::mem::take(ready),
        ready_count,
        threads: registry.len() as u64,
        switches: cpu.counters.switches.read(),
        preemptions: cpu.counters.preemptions.read(),
        remote_wakeups: cpu.counters.remote_wakeups.read(),
        calls: cpu.counters.calls.read(),
        idle_ns: time::cycles_to_ns(cpu.counters.idle_cycles.read()),
        ticking: cpu.tick_armed.load(Ordering::Relaxed),
        timers: timers_set as u64,
        next_deadline_ns: first.map(time::cycles_since_epoch_to_ns),
        timers_fired,
    };
}

impl RawThread {
    fn describe(&self, certain: bool) -> ThreadState {
        let top = self.stack_bottom + self.stack_size;
        let on_stack = (self.stack_bottom..=top).contains(&self.stack_pointer);
        ThreadState {
            id: self.id,
            name: self.name.to_string(),
            cpu: self.cpu,
            activity: match self.state {
                thread::State::Running => Activity::Running,
                thread::State::Ready => Activity::Ready,
                thread::State::Blocked => Activity::Blocked,
                thread::State::Exited => Activity::Exited,
            },
            certain,
            run_ns: time::cycles_to_ns(self.run_cycles),
            stack_bottom: self.stack_bottom as u64,
            stack_size: self.stack_size as u64,
            stack_used: if on_stack { (top - self.stack_pointer) as u64 } else { 0 },
            resumes_at: self.resumes_at as u64,
        }
    }
}

fn describe_memory() -> MemoryState {
    let nodes = memory::nodes().filter_map(|node| {
        let usage = memory::node_usage(node)?;
        Some(NodeState {
            node: node as u32,
            total: usage.total,
            free: usage.free,
            records: usage.records,
            largest_free: usage.largest_free,
        })
    });
    let (stacks, cached_stacks) = memory::stack::usage();
    MemoryState { nodes: nodes.collect(), cached: memory::cached_bytes(), stacks: stacks as u64, cached_stacks }
}

fn describe_interrupts() -> Vec<InterruptState> {
    let mut list = Vec::new();
    for vector in arch_contract::FIRST_VECTOR..=u8::MAX {
        let counts: Vec<u64> = cpu::all().map(|cpu| cpu.interrupt_counts[usize::from(vector)].read()).collect();
        let purpose = interrupts::purpose(vector);
        if purpose == Purpose::Other && counts.iter().all(|&count| count == 0) {
            continue;
        }
        let purpose = match purpose {
            Purpose::Timer => "timer".to_string(),
            Purpose::Reschedule => "mail".to_string(),
            Purpose::Call => "call".to_string(),
            Purpose::Line(line) => {
                let steered =
                    interrupts::lines().iter().find(|entry| entry.number == line).map_or(0, |entry| entry.cpu);
                alloc::format!("line {line} -> CPU {steered}")
            }
            Purpose::Other => "other".to_string(),
        };
        list.push(InterruptState { vector, purpose, counts });
    }
    list
}

fn describe_table(table: &arch_contract::boot::FirmwareTable) -> TableState {
    let signature = table.signature.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '?' });
    TableState { signature: signature.collect(), address: table.address, length: table.length, intact: table.intact }
}

/// Return addresses of a thread's stack, innermost first, and whether that is certain; `None` if there is no such
/// thread. For a running thread, where its CPU was interrupted to look.
pub fn backtrace(id: u64) -> Option<(Vec<usize>, bool)> {
    let snapshot = Snapshot::take_with(usize::MAX >> 16);
    let thread = snapshot.threads.iter().find(|thread| thread.id == id)?;
    let addresses = Arc::new(SpinLock::new(Vec::new()));
    let _ = addresses.lock().try_reserve(64);
    let theirs = addresses.clone();
    let walk = move || {
        let here = cpu::this();
        let registry = here.registry.lock();
        let Some(thread) = registry.iter().find(|thread| thread.id() == id) else { return };
        let registers = match thread.state() {
            thread::State::Running if here.in_interrupt.load(Ordering::Relaxed) => Machine::interrupted(),
            thread::State::Running => Machine::registers_here(),
            // SAFETY: suspended, and its CPU is here.
            _ => Machine::suspended_at(unsafe { &*thread.context.get() }),
        };
        let mut list = theirs.lock();
        walk_stack(registers.instruction_pointer, registers.frame_pointer, |address| {
            if list.len() < list.capacity() {
                list.push(address);
            }
        });
    };
    let answered = call::on(thread.cpu as usize, walk, ANSWER_LIMIT).is_ok();
    let list = core::mem::take(&mut *addresses.lock());
    Some((list, answered))
}
