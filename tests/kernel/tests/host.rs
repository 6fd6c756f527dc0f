//! The test suite run natively: this program runs itself once per machine, because a process is one
//! machine.

use std::process::{Command, ExitCode};

use arch_contract::PowerAction;
use arch_contract::boot::BootInformation;
use kernel::arch::*;
use kernel::start::Parts;

#[global_allocator]
static ALLOCATOR: arch::HostAllocator = arch::HostAllocator;

/// The machines: number of CPUs, number of NUMA nodes, and a CPU that never answers, if any.
const MACHINES: [(usize, usize, Option<usize>); 5] =
    [(1, 1, None), (2, 1, None), (4, 2, None), (7, 3, None), (3, 1, Some(2))];
const MEMORY: u64 = 1 << 30;

fn main() -> ExitCode {
    // The test harness's flags (`--quiet`) have no meaning here; a plain word filters.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    match std::env::var("AERO_HOST_MACHINE") {
        Ok(machine) => boot(&machine),
        Err(_) => run_all(&arguments.next().unwrap_or_default()),
    }
}

fn run_all(filter: &str) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for (cpus, nodes, silent) in MACHINES {
        let this = std::env::current_exe().expect("this program has a path");
        let output = Command::new(this)
            .env("AERO_HOST_MACHINE", format!("{cpus},{nodes},{},{filter}", silent.unwrap_or(cpus)))
            .output()
            .expect("this program can be run");
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            passed += 1;
            println!("{}", text.lines().filter(|line| line.contains("passed")).collect::<Vec<_>>().join("\n"));
        } else {
            failed += 1;
            println!(
                "{cpus} CPUs, {nodes} nodes, silent {silent:?}: {}\n{text}{}",
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
    let (cpus, nodes, silent_cpu) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(1), numbers.next());
    std::panic::set_hook(Box::new(|info| {
        kernel::println!("{info}");
        Platform::power(PowerAction::PowerOff, 101)
    }));
    let config = arch::Config { cpus, nodes, memory: MEMORY, silent_cpu, command_line: "panic=exit log=warn".into() };
    arch::boot(config, enter)
}

fn enter(boot: &'static BootInformation) -> ! {
    static PARTS: Parts = Parts {
        first: |_| {
            let machine = std::env::var("AERO_HOST_MACHINE").unwrap_or_default();
            let parts: Vec<&str> = machine.splitn(4, ',').collect();
            let (listed, silent, filter) = (parts[0], parts[2], parts[3]);
            let wanted = if silent < listed { silent } else { listed };
            assert_eq!(kernel::cpu::count().to_string(), wanted, "the last CPU does not answer, all others run");
            let failed = kernel_tests::run(kernel_tests::all(), filter, &mut Console);
            Platform::power(PowerAction::PowerOff, u8::from(failed > 0))
        },
        post_mortem: |_| (),
        install_debugger: |_| false,
    };
    // SAFETY: the arch crate's entry calls this function exactly once, on the boot CPU.
    unsafe { kernel::start::kernel_main(boot, &PARTS) }
}

struct Console;

impl std::fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        kernel::output::print(format_args!("{text}"));
        Ok(())
    }
}
