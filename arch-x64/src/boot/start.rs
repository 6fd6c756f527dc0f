//! The boot CPU's way from the first Rust code to the kernel.

use arch_contract::boot::{BootInformation, CpuDescription, Notice};
use arch_contract::{MAX_CPUS, PAGE_SIZE};
use arrayvec::ArrayVec;
use firmware::Notices;

use super::board::{Board, CannotBoot, describe_cpu};
use super::memory::{self, FrameSource};
use super::{packed, trampoline};
use crate::cpu::{apic, block, descriptors, machine_check, model, paging};

unsafe extern "Rust" {
    /// The kernel's entry, provided by the image.
    safe fn aerokernel_main(boot: &'static BootInformation) -> !;
}

/// The boot CPU's first Rust code, entered in 64-bit mode at its final address, on the boot stack,
/// with the first 4 GiB mapped. `magic` and `information` are the loader's.
pub extern "C" fn start<B: Board>(magic: u32, information: u64) -> ! {
    let entry_cycles = model::cycles();
    B::open_console();
    // SAFETY: the boot code calls `start` once, so the storage is taken only once.
    let storage = unsafe { B::storage().take() };

    descriptors::build_idt();
    prepare_this_cpu::<B>(0);
    B::say("kernel: traps");

    let (symbols, programs) = packed::parts();
    let image = packed::image(symbols, programs);
    let mut loaded = B::read_loader(magic, information, image, storage);
    if loaded.free.is_empty() {
        B::stop(CannotBoot::NoMemory("the loader reports no usable memory; the kernel cannot run"));
    }
    B::say(", memory");

    let frames = FrameSource::take(&mut loaded.free);
    let mut tables = frames.unwrap_or_else(|reason| B::stop(CannotBoot::NoMemory(reason)));
    let trampoline =
        B::STARTS_IN_REAL_MODE.then(|| trampoline::take_page(&mut loaded.free, &mut storage.notices)).flatten();
    memory::build_address_space(&loaded.free, &loaded.shared, image, trampoline, &mut tables)
        .unwrap_or_else(|reason| B::stop(CannotBoot::NoPageTables(reason)));
    B::say(", paging");

    B::read_firmware(&loaded, storage, &mut tables);
    B::say(", ");
    B::say(B::FIRMWARE);

    let (mode, registers) = B::local_apic(storage);
    enable_apic::<B>(mode, registers, &mut tables);
    B::prepare_devices(storage, &mut tables);
    block::mark_started();
    list_cpus::<B>(&storage.firmware, &mut storage.cpus, &mut storage.notices);
    B::say(", interrupts");

    let times_are_guesses = !B::find_clock_rate(&storage.firmware);
    B::enable_clock();
    B::say(", clock\r\n");

    tables.give_back(&mut loaded.free);
    B::list_memory(&loaded.free, &storage.firmware, &mut storage.memory, &mut storage.notices);
    let (nodes, distances) = B::nodes(&storage.firmware);
    aerokernel_main(storage.information.insert(BootInformation {
        loader: loaded.loader,
        command_line: &storage.command_line,
        memory: &storage.memory,
        image,
        image_data: packed::image_data(),
        cpus: &storage.cpus,
        nodes,
        distances,
        tables: B::firmware_tables(&storage.firmware),
        notices: &storage.notices.0 as &[Notice],
        entry_cycles,
        times_are_guesses,
        symbols,
        programs,
    }))
}

/// Gives a CPU its block, traps and instructions.
pub(super) fn prepare_this_cpu<B: Board>(index: usize) {
    block::claim(index, 0);
    descriptors::load();
    paging::control_registers();
    machine_check::enable();
    B::enable_vectors();
}

/// Enables the boot CPU's APIC.
fn enable_apic<B: Board>(mode: apic::Mode, registers: u64, tables: &mut FrameSource) {
    let mapped = match mode {
        apic::Mode::X2Apic => core::ptr::null_mut(),
        apic::Mode::XApic | apic::Mode::Expanded => {
            let mapped = paging::map_device(registers, PAGE_SIZE, &mut || tables.next());
            let stop = |_| B::stop(CannotBoot::NoRegisters("the local APIC's registers cannot be mapped"));
            mapped.unwrap_or_else(stop)
        }
    };
    apic::set_mode(mode, mapped);
    apic::enable();
    block::claim(0, apic::id());
}

/// Lists the boot CPU first, the others in the firmware's order.
fn list_cpus<B: Board>(firmware: &B::Firmware, cpus: &mut ArrayVec<CpuDescription, MAX_CPUS>, notices: &mut Notices) {
    let boot_id = apic::id();
    cpus.push(describe_cpu::<B>(firmware, boot_id));
    for id in B::cpu_ids(firmware).filter(|&id| id != boot_id) {
        if cpus.try_push(describe_cpu::<B>(firmware, id)).is_err() {
            notices.add("more CPUs than this kernel supports; ignored APIC id", u64::from(id));
        }
    }
}
