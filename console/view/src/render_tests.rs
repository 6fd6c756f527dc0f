//! Tests of the commands' text, on a recorded snapshot.

use wire::snapshot::{CpuState, InterruptState, MachineState, MemoryState, NodeState, TableState};

use super::*;

fn recorded() -> Snapshot {
    let thread = |id, name: &str, cpu, activity, certain| ThreadState {
        id,
        name: name.into(),
        cpu,
        activity,
        certain,
        run_ns: 1_500_000,
        stack_bottom: 0x1000,
        stack_size: 16_384,
        stack_used: 512,
        resumes_at: 0,
        waits_for: if id == 3 { 2 } else { 0 },
    };
    Snapshot {
        version: wire::snapshot::VERSION,
        taken_at_ns: 2_000_000_000,
        machine: MachineState {
            architecture: "x86-64".into(),
            loader: "PVH".into(),
            command_line: String::new(),
            cycle_hz: 2_000_000_000,
            timer: "APIC one-shot".into(),
            interrupt_controller: "xAPIC and I/O APIC".into(),
            cpus_listed: 3,
            times_are_guesses: false,
            ready_at_ns: 1_000_000,
            image: (0x20_0000, 0x10_0000),
        },
        cpus: vec![
            CpuState {
                index: 0,
                answered: true,
                running: 2,
                ready: vec![3],
                ready_count: 1,
                ticking: true,
                ..CpuState::default()
            },
            CpuState { index: 1, answered: false, ..CpuState::default() },
        ],
        threads: vec![
            thread(2, "main", 0, Activity::Running, true),
            thread(3, "worker", 0, Activity::Ready, true),
            thread(4, "lost", 1, Activity::Blocked, false),
        ],
        programs: Vec::new(),
        threads_omitted: 7,
        memory: MemoryState {
            nodes: vec![NodeState {
                node: 0,
                total: 64 << 20,
                free: 60 << 20,
                records: 1 << 20,
                largest_free: 32 << 20,
            }],
            cached: 4096,
            stacks: 9,
            cached_stacks: 32_768,
        },
        interrupts: vec![InterruptState { vector: 0xf0, purpose: "timer".into(), counts: vec![12, 0] }],
        groups: Vec::new(),
        tables: vec![TableState { signature: "APIC".into(), address: 0x7fe_0000, length: 120, intact: false }],
        notices: vec!["MADT: a CPU is listed twice, APIC id 0x1".into()],
    }
}

fn text(render: fn(&Snapshot, &mut dyn Write) -> fmt::Result) -> String {
    let mut out = String::new();
    render(&recorded(), &mut out).unwrap();
    out
}

#[test]
fn threads_marks_what_no_cpu_confirmed() {
    let text = text(threads);
    assert!(
        text.contains("       3  worker                            0  ready       1500.0 us   16.0 KiB      512 B"),
        "{text}"
    );
    assert!(text.contains("blocked?"), "{text}");
    assert!(text.contains("and 7 more"), "{text}");
    assert!(text.contains("?: its CPU does not answer"), "{text}");
}

#[test]
fn cpus_names_the_silent_and_the_missing() {
    let text = text(cpus);
    assert!(text.contains("2 main"), "{text}");
    assert!(text.contains("does not answer"), "{text}");
    assert!(text.contains("1 more that the firmware lists do not run"), "{text}");
}

#[test]
fn run_queues_lists_ready_threads_in_order() {
    assert_eq!(text(run_queues), "CPU 0: runs 2 main, tick on; ready 1: 3 worker\nCPU 1: does not answer\n");
}

#[test]
fn memory_counts_the_image_as_used() {
    assert!(text(memory).contains("in use with it: 5120.0 KiB of 65.0 MiB"), "{}", text(memory));
}

#[test]
fn firmware_shows_wrong_checksums_and_notices() {
    let text = text(firmware);
    assert!(text.contains("WRONG") && text.contains("listed twice"), "{text}");
}

#[test]
fn a_snapshot_survives_its_wire_format_and_damage_is_an_error() {
    let snapshot = recorded();
    let bytes = snapshot.encode().unwrap();
    assert_eq!(Snapshot::decode(&bytes).unwrap(), snapshot);
    assert!(Snapshot::decode(&bytes[..bytes.len() / 2]).is_err());
    let mut other_version = bytes;
    other_version[0] = 99;
    assert!(Snapshot::decode(&other_version).is_err());
}
