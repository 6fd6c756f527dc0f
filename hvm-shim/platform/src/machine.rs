//! [`Machine`]: the contract's implementation in a hybrid virtual machine.

use arch_contract::{Architecture, Export, PowerAction, StartCpuError};
use arch_x64::boot;
use arch_x64::cpu::{self, apic, interrupts};
use protocol::call::{Ending, extension};

use crate::board::Hvm;
use crate::lines::{CONSOLE, DebugLine, Rings, TELEMETRY};
use crate::{downcall, files};

/// A hybrid virtual machine.
pub struct Machine;

impl Architecture for Machine {
    const NAME: &'static str = "x86-64, as an HRT";
    const DEFAULT_STACK_SIZE: usize = 16 * 1024;
    type Core = cpu::Core<cpu::WithSse2>;
    type Contexts = cpu::Contexts;
    type Vectors = cpu::Vectors;
    type Traps = cpu::Traps;
    type Ipi = cpu::Ipi;
    type Lines = NoLines;
    type Clock = cpu::apic_clock::Clock;
    type AddressSpace = cpu::AddressSpace;
    type TraceRing = cpu::TraceRing;
    type ConsoleDevice = Rings;
    type Platform = Platform;
    type Debug = cpu::Debug;
    type DebugLine = DebugLine;
}

/// There is no I/O APIC.
pub struct NoLines;

impl arch_contract::Lines for NoLines {}

/// The platform.
pub struct Platform;

impl arch_contract::Platform for Platform {
    fn start_cpu(
        cpu: usize,
        hardware_id: u32,
        stack_top: usize,
        local: usize,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<(), StartCpuError> {
        boot::start_cpu::<Hvm>(cpu, hardware_id, stack_top, local, wait)
    }

    fn interrupt_controller() -> &'static str {
        match apic::mode() {
            apic::Mode::X2Apic => "x2APIC, no I/O APIC",
            _ => "xAPIC, no I/O APIC",
        }
    }

    fn telemetry_init() -> bool {
        TELEMETRY.is_there()
    }

    fn telemetry_read() -> Option<u8> {
        TELEMETRY.channel.receive()
    }

    fn telemetry_write(bytes: &[u8]) {
        TELEMETRY.channel.send(bytes);
    }

    fn export(what: Export, bytes: &[u8]) {
        files::write(what, bytes);
    }

    fn exports(what: Export) -> bool {
        files::are_kept(what)
    }

    fn crashed() {
        downcall::call(extension::CRASHED, [0; 2]);
    }

    fn power(action: PowerAction, status: u8) -> ! {
        interrupts::disable();
        <cpu::Ipi as arch_contract::Ipi>::stop_others();
        CONSOLE.wait_until_taken();
        CONSOLE.set_up(false);
        let ending = match action {
            PowerAction::PowerOff => Ending::PowerOff,
            PowerAction::Reboot => Ending::Reboot,
        };
        downcall::call(extension::END, [ending as u64, u64::from(status)]);
        interrupts::halt_forever()
    }
}
