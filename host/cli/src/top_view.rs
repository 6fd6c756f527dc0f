//! The contents of `aero top`: rates, threads and latencies, as widgets and as text.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Table};
use std::collections::BTreeMap;
use std::fmt::Write;
use wire::snapshot::{Activity, CpuState, GroupState, Snapshot, ThreadState};
use wire::telemetry::{BUCKETS, Changes, Histogram};

/// The state to show, with the previous one for rates.
pub struct View {
    /// The current state.
    pub now: Snapshot,
    /// The previous state.
    pub before: Snapshot,
    /// Sums of all latencies since the view began.
    pub latencies: Vec<Histogram>,
    /// True while the kernel records events.
    pub tracing: bool,
}

impl View {
    /// Applies changes and keeps the current state as the previous one.
    pub fn take(&mut self, changes: Changes) {
        self.before = self.now.clone();
        self.tracing = changes.tracing;
        for seen in &changes.latencies {
            match self.latencies.iter_mut().find(|known| known.name == seen.name) {
                Some(known) => known.buckets.iter_mut().zip(&seen.buckets).for_each(|(sum, count)| *sum += count),
                None => self.latencies.push(seen.clone()),
            }
        }
        changes.apply(&mut self.now);
    }

    /// Returns the time between the two states, in seconds.
    pub fn seconds(&self) -> f64 {
        self.now.taken_at_ns.saturating_sub(self.before.taken_at_ns).max(1) as f64 / 1e9
    }
}

/// Returns the upper end of a histogram's bucket, in nanoseconds.
pub fn bucket_end(bucket: usize) -> u64 {
    if bucket + 1 == BUCKETS { u64::MAX } else { (1 << bucket) - 1 }
}

/// Column heads of the table of CPUs.
const CPU_HEADS: [&str; 8] = ["CPU", "busy", "running", "ready", "switches/s", "wake-ups/s", "IPIs/s", "interrupts/s"];
/// Column heads of the table of threads.
const THREAD_HEADS: [&str; 6] = ["thread", "name", "CPU", "state", "CPU time", "stack"];
/// Column heads of the table of execution groups, and the columns' widths.
const GROUP_HEADS: [&str; 7] = ["group", "state", "partner", "events/s", "mean", "longest", "serving"];
const GROUP_WIDTHS: [u16; 7] = [5, 9, 8, 9, 8, 8, 24];
/// Width of a histogram's widest bar, in characters.
const BAR: u64 = 40;
/// Purposes of the interrupts that CPUs send each other.
const IPI_PURPOSES: [&str; 2] = ["mail", "call"];

/// Returns the number of a CPU's interrupts, and how many of them other CPUs sent.
fn interrupts(state: &Snapshot, cpu: usize) -> (u64, u64) {
    let counts = state.interrupts.iter().map(|one| {
        let count = one.counts.get(cpu).copied().unwrap_or(0);
        (count, if IPI_PURPOSES.contains(&one.purpose.as_str()) { count } else { 0 })
    });
    counts.fold((0, 0), |(all, ipis), (count, ipi)| (all + count, ipis + ipi))
}

/// Returns the fraction of time that a CPU was not idle.
fn busy(view: &View, cpu: &CpuState) -> f64 {
    let before = view.before.cpus.iter().find(|old| old.index == cpu.index).map_or(0, |old| old.idle_ns);
    1.0 - (cpu.idle_ns.saturating_sub(before) as f64 / 1e9 / view.seconds()).min(1.0)
}

fn cpu_row(view: &View, cpu: &CpuState) -> [String; 8] {
    let seconds = view.seconds();
    let index = cpu.index as usize;
    let none = CpuState::default();
    let before = view.before.cpus.iter().find(|old| old.index == cpu.index).unwrap_or(&none);
    let rate = |now: u64, before: u64| format!("{:.0}", now.saturating_sub(before) as f64 / seconds);
    let ((all, ipis), (all_before, ipis_before)) = (interrupts(&view.now, index), interrupts(&view.before, index));
    let name =
        view.now.threads.iter().find(|thread| thread.id == cpu.running).map_or("", |thread| thread.name.as_str());
    [
        cpu.index.to_string(),
        format!("{:.0} %", 100.0 * busy(view, cpu)),
        format!("{} {name}", cpu.running),
        cpu.ready_count.to_string(),
        rate(cpu.switches, before.switches),
        rate(cpu.remote_wakeups, before.remote_wakeups),
        rate(ipis, ipis_before),
        rate(all, all_before),
    ]
}

/// Returns all threads with the fraction of time that each ran, the busiest first.
fn busiest(view: &View) -> Vec<(&ThreadState, f64)> {
    let before: BTreeMap<u64, u64> = view.before.threads.iter().map(|thread| (thread.id, thread.run_ns)).collect();
    let part = |thread: &ThreadState| {
        let ran = thread.run_ns.saturating_sub(before.get(&thread.id).copied().unwrap_or(thread.run_ns));
        ran as f64 / 1e9 / view.seconds()
    };
    let mut threads: Vec<(&ThreadState, f64)> = view.now.threads.iter().map(|thread| (thread, part(thread))).collect();
    // A thread's run time is accounted when it gives up its CPU. A running thread is therefore
    // given the CPU's busy time that the other threads leave.
    for cpu in view.now.cpus.iter().filter(|cpu| !cpu.idle) {
        let on_cpu = |thread: &ThreadState| thread.cpu == cpu.index && thread.id != cpu.running;
        let others: f64 = threads.iter().filter(|(thread, _)| on_cpu(thread)).map(|(_, part)| part).sum();
        if let Some((_, part)) = threads.iter_mut().find(|(thread, _)| thread.id == cpu.running) {
            *part = part.max(busy(view, cpu) - others);
        }
    }
    threads.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.id.cmp(&b.0.id)));
    threads
}

fn thread_row((thread, part): &(&ThreadState, f64)) -> [String; 6] {
    let state = match thread.activity {
        Activity::Running => "running",
        Activity::Ready => "ready",
        Activity::Blocked => "blocked",
        Activity::Exited => "exited",
    };
    let waits = if thread.waits_for == 0 { String::new() } else { format!(" for {}", thread.waits_for) };
    [
        thread.id.to_string(),
        thread.name.clone(),
        thread.cpu.to_string(),
        format!("{state}{waits}"),
        format!("{:.1} %", 100.0 * part),
        format!("{} of {} KiB", thread.stack_used >> 10, thread.stack_size >> 10),
    ]
}

/// Describes a group: mean and longest are of the events since it began.
fn group_row(view: &View, group: &GroupState) -> [String; 7] {
    let before = view.before.groups.iter().find(|old| old.number == group.number).map_or(0, |old| old.sequence);
    let rate = group.sequence.saturating_sub(before) as f64 / view.seconds();
    let (count, sum) = group.kinds.iter().fold((0, 0), |(count, sum), kind| (count + kind.count, sum + kind.ns));
    let longest = group.kinds.iter().map(|kind| kind.longest_ns).max().unwrap_or(0);
    [
        group.number.to_string(),
        group.state.clone(),
        group.partner.to_string(),
        format!("{rate:.0}"),
        nanoseconds(sum / count.max(1)),
        nanoseconds(longest),
        group.serving.as_ref().map_or_else(|| "-".into(), |serving| serving.what.clone()),
    ]
}

fn summary(view: &View) -> String {
    let state = &view.now;
    let (total, free) =
        state.memory.nodes.iter().fold((0, 0), |(total, free), node| (total + node.total, free + node.free));
    format!(
        "{}, up {:.1} s, {} CPUs, {} threads, {} programs, {} of {} MiB in use",
        state.machine.architecture,
        state.taken_at_ns as f64 / 1e9,
        state.cpus.len(),
        state.threads.len() as u64 + state.threads_omitted,
        state.programs.len(),
        (total - free) >> 20,
        total >> 20
    )
}

fn nanoseconds(value: u64) -> String {
    match value {
        u64::MAX => "more".into(),
        0..1_000 => format!("{value} ns"),
        1_000..1_000_000 => format!("{:.0} us", value as f64 / 1e3),
        _ => format!("{:.0} ms", value as f64 / 1e6),
    }
}

fn histogram(latencies: &Histogram) -> Vec<String> {
    let total: u64 = latencies.buckets.iter().sum();
    let most = latencies.buckets.iter().copied().max().unwrap_or(0).max(1);
    let mut lines = vec![format!("{}: {total}", latencies.name)];
    let used = latencies.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
    lines.extend(used.map(|(bucket, &count)| {
        let bar = "#".repeat((count * BAR).div_ceil(most) as usize);
        format!("  to {:>7}  {count:>8}  {bar}", nanoseconds(bucket_end(bucket)))
    }));
    lines
}

fn latency_lines(view: &View) -> Vec<String> {
    if !view.tracing {
        return vec![
            "latencies are shown while events are recorded: press `t`, or type `trace on` at the prompt".into(),
        ];
    }
    view.latencies.iter().flat_map(histogram).collect()
}

/// Returns the whole view as text.
pub fn text(view: &View) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", summary(view));
    let _ = writeln!(
        out,
        "\n{:>4} {:>6}  {:<28} {:>5} {:>11} {:>11} {:>8} {:>13}",
        CPU_HEADS[0], CPU_HEADS[1], CPU_HEADS[2], CPU_HEADS[3], CPU_HEADS[4], CPU_HEADS[5], CPU_HEADS[6], CPU_HEADS[7]
    );
    for cpu in &view.now.cpus {
        let [index, busy, running, ready, switches, wakeups, ipis, interrupts] = cpu_row(view, cpu);
        let _ = writeln!(
            out,
            "{index:>4} {busy:>6}  {running:<28} {ready:>5} {switches:>11} {wakeups:>11} {ipis:>8} {interrupts:>13}"
        );
    }
    if !view.now.groups.is_empty() {
        let mut row = |cells: [String; 7]| {
            for (cell, width) in cells.iter().zip(GROUP_WIDTHS) {
                let _ = write!(out, " {cell:>width$}", width = usize::from(width));
            }
            let _ = writeln!(out);
        };
        row([const { String::new() }; 7]);
        row(GROUP_HEADS.map(Into::into));
        view.now.groups.iter().for_each(|group| row(group_row(view, group)));
    }
    let [id, name, cpu, state, time, stack] = THREAD_HEADS;
    let _ = writeln!(out, "\n{id:>8}  {name:<31} {cpu:>3}  {state:<14} {time:>8}  {stack}");
    for thread in busiest(view) {
        let [id, name, cpu, state, time, stack] = thread_row(&thread);
        let _ = writeln!(out, "{id:>8}  {name:<31} {cpu:>3}  {state:<14} {time:>8}  {stack}");
    }
    let _ = writeln!(out, "\n{}", latency_lines(view).join("\n"));
    out
}

/// Draws the whole view.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let latencies = latency_lines(view);
    let cpus = view.now.cpus.len() as u16 + 3;
    let groups = if view.now.groups.is_empty() { 0 } else { view.now.groups.len() as u16 + 3 };
    let [top, middle, channels, threads, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(cpus.min(frame.area().height / 3)),
        Constraint::Length(groups.min(frame.area().height / 4)),
        Constraint::Min(4),
        Constraint::Length((latencies.len() as u16 + 2).min(frame.area().height / 3)),
    ])
    .areas(frame.area());
    let head = Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(summary(view)).style(Style::new().add_modifier(Modifier::BOLD)), top);
    let widths = [4, 6, 28, 6, 11, 11, 8, 13].map(Constraint::Length);
    let rows = view.now.cpus.iter().map(|cpu| Row::new(cpu_row(view, cpu)));
    let table = Table::new(rows, widths).header(Row::new(CPU_HEADS).style(head));
    frame.render_widget(table.block(Block::bordered().title("CPUs")), middle);
    if groups > 0 {
        let rows = view.now.groups.iter().map(|group| Row::new(group_row(view, group)));
        let table = Table::new(rows, GROUP_WIDTHS.map(Constraint::Length)).header(Row::new(GROUP_HEADS).style(head));
        frame.render_widget(table.block(Block::bordered().title("execution groups")), channels);
    }
    let widths = [8, 32, 4, 14, 9, 16].map(Constraint::Length);
    let busiest = busiest(view);
    let table = Table::new(busiest.iter().map(|thread| Row::new(thread_row(thread))), widths);
    let table = table.header(Row::new(THREAD_HEADS).style(head));
    frame.render_widget(table.block(Block::bordered().title("threads, busiest first")), threads);
    let lines: Vec<Line<'_>> = latencies.into_iter().map(Line::from).collect();
    let block = Block::bordered().title("latencies").title_bottom("q quits, t starts and stops recording events");
    frame.render_widget(Paragraph::new(lines).block(block), bottom);
}
