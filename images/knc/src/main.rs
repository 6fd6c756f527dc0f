//! The Aerokernel for Knights Corner: links the parts together.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "../../common/bench_command.rs"]
mod bench_command;

use arch_contract::boot::BootInformation;
use kernel::memory::KernelAllocator;
use kernel::start::Parts;

#[global_allocator]
static ALLOCATOR: KernelAllocator = KernelAllocator;

/// Enters the kernel from the card's start-up code.
#[unsafe(no_mangle)]
fn aerokernel_main(boot: &'static BootInformation) -> ! {
    static PARTS: Parts = Parts {
        first: |options| console::run(options, &[bench_command::BENCH]),
        post_mortem: console::post_mortem::run,
        install_debugger: |_| false,
    };
    // SAFETY: the arch crate's entry calls this function once, with interrupts off, after it has
    // set up the boot CPU and the clock; its description of the machine is true.
    unsafe { kernel::start::kernel_main(boot, &PARTS) }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kernel::panic::panicked(info)
}
