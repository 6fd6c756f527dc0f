//! Every benchmark does its work and notices if it was not done: run natively, each one passes, and
//! fails when its work is left out.

use std::process::ExitCode;

use arch_contract::PowerAction;
use arch_contract::boot::BootInformation;
use kernel::arch::*;
use kernel::start::Parts;

#[global_allocator]
static ALLOCATOR: arch::HostAllocator = arch::HostAllocator;

/// `empty` has no work. The work of `yield_alone` has no visible effect; only the number of
/// instructions shows it, which `aero bench` checks.
const UNSEEN: [&str; 2] = ["empty", "yield_alone"];
/// A benchmark that takes ten seconds by itself and runs only without its work.
const LONG: &str = "noise";

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        kernel::println!("{info}");
        Platform::power(PowerAction::PowerOff, 101)
    }));
    let config = arch::Config {
        cpus: 2,
        nodes: 1,
        memory: 1 << 30,
        silent_cpu: None,
        command_line: "panic=exit log=warn".into(),
    };
    arch::boot(config, enter)
}

fn enter(boot: &'static BootInformation) -> ! {
    static PARTS: Parts = Parts {
        first: |_| {
            let wrong = bench::all().filter(|benchmark| !is_right(benchmark)).count();
            kernel::println!("{} benchmarks, {wrong} of them wrong", bench::all().count());
            Platform::power(PowerAction::PowerOff, u8::from(wrong > 0));
        },
        post_mortem: |_| (),
        install_debugger: |_| false,
    };
    // SAFETY: the arch crate's entry calls this function once, with interrupts off, after it has
    // set up the boot CPU and the clock; its description of the machine is true.
    unsafe { kernel::start::kernel_main(boot, &PARTS) }
}

/// Returns whether a benchmark succeeds as it is and fails without its work. Prints the reason if
/// not.
fn is_right(benchmark: &bench::Benchmark) -> bool {
    let setting = bench::Setting::new(&|| false);
    bench::leave_work_out(false);
    if benchmark.name != LONG
        && let Err(reason) = (benchmark.run)(&setting)
    {
        kernel::println!("{} fails: {reason}", benchmark.name);
        return false;
    }
    bench::leave_work_out(true);
    let hollow = (benchmark.run)(&setting);
    bench::leave_work_out(false);
    if hollow.is_ok() && !UNSEEN.contains(&benchmark.name) {
        kernel::println!("{} does not notice that nothing is measured", benchmark.name);
        return false;
    }
    true
}
