//! [`Card`]: what is the card's own while it starts.

use arch_contract::PAGE_SIZE;
use arch_contract::boot::{FirmwareTable, PhysicalRange};
use arch_x64::boot::memory::{FrameSource, StartUpMemory};
use arch_x64::boot::storage::{Place, Storage, keep_line};
use arch_x64::boot::{Board, CannotBoot, Loaded};
use arch_x64::cpu::{apic, interrupts};
use arch_x64::rings::Channel;
use arrayvec::ArrayVec;
use firmware::{linux, memory_map, sfi, words};
use wire::command_line;
use wire::rings::channel::KIND_CONSOLE;

use crate::platform;

/// The bootstrap's data in the first page, and its tables; both are left alone.
const FIRMWARE_DATA: [PhysicalRange; 2] =
    [PhysicalRange { start: 0, end: 0x1000 }, PhysicalRange { start: 0xe_0000, end: 0x10_0000 }];
/// Physical address of the local APIC's registers [SSDG].
const LOCAL_APIC: u64 = 0xfee0_0000;
/// Largest ring region accepted, in bytes.
const REGION_LIMIT: u64 = 64 << 20;

static STORAGE: Place<sfi::Tables> =
    Place::new(sfi::Tables { cpus: ArrayVec::new_const(), tables: ArrayVec::new_const() });

/// The console: both sides poll its rings (3120A).
pub static CONSOLE: Channel = Channel::new();

/// A card while it starts.
pub struct Card;

impl Board for Card {
    type Firmware = sfi::Tables;
    const FIRMWARE: &'static str = "SFI";

    fn storage() -> &'static Place<Self::Firmware> {
        &STORAGE
    }

    /// The console's rings are found later; until then the host sees POST codes.
    fn open_console() {}

    fn say(stage: &str) {
        CONSOLE.send(stage.as_bytes());
    }

    /// The host sees two characters: `Em` no memory, `Ep` no memory for page tables, `Er` registers
    /// cannot be mapped, `Ec` the card's registers give no clock rate.
    fn stop(why: CannotBoot) -> ! {
        platform::show_post_code(match why {
            CannotBoot::NoMemory(_) => *b"Em",
            CannotBoot::NoPageTables(_) => *b"Ep",
            CannotBoot::NoRegisters(_) => *b"Er",
            CannotBoot::NoClock => *b"Ec",
        });
        interrupts::halt_forever()
    }

    fn read_loader(_: u32, parameters: u64, image: PhysicalRange, storage: &mut Storage<Self::Firmware>) -> Loaded {
        platform::map_early();
        platform::show_post_code(*b"A0");
        let notices = &mut storage.notices;
        // SAFETY: `memory` is used only in this function, before the start-up page tables are
        // replaced.
        let memory = unsafe { StartUpMemory::new() };
        let parameters = linux::parse(&memory, parameters, notices);
        let mut free = memory_map::usable(parameters.memory_map(), notices);
        keep_line(parameters.command_line, &mut storage.command_line);
        let region = words::value(&storage.command_line, command_line::RINGS.key).and_then(ring_region);
        // Reserve the region even if it is unusable, because the host writes there.
        let taken = [image, parameters.ram_disk].into_iter().chain(region).chain(FIRMWARE_DATA);
        taken.for_each(|range| memory_map::remove(&mut free, range, notices));
        let usable = region.filter(|&region| is_usable(region, image));
        if let (Some(region), None) = (region, usable) {
            notices.add(
                "phi.ring names no whole pages below 4 GiB, 64 MiB at most, apart from the kernel, at",
                region.start,
            );
        }
        storage.firmware = sfi::parse(&memory, notices);
        Loaded { loader: "the card's bootstrap", free, shared: usable.into_iter().collect(), firmware: 0 }
    }

    /// The tables have been read already; the registers that show the host how far the boot is, and
    /// the console's rings, lie in the kernel's own address space from now on.
    fn read_firmware(loaded: &Loaded, storage: &mut Storage<Self::Firmware>, tables: &mut FrameSource) {
        if platform::map(&mut || tables.next()).is_err() {
            Self::stop(CannotBoot::NoRegisters("the card's registers cannot be mapped"));
        }
        platform::show_post_code(*b"A1");
        match loaded.shared.first().copied() {
            Some(region) if CONSOLE.open(region, KIND_CONSOLE) => {
                CONSOLE.set_up(true);
                Self::say("kernel: traps, memory, paging");
            }
            Some(region) => storage.notices.add("there are no console rings at", region.start),
            None => storage.notices.add("phi.ring=BASE,SIZE does not say where the console's rings are", 0),
        }
    }

    /// `apic=pc` on the command line selects a PC's APIC ids, for a card emulated by a PC, whose
    /// APIC is a PC's.
    fn local_apic(storage: &mut Storage<Self::Firmware>) -> (apic::Mode, u64) {
        match words::value(&storage.command_line, command_line::APIC.key) {
            Some("pc") => return (apic::Mode::XApic, LOCAL_APIC),
            Some(_) => storage.notices.add("apic= can only be apic=pc; APIC ids are taken for expanded ones", 0),
            None => {}
        }
        (apic::Mode::Expanded, LOCAL_APIC)
    }

    fn cpu_ids(firmware: &Self::Firmware) -> impl Iterator<Item = u32> {
        firmware.cpus.iter().copied()
    }

    fn find_clock_rate(_: &Self::Firmware) -> bool {
        if platform::core_hz() == 0 {
            Self::stop(CannotBoot::NoClock);
        }
        platform::show_post_code(*b"A2");
        true
    }

    fn enable_clock() {
        apic::enable_one_shot();
    }

    fn firmware_tables(firmware: &Self::Firmware) -> &[FirmwareTable] {
        &firmware.tables
    }
}

/// Parses `BASE,SIZE`.
fn ring_region(text: &str) -> Option<PhysicalRange> {
    let (base, size) = text.split_once(',')?;
    let start = words::number(base)?;
    Some(PhysicalRange { start, end: start.saturating_add(words::number(size)?) })
}

/// True if the region can be mapped beside the image.
fn is_usable(region: PhysicalRange, image: PhysicalRange) -> bool {
    let is_page = |address: u64| address.is_multiple_of(PAGE_SIZE as u64);
    let is_apart =
        [image].iter().chain(&FIRMWARE_DATA).all(|other| region.end <= other.start || other.end <= region.start);
    let has_size = !region.is_empty() && region.len() <= REGION_LIMIT && region.end <= u64::from(u32::MAX);
    is_page(region.start) && is_page(region.end) && has_size && is_apart
}
