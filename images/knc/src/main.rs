//! The Aerokernel for Knights Corner: links the parts together. Nothing enters it yet; the card's boot protocol (a
//! bzImage with a 32-bit entry, SFI tables) is not there.
#![no_std]
#![no_main]

use arch_contract::boot::BootInformation;
use kernel::memory::KernelAllocator;

#[global_allocator]
static ALLOCATOR: KernelAllocator = KernelAllocator;

/// Where the card's start-up code will enter the kernel.
#[unsafe(no_mangle)]
fn aerokernel_main(boot: &'static BootInformation) -> ! {
    kernel::start::kernel_main(
        boot,
        || Ok(false),
        |options| {
            console::run(options, &[]);
            // Links the benchmarks, so that their instructions are audited too.
            let _ = bench::run(&[], || false, &mut Discard);
        },
    )
}

struct Discard;

impl core::fmt::Write for Discard {
    fn write_str(&mut self, _: &str) -> core::fmt::Result {
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    kernel::panic::panicked(info)
}
