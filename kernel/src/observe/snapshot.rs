//! The kernel's state, as close to one moment as several CPUs allow. Every command, test and tool
//! reads it.
//!
//! Each CPU describes itself and its threads with interrupts off, so the parts of one CPU's
//! description are consistent with each other. A CPU that does not answer is described from outside
//! and marked as such. On a stopped machine all CPUs are described from outside, as they stopped.

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use arrayvec::ArrayString;
use wire::snapshot::{
    Activity, CpuState, InterruptState, MachineState, MemoryState, NodeState, ProgramState, Snapshot, TableState,
    ThreadState, VERSION,
};

use crate::arch::*;

use crate::boot;
use crate::call;
use crate::cpu::{self, Cpu};
use crate::debug;
use crate::hybrid;
use crate::interrupts::{self, Purpose};
use crate::lock::SpinLock;
use crate::memory;
use crate::program::{self, Program};
use crate::sandbox;
use crate::thread::{self, NAME_LIMIT, Thread};
use crate::time;

/// Default maximum of threads described per CPU.
pub const THREAD_LIMIT: usize = 512;
/// Time a CPU has to describe itself.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// Maximum number of ready threads listed per CPU.
const READY_LIMIT: usize = 64;

/// A thread as its CPU describes it in the interrupt handler, where nothing can be allocated.
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
    address: usize,
    /// Address of the thread that owns the mutex this thread waits for.
    waits_for: Option<usize>,
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

/// Takes a snapshot. For threads only; waits at most half a second per CPU.
pub fn take() -> Snapshot {
    take_with(THREAD_LIMIT)
}

/// Takes a snapshot without threads. It works even where the list of threads is broken.
pub fn take_without_threads() -> Snapshot {
    take_with(0)
}

/// Takes a snapshot like [`take`], with at most `thread_limit` threads described per CPU.
pub fn take_with(thread_limit: usize) -> Snapshot {
    let taken_at_ns = time::now_ns();
    let mut parts: Vec<Part> = cpu::all_known().map(|cpu| describe(cpu, thread_limit)).collect();
    let id_at = |address: usize| {
        let mut all = parts.iter().flat_map(|part| &part.threads);
        all.find(|raw| raw.address == address).map_or(0, |raw| raw.id)
    };
    let described = |part: &Part| {
        let certain = part.cpu.answered;
        part.threads.iter().map(|raw| raw.describe(certain, raw.waits_for.map_or(0, id_at))).collect::<Vec<_>>()
    };
    let threads = parts.iter().flat_map(described).collect();
    let omitted = parts.iter().map(|part| part.omitted).sum();
    let cpus = parts.iter_mut().map(|part| core::mem::take(&mut part.cpu)).collect();
    let boot = boot::information();
    Snapshot {
        version: VERSION,
        taken_at_ns,
        machine: MachineState {
            architecture: ARCHITECTURE.to_string(),
            loader: boot.loader.to_string(),
            command_line: boot.command_line.to_string(),
            cycle_hz: Clock::frequency_hz(),
            timer: Clock::name().to_string(),
            interrupt_controller: Platform::interrupt_controller().to_string(),
            cpus_listed: boot.cpus.len() as u32,
            times_are_guesses: boot::information().times_are_guesses,
            ready_at_ns: boot::ready_at_ns(),
            image: (boot.image.start, boot.image.len()),
        },
        cpus,
        threads,
        programs: program::all().iter().map(|program| describe_program(program)).collect(),
        threads_omitted: omitted,
        memory: describe_memory(),
        interrupts: describe_interrupts(),
        groups: hybrid::describe(),
        tables: boot.tables.iter().map(describe_table).collect(),
        notices: boot.notices.iter().map(|notice| alloc::format!("{} {:#x}", notice.text, notice.value)).collect(),
    }
}

/// Lets a CPU describe itself, or describes it from outside.
fn describe(cpu: &'static Cpu, thread_limit: usize) -> Part {
    let expected = cpu.registry.lock().len().min(thread_limit);
    // Room for threads that are spawned in the meantime.
    let room = (expected + expected / 4 + 16).min(thread_limit);
    let mut part = Part { cpu: CpuState::default(), threads: Vec::new(), omitted: 0 };
    let _ = part.threads.try_reserve_exact(room);
    let _ = part.cpu.ready.try_reserve_exact(READY_LIMIT);
    if sandbox::is_active() {
        fill(&mut part, cpu, View::Stopped);
        return part;
    }
    if cpu.has_partner() {
        fill(&mut part, cpu, View::Outside);
        return part;
    }
    let shared = Arc::new(SpinLock::new(part));
    let theirs = shared.clone();
    let answer = call::on(cpu.index, move || fill(&mut theirs.lock(), cpu::this(), View::Own), ANSWER_LIMIT);
    let mut part = shared.lock();
    if answer.is_err() {
        fill(&mut part, cpu, View::Outside);
    }
    let empty = Part { cpu: CpuState::default(), threads: Vec::new(), omitted: 0 };
    core::mem::replace(&mut part, empty)
}

/// The describer of a CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    /// The CPU itself.
    Own,
    /// Another CPU, while the described one may be running.
    Outside,
    /// The host of a stopped machine.
    Stopped,
}

/// Describes a CPU and its threads, within the capacity already allocated.
fn fill(part: &mut Part, cpu: &Cpu, view: View) {
    part.threads.clear();
    part.cpu.ready.clear();
    // A CPU that does not answer may have stopped while holding one of these locks.
    let locks = if view == View::Own {
        Some((cpu.registry.lock(), cpu.timers.lock()))
    } else {
        cpu.registry.try_lock().zip(cpu.timers.try_lock())
    };
    let Some((registry, timers)) = locks else {
        part.cpu = CpuState { index: cpu.index as u32, hardware_id: cpu.hardware_id, ..CpuState::default() };
        return;
    };
    part.threads.extend(registry.iter().take(part.threads.capacity()).map(|thread| RawThread::of(thread, cpu, view)));
    part.omitted = (registry.len() - part.threads.len()) as u64;
    let (timers_set, first, timers_fired) = timers.summary();
    let ready = &mut part.cpu.ready;
    let mut ready_count = 0;
    let mut running = 0;
    if view != View::Outside {
        // SAFETY: the queue belongs to this CPU, and interrupts are off; or its CPU is stopped and
        // this is the host.
        let queue = unsafe { cpu.run_queue.get() };
        ready.extend(queue.iter().take(READY_LIMIT.min(ready.capacity())).map(thread::Thread::id));
        ready_count = queue.len() as u64;
        running = match view {
            View::Stopped => debug::stopped_thread(cpu.index).map_or(0, thread::Thread::id),
            _ => thread::running().id(),
        };
    } else if let Some(thread) = part.threads.iter().find(|thread| thread.state == thread::State::Running) {
        running = thread.id;
    }
    // SAFETY: the pointer is null or the CPU's idle thread, which was stored before the CPU was
    // published and lives forever.
    let idle_id = unsafe { cpu.idle.load(Ordering::Relaxed).as_ref() }.map_or(0, thread::Thread::id);
    part.cpu = CpuState {
        index: cpu.index as u32,
        hardware_id: cpu.hardware_id,
        node: cpu.node as u32,
        answered: view == View::Own || debug::stopped_registers(cpu.index).is_some(),
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
    /// Copies what describes a thread of this CPU.
    fn of(thread: &Thread, cpu: &Cpu, view: View) -> Self {
        let state = thread.state();
        let suspended = match state {
            // SAFETY: nothing writes a suspended thread's context while its CPU runs this function.
            // A value read from outside may be torn, and is marked uncertain.
            thread::State::Ready | thread::State::Blocked => Contexts::suspended_at(unsafe { &*thread.context.get() }),
            thread::State::Running if view == View::Stopped => {
                debug::stopped_registers(cpu.index).copied().unwrap_or_default()
            }
            _ => Default::default(),
        };
        Self {
            id: thread.id(),
            name: ArrayString::from(thread.name()).unwrap_or_default(),
            cpu: cpu.index as u32,
            state,
            run_cycles: thread.run_cycles.load(Ordering::Relaxed),
            stack_bottom: thread.stack().bottom(),
            stack_size: thread.stack().size(),
            stack_pointer: suspended.stack_pointer,
            resumes_at: if state == thread::State::Running { 0 } else { suspended.instruction_pointer },
            address: core::ptr::from_ref(thread) as usize,
            waits_for: thread.waits_for_thread().filter(|_| state == thread::State::Blocked),
        }
    }

    fn describe(&self, certain: bool, waits_for: u64) -> ThreadState {
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
            waits_for,
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
        let counts: Vec<u64> = cpu::all_known().map(|cpu| cpu.interrupt_counts[usize::from(vector)].read()).collect();
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
