//! The Aerokernel for PCs.
#![no_std]
#![no_main]

extern crate alloc;

mod commands;
#[cfg(feature = "suite")]
mod crashes;

use arch_contract::boot::BootInformation;
use kernel::memory::KernelAllocator;

#[global_allocator]
static ALLOCATOR: KernelAllocator = KernelAllocator;

/// The arch crate's way into the kernel.
#[unsafe(no_mangle)]
fn aerokernel_main(boot: &'static BootInformation) -> ! {
    kernel::start::kernel_main(boot, gdb::install, |options| console::run(options, commands::COMMANDS))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kernel::panic::panicked(info)
}
