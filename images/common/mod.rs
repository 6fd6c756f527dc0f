//! What the images with a PC's CPU link together: the kernel, the console, gdb, the benchmarks.

mod bench_command;
mod commands;
#[cfg(feature = "suite")]
mod crashes;

use arch_contract::boot::BootInformation;
use kernel::memory::KernelAllocator;
use kernel::start::Parts;

#[global_allocator]
static ALLOCATOR: KernelAllocator = KernelAllocator;

/// Enters the kernel from the arch crate.
#[unsafe(no_mangle)]
fn aerokernel_main(boot: &'static BootInformation) -> ! {
    static PARTS: Parts = Parts {
        first: |options| {
            crate::start_services();
            gdb::serve(commands::COMMANDS);
            console::run(options, commands::COMMANDS);
        },
        post_mortem: console::post_mortem::run,
        // SAFETY: the kernel calls `install_debugger` once, on the boot CPU, before it starts other
        // CPUs.
        install_debugger: |options| unsafe { gdb::install(options, commands::COMMANDS) },
    };
    // SAFETY: the arch crate's entry calls this function once, with interrupts off, after it has
    // set up the boot CPU and the clock; its description of the machine is true.
    unsafe { kernel::start::kernel_main(boot, &PARTS) }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kernel::panic::panicked(info)
}
