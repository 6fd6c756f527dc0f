//! [`Machine`]: the contract's implementation for a PC.

use arch_contract::{Architecture, Export, Framebuffer, PowerAction, StartCpuError};

use super::board::Pc;
use super::debug_line::DebugLine;
use super::io_apic::{self, Lines};
use super::serial::ConsoleDevice;
use super::uart::Polled;
use super::{debug_port, keyboard, power, screen};
use crate::boot;
use crate::cpu::{self, apic};

/// A PC.
pub struct Machine;

impl Architecture for Machine {
    const NAME: &'static str = "x86-64";
    const DEFAULT_STACK_SIZE: usize = 16 * 1024;
    type Core = cpu::Core<cpu::WithSse2>;
    type Contexts = cpu::Contexts;
    type Vectors = cpu::Vectors;
    type Traps = cpu::Traps;
    type Ipi = cpu::Ipi;
    type Lines = Lines;
    type Clock = cpu::apic_clock::Clock;
    type AddressSpace = cpu::AddressSpace;
    type TraceRing = cpu::TraceRing;
    type ConsoleDevice = ConsoleDevice;
    type Platform = Platform;
    type Debug = cpu::Debug;
    type DebugLine = DebugLine;
}

/// COM3, the telemetry line, which is polled.
static TELEMETRY: Polled = Polled::at(0x3e8);

/// A PC's platform.
pub struct Platform;

impl arch_contract::Platform for Platform {
    fn start_cpu(
        cpu: usize,
        hardware_id: u32,
        stack_top: usize,
        local: usize,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<(), StartCpuError> {
        boot::start_cpu::<Pc>(cpu, hardware_id, stack_top, local, wait)
    }

    fn interrupt_controller() -> &'static str {
        match (apic::mode(), io_apic::controller_count()) {
            (apic::Mode::X2Apic, 0) => "x2APIC, no I/O APIC",
            (apic::Mode::X2Apic, _) => "x2APIC and I/O APIC",
            (_, 0) => "xAPIC, no I/O APIC",
            (_, _) => "xAPIC and I/O APIC",
        }
    }

    fn screen() -> Option<Framebuffer> {
        screen::framebuffer()
    }

    fn keyboard_init() -> Option<u32> {
        let line = io_apic::line_of_isa(keyboard::ISA_INTERRUPT);
        (line < io_apic::line_count() && keyboard::init()).then_some(line)
    }

    fn keyboard_read() -> Option<u8> {
        keyboard::receive()
    }

    fn telemetry_init() -> bool {
        TELEMETRY.init()
    }

    fn telemetry_read() -> Option<u8> {
        TELEMETRY.receive()
    }

    fn telemetry_write(bytes: &[u8]) {
        bytes.iter().for_each(|&byte| TELEMETRY.send(byte));
    }

    fn export(what: Export, bytes: &[u8]) {
        debug_port::write(what, bytes);
    }

    fn exports(what: Export) -> bool {
        debug_port::is_there(what)
    }

    fn power(action: PowerAction, status: u8) -> ! {
        power::act(action, status)
    }
}
