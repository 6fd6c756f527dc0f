//! Rendering of snapshots as text. The functions are pure, so that tests need no machine.

use core::fmt::{self, Write};

use wire::snapshot::{Activity, Snapshot, ThreadState};

use crate::state::State;

/// A time in nanoseconds, displayed in the unit that suits its length.
pub struct Time(pub u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Short::default();
        match self.0 {
            ns @ 0..=9_999 => write!(text, "{ns} ns"),
            ns @ 10_000..=9_999_999 => write!(text, "{}.{} us", ns / 1_000, ns / 100 % 10),
            ns @ 10_000_000..=9_999_999_999 => write!(text, "{}.{} ms", ns / 1_000_000, ns / 100_000 % 10),
            ns => write!(text, "{}.{:03} s", ns / 1_000_000_000, ns / 1_000_000 % 1_000),
        }?;
        f.pad(text.as_str())
    }
}

/// Renders the running programs.
pub fn programs(snapshot: &Snapshot, out: &mut dyn Write) -> fmt::Result {
    if snapshot.programs.is_empty() {
        return writeln!(out, "no program runs");
    }
    writeln!(out, "program  name                 threads   memory   blocks  image               runs for")?;
    for program in &snapshot.programs {
        writeln!(
            out,
            "{:>7}  {:<20} {:>7} {:>8} {:>8}  {:#018x}  {}{}",
            program.id,
            program.name,
            program.threads,
            Bytes(program.bytes),
            program.blocks,
            program.image,
            Time(snapshot.taken_at_ns.saturating_sub(program.started_at_ns)),
            if program.ending { ", ending" } else { "" }
        )?;
    }
    Ok(())
}

/// A size in bytes, displayed in the unit that suits it.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Short::default();
        match self.0 {
            bytes @ 0..=9_999 => write!(text, "{bytes} B"),
            bytes @ 10_000..=10_239_999 => write!(text, "{}.{} KiB", bytes >> 10, (bytes & 0x3ff) * 10 >> 10),
            bytes => write!(text, "{}.{} MiB", bytes >> 20, (bytes >> 10 & 0x3ff) * 10 >> 10),
        }?;
        f.pad(text.as_str())
    }
}

/// A short text, buffered so that it can be padded.
#[derive(Default)]
struct Short {
    bytes: [u8; 32],
    length: usize,
}

impl Short {
    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("")
    }
}

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

fn name_of(snapshot: &Snapshot, id: u64) -> &str {
    snapshot.threads.iter().find(|thread| thread.id == id).map_or("?", |thread| &thread.name)
}

/// Returns the activity shown for a thread, with a question mark if its CPU did not confirm it.
fn activity(thread: &ThreadState) -> &'static str {
    match (thread.activity, thread.certain) {
        (Activity::Running, true) => "running",
        (Activity::Ready, true) => "ready",
        (Activity::Blocked, true) => "blocked",
        (Activity::Exited, true) => "exited",
        (Activity::Running, false) => "running?",
        (Activity::Ready, false) => "ready?",
        (Activity::Blocked, false) => "blocked?",
        (Activity::Exited, false) => "exited?",
    }
}

/// Renders `cpus`.
pub fn cpus(snapshot: &Snapshot, out: &mut dyn Write) -> fmt::Result {
    writeln!(
        out,
        "{:>3} {:>4} {:>4}  {:<24} {:>5} {:>7} {:>10} {:>8} {:>8} {:>6}  {:>10}",
        "CPU", "id", "node", "running", "ready", "threads", "switches", "preempt", "mail", "calls", "idle"
    )?;
    for cpu in &snapshot.cpus {
        let mut running = alloc::format!("{} {}", cpu.running, name_of(snapshot, cpu.running));
        if !cpu.answered {
            running = "does not answer".into();
        }
        writeln!(
            out,
            "{:>3} {:>4} {:>4}  {:<24} {:>5} {:>7} {:>10} {:>8} {:>8} {:>6}  {:>10}",
            cpu.index,
            cpu.hardware_id,
            cpu.node,
            running,
            cpu.ready_count,
            cpu.threads,
            cpu.switches,
            cpu.preemptions,
            cpu.remote_wakeups,
            cpu.calls,
            Time(cpu.idle_ns)
        )?;
    }
    let missing = u64::from(snapshot.machine.cpus_listed).saturating_sub(snapshot.cpus.len() as u64);
    if missing > 0 {
        writeln!(out, "{missing} more that the firmware lists do not run; `log` says why")?;
    }
    Ok(())
}

/// Renders `threads`.
pub fn threads(snapshot: &Snapshot, out: &mut dyn Write) -> fmt::Result {
    writeln!(
        out,
        "{:>8}  {:<31} {:>3}  {:<8} {:>12} {:>10} {:>10}",
        "thread", "name", "CPU", "state", "ran", "stack", "used"
    )?;
    for thread in &snapshot.threads {
        writeln!(
            out,
            "{:>8}  {:<31} {:>3}  {:<8} {:>12} {:>10} {:>10}{}",
            thread.id,
            thread.name,
            thread.cpu,
            activity(thread),
            Time(thread.run_ns),
            Bytes(thread.stack_size),
            Bytes(thread.stack_used),
            WaitsFor(thread.waits_for)
        )?;
    }
    if snapshot.threads_omitted > 0 {
        writeln!(out, "and {} more", snapshot.threads_omitted)?;
    }
    if snapshot.cpus.iter().any(|cpu| !cpu.answered) {
        writeln!(out, "?: its CPU does not answer, so this may be wrong")?;
    }
    Ok(())
}

/// The owner of the mutex that a thread waits for, 0 for none.
struct WaitsFor(u64);

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            owner => write!(f, "  for a mutex of thread {owner}"),
        }
    }
}

/// Renders `thread N`.
pub fn thread(thread: &ThreadState, state: &dyn State, out: &mut dyn Write) -> fmt::Result {
    let waits_for = WaitsFor(thread.waits_for);
    writeln!(out, "thread {} \"{}\" on CPU {}: {}{waits_for}", thread.id, thread.name, thread.cpu, activity(thread))?;
    writeln!(out, "  ran    {}", Time(thread.run_ns))?;
    let top = thread.stack_bottom + thread.stack_size;
    let (size, used) = (Bytes(thread.stack_size), Bytes(thread.stack_used));
    writeln!(out, "  stack  {:#x}..{top:#x}, {size}, {used} in use", thread.stack_bottom)?;
    if thread.resumes_at != 0 {
        writeln!(out, "  goes on at {}", state.place(thread.resumes_at))?;
    }
    Ok(())
}

/// Renders `runqueues`.
pub fn run_queues(snapshot: &Snapshot, out: &mut dyn Write) -> fmt::Result {
    for cpu in &snapshot.cpus {
        if !cpu.answered {
            writeln!(out, "CPU {}: does not answer", cpu.index)?;
            continue;
        }
        let tick = if cpu.ticking { ", tick on" } else { "" };
        write!(
            out,
            "CPU {}: runs {} {}{tick}; ready {}",
            cpu.index,
            cpu.running,
            name_of(snapshot, cpu.running),
            cpu.ready_count
        )?;
        for (number, id) in cpu.ready.iter().enumerate() {
            let separator = if number == 0 { ": " } else { ", " };
            write!(out, "{separator}{id} {}", name_of(snapshot, *id))?;
        }
        let rest = cpu.ready_count - cpu.ready.len() as u64;
        writeln!(out, "{}", if rest > 0 { ", ..." } else { "" })?;
    }
    Ok(())
}

/// Renders `mem`.
pub fn memory(snapshot: &Snapshot, out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "{:>4} {:>12} {:>12} {:>12} {:>12} {:>12}", "node", "total", "used", "free", "records", "largest")?;
    for node in &snapshot.memory.nodes {
        writeln!(
            out,
            "{:>4} {:>12} {:>12} {:>12} {:>12} {:>12}",
            node.node,
            Bytes(node.total),
            Bytes(node.total - node.free),
            Bytes(node.free),
            Bytes(node.records),
            Bytes(node.largest_free)
        )?;
    }
    let total: u64 = snapshot.memory.nodes.iter().map(|node| node.total).sum();
    let free: u64 = snapshot.memory.nodes.iter().map(|node| node.free).sum();
    let image = snapshot.machine.image.1;
    let cached = snapshot.memory.cached;
    let allocated = (total - free).saturating_sub(cached);
    writeln!(out, "of the used, {} are free small objects; {allocated} bytes are allocated", Bytes(cached))?;
    writeln!(
        out,
        "stacks: {} in use, {} kept for reuse",
        snapshot.memory.stacks,
        Bytes(snapshot.memory.cached_stacks)
    )?;
    writeln!(
        out,
        "image: {}; in use with it: {} of {}",
        Bytes(image),
        Bytes(total - free + image),
        Bytes(total + image)
    )
}

/// Renders `irqs`.
pub fn interrupts(snapshot: &Snapshot, out: &mut dyn Write) -> fmt::Result {
    write!(out, "{:>6}  {:<18}", "vector", "for")?;
    for cpu in &snapshot.cpus {
        write!(out, " {:>9}", alloc::format!("CPU {}", cpu.index))?;
    }
    writeln!(out)?;
    for interrupt in &snapshot.interrupts {
        write!(out, "{:>#6x}  {:<18}", interrupt.vector, interrupt.purpose)?;
        for count in &interrupt.counts {
            write!(out, " {count:>9}")?;
        }
        writeln!(out)?;
    }
    writeln!(out, "controllers: {}", snapshot.machine.interrupt_controller)
}

/// Renders `timers`.
pub fn timers(snapshot: &Snapshot, out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "clock {} MHz, timer {}", snapshot.machine.cycle_hz / 1_000_000, snapshot.machine.timer)?;
    writeln!(out, "{:>3} {:>8} {:>10}  next", "CPU", "set", "fired")?;
    for cpu in &snapshot.cpus {
        write!(out, "{:>3} {:>8} {:>10}  ", cpu.index, cpu.timers, cpu.timers_fired)?;
        match cpu.next_deadline_ns {
            Some(deadline) => writeln!(out, "in {}", Time(deadline.saturating_sub(snapshot.taken_at_ns)))?,
            None => writeln!(out, "-")?,
        }
    }
    Ok(())
}

/// Renders `acpi`.
pub fn firmware(snapshot: &Snapshot, out: &mut dyn Write) -> fmt::Result {
    if snapshot.tables.is_empty() {
        return writeln!(out, "no ACPI tables were found");
    }
    writeln!(out, "{:<5} {:>18} {:>8}  checksum", "table", "address", "bytes")?;
    for table in &snapshot.tables {
        let checksum = if table.intact { "right" } else { "WRONG" };
        writeln!(out, "{:<5} {:>#18x} {:>8}  {checksum}", table.signature, table.address, table.length)?;
    }
    for cpu in &snapshot.cpus {
        writeln!(out, "CPU {}: APIC id {}, node {}", cpu.index, cpu.hardware_id, cpu.node)?;
    }
    for notice in &snapshot.notices {
        writeln!(out, "noticed: {notice}")?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
