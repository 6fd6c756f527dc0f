//! The suite natively: this program runs itself once for each machine, because a process is one machine.

use std::process::{Command, ExitCode};

use arch_contract::PowerAction;
use arch_contract::boot::BootInformation;
use kernel::arch::{Architecture, Machine};

#[global_allocator]
static ALLOCATOR: arch::HostAllocator = arch::HostAllocator;

/// CPUs and NUMA nodes of each machine.
const MACHINES: [(usize, usize); 4] = [(1, 1), (2, 1), (4, 2), (7, 3)];
const MEMORY: u64 = 1 << 30;

fn main() -> ExitCode {
    // The harness's own flags (`--quiet`) mean nothing here; a plain word filters.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    match std::env::var("AERO_HOST_MACHINE") {
        Ok(machine) => boot(&machine),
        Err(_) => run_all(&arguments.next().unwrap_or_default()),
    }
}

fn run_all(filter: &str) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for (cpus, nodes) in MACHINES {
        let this = std::env::current_exe().expect("this program has a path");
        let output = Command::new(this)
            .env("AERO_HOST_MACHINE", format!("{cpus},{nodes},{filter}"))
            .output()
            .expect("this program can be run");
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            passed += 1;
            println!("{}", text.lines().filter(|line| line.contains("passed")).collect::<Vec<_>>().join("\n"));
        } else {
            failed += 1;
            println!(
                "{cpus} CPUs, {nodes} nodes: {}\n{text}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    println!("machines: {passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn boot(machine: &str) -> ! {
    let mut numbers = machine.split(',').map_while(|number| number.parse().ok());
    let (cpus, nodes) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(1));
    std::panic::set_hook(Box::new(|info| {
        kernel::println!("{info}");
        Machine::power(PowerAction::PowerOff, 101)
    }));
    let config = arch::Config { cpus, nodes, memory: MEMORY, command_line: "panic=exit log=warn".into() };
    arch::boot(config, enter)
}

fn enter(boot: &'static BootInformation) -> ! {
    kernel::start::kernel_main(boot, |_| {
        let filter = std::env::var("AERO_HOST_MACHINE").unwrap_or_default();
        let filter = filter.splitn(3, ',').nth(2).unwrap_or("").to_string();
        let failed = suite::run(suite::all(), &filter, &mut Console);
        Machine::power(PowerAction::PowerOff, u8::from(failed > 0))
    })
}

struct Console;

impl std::fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        kernel::output::print(format_args!("{text}"));
        Ok(())
    }
}
