//! The Aerokernel for PCs.
#![no_std]
#![no_main]

extern crate alloc;

mod commands;
#[cfg(feature = "suite")]
mod crashes;

use arch_contract::boot::BootInformation;
use kernel::memory::KernelAllocator;
use kernel::start::Parts;

#[global_allocator]
static ALLOCATOR: KernelAllocator = KernelAllocator;

/// The arch crate's way into the kernel.
#[unsafe(no_mangle)]
fn aerokernel_main(boot: &'static BootInformation) -> ! {
    static PARTS: Parts = Parts {
        first: |options| {
            gdb::serve(commands::COMMANDS);
            console::run(options, commands::COMMANDS);
        },
        post_mortem: console::post_mortem::run,
        // SAFETY: called as `kernel::debug::install` wants it.
        install_debugger: |options| unsafe { gdb::install(options, commands::COMMANDS) },
    };
    // SAFETY: called once, by the arch crate's entry.
    unsafe { kernel::start::kernel_main(boot, &PARTS) }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kernel::panic::panicked(info)
}
