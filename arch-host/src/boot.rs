//! Turns a process into a machine.

use arch_contract::boot::{BootInformation, CpuDescription, MAX_NODES, MemoryRegion, PhysicalRange};

use crate::{cpu, machine, memory, signals};

/// The machine's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of CPUs, at least 1.
    pub cpus: usize,
    /// Number of NUMA nodes, over which CPUs and memory are spread evenly.
    pub nodes: usize,
    /// Size of memory in bytes, a multiple of 2 MiB.
    pub memory: u64,
    /// Index of a CPU that is listed but never answers its start-up signal.
    pub silent_cpu: Option<usize>,
    /// The kernel's command line.
    pub command_line: String,
}

/// Distance between different nodes, in the unit of ACPI's SLIT.
const REMOTE_DISTANCE: u8 = 20;

/// Makes the calling thread CPU 0 and enters `kernel` on it. The process ends with the machine.
///
/// # Panics
/// If the operating system refuses memory or signals.
pub fn boot(config: Config, kernel: fn(&'static BootInformation) -> !) -> ! {
    let usable = memory::create(config.memory);
    signals::install();
    cpu::become_cpu(0);
    cpu::silence(config.silent_cpu);
    let nodes = config.nodes.max(1);
    let share = usable.len() / nodes as u64 & !(arch_contract::PAGE_SIZE as u64 - 1);
    let regions: Vec<MemoryRegion> = (0..nodes as u64)
        .map(|node| {
            let start = usable.start + node * share;
            MemoryRegion { range: PhysicalRange { start, end: start + share }, node: node as u8 }
        })
        .collect();
    let cpus: Vec<CpuDescription> = (0..config.cpus)
        .map(|index| CpuDescription { hardware_id: index as u32, node: (index * nodes / config.cpus.max(1)) as u8 })
        .collect();
    let mut distances = [[REMOTE_DISTANCE; MAX_NODES]; MAX_NODES];
    for (node, row) in distances.iter_mut().enumerate() {
        row[node] = 10;
    }
    let information = BootInformation {
        loader: "a Linux process",
        command_line: Box::leak(config.command_line.into_boxed_str()),
        memory: regions.leak(),
        image: PhysicalRange::default(),
        image_data: PhysicalRange::default(),
        cpus: cpus.leak(),
        nodes,
        distances: Box::leak(Box::new(distances)),
        tables: &[],
        notices: &[],
        entry_cycles: machine::cycles(),
        times_are_guesses: false,
        symbols: &[],
        programs: &[],
    };
    kernel(Box::leak(Box::new(information)))
}
