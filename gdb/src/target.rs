//! What gdb can do.

use core::ptr::NonNull;

use arch_contract::debug::{Debugging, HARDWARE_BREAKPOINTS, HardwareBreakpoint, Watch};
use console::Command;
use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume, MultiThreadResumeOps,
    MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::section_offsets::{Offsets, SectionOffsets, SectionOffsetsOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use kernel::arch::Machine;
use kernel::debug::{Order, Reason, Stop};

use crate::monitor;
use crate::packet;
use crate::registers::{Number, Registers, Window, X64, describe};
use crate::threads::{self, Place, View, stopped_cpus};

/// gdb's error numbers are those of POSIX.
const NO_ACCESS: u8 = 14;
const NO_SUCH_THREAD: u8 = 3;
/// Bytes of the list of threads in a packet, at most.
const LIST_PART: usize = 4096;

/// A CPU that steps until it has left a range of addresses.
#[derive(Clone, Copy)]
pub struct RangeStep {
    /// The CPU.
    pub cpu: usize,
    /// Its first address, and the first behind it.
    pub range: (u64, u64),
}

/// A thread that was stepped, and has left its CPU meanwhile: its step is over when it comes back.
#[derive(Clone, Copy)]
struct Awaited {
    thread: u64,
    /// The hardware breakpoint where it goes on.
    place: usize,
}

/// The kernel, as gdb works with it while all CPUs are stopped.
pub struct Kernel {
    /// Set while they are.
    stop: Option<NonNull<Stop>>,
    /// What the CPUs that gdb did not name do.
    others: Order,
    /// What gdb has told the CPUs it has named, most of them none.
    named: [Option<Order>; arch_contract::MAX_CPUS],
    /// See [`RangeStep`].
    pub range_step: Option<RangeStep>,
    /// Packets are acknowledged.
    pub acknowledges: bool,
    /// It is LLDB that asks.
    pub is_lldb: bool,
    /// A kernel thread whose registers gdb sees instead of those of the thread it names, by its number.
    selected: Option<u64>,
    view: View,
    /// The thread that gdb steps.
    stepped: Option<u64>,
    awaited: Option<Awaited>,
    /// The image's commands.
    extra: &'static [Command],
    /// A thread that gdb wants to step and that does not run.
    refused: Option<Tid>,
    /// A thread that gdb has named to go on and that does not run: it goes on when the others let it.
    waiting: Option<Tid>,
    /// Where the thread is that gdb asked for last: looking for it takes a walk over all.
    last_place: Option<(Tid, Place)>,
}

// SAFETY: used by the host of a stop only.
unsafe impl Send for Kernel {}

/// The kernel ends sooner than this.
#[derive(Debug)]
pub enum Never {}

impl Kernel {
    /// Not stopped.
    pub const fn new() -> Self {
        let named = [None; arch_contract::MAX_CPUS];
        Self {
            stop: None,
            others: Order::Run,
            named,
            range_step: None,
            acknowledges: true,
            is_lldb: false,
            selected: None,
            view: View::Threads,
            stepped: None,
            awaited: None,
            extra: &[],
            refused: None,
            waiting: None,
            last_place: None,
        }
    }

    /// Sets what gdb's threads are, and the image's commands.
    pub fn set_up(&mut self, view: View, extra: &'static [Command]) {
        (self.view, self.extra) = (view, extra);
    }

    /// True if a hardware breakpoint is the one where a stepped thread is awaited.
    pub fn is_awaited(&self, hit: Option<usize>) -> bool {
        self.awaited.is_some_and(|awaited| Some(awaited.place) == hit)
    }

    /// A CPU has stepped, or come to a hardware breakpoint: true if that is none of gdb's business yet, because the thread that is
    /// stepped is not there. Then it is awaited.
    pub fn awaits_stepped(&mut self, hit: Option<usize>) -> bool {
        let host = self.stop().host;
        let running = self.stop().running(host).0;
        if let Some(awaited) = self.awaited.filter(|awaited| Some(awaited.place) == hit) {
            if running != awaited.thread {
                return true;
            }
            self.forget_awaited();
            self.stop().reason = Reason::Stepped;
            if let Some(step) = &mut self.range_step {
                step.cpu = host;
                self.named[host] = Some(Order::Step);
            }
            return false;
        }
        let Some(thread) = self.stepped.filter(|&thread| hit.is_none() && thread != running) else { return false };
        if !self.stop().is_on_own_stack(host) {
            // It is just leaving.
            return true;
        }
        if self.others == Order::Stay {
            // It cannot come back.
            return false;
        }
        let Some((registers, _)) = threads::registers_of(thread) else { return false };
        let places = self.stop().hardware_breakpoints();
        let Some(place) = places.iter().position(Option::is_none) else { return false };
        places[place] = Some(execution_of(registers.instruction_pointer as u64));
        self.awaited = Some(Awaited { thread, place });
        self.named[host] = None;
        true
    }

    /// gdb decides anew, or is told of a stop: no step is awaited any more.
    pub fn forget_awaited(&mut self) {
        if let Some(awaited) = self.awaited.take() {
            self.stop().hardware_breakpoints()[awaited.place] = None;
        }
    }

    /// What gdb calls what runs on a CPU.
    pub fn tid_of(&mut self, cpu: usize) -> Tid {
        let view = self.view;
        view.tid_of(self.stop(), cpu)
    }

    /// Where what gdb calls so is; `None` if there is no such thing.
    fn place_of(&mut self, tid: Tid) -> Option<Place> {
        if let Some((_, place)) = self.last_place.filter(|last| last.0 == tid) {
            return Some(place);
        }
        let view = self.view;
        let place = view.place_of(self.stop(), tid)?;
        self.last_place = Some((tid, place));
        Some(place)
    }

    /// The CPU, if what gdb calls so runs on one.
    fn cpu_of(&mut self, tid: Tid) -> Option<usize> {
        match self.place_of(tid) {
            Some(Place::Cpu(cpu)) => Some(cpu),
            _ => None,
        }
    }

    /// A thread that gdb wanted to step although it does not run: once, after the order to go on, which then is none.
    pub fn take_refused(&mut self) -> Option<Tid> {
        self.refused.take()
    }

    /// Lets `work` work on a stop.
    pub fn during<T>(&mut self, stop: &mut Stop, work: impl FnOnce(&mut Self) -> T) -> T {
        self.stop = Some(NonNull::from(stop));
        let result = work(self);
        (self.stop, self.last_place) = (None, None);
        result
    }

    /// The stop.
    pub fn stop(&mut self) -> &mut Stop {
        let mut stop = self.stop.expect("gdb is only listened to while all CPUs are stopped");
        // SAFETY: set in `during` from an exclusive reference, which is not used meanwhile.
        unsafe { stop.as_mut() }
    }

    /// Gives each CPU the order that gdb has for it.
    pub fn give_orders(&mut self) {
        let (others, named) = (self.others, self.named);
        self.selected = None;
        for (cpu, named) in named.into_iter().enumerate() {
            self.stop().order(cpu, named.unwrap_or(others));
        }
    }

    /// A CPU that gdb lets go on, the host if it does: gdb only expects stops of these.
    pub fn cpu_to_go_on(&mut self) -> usize {
        let (others, named) = (self.others, self.named);
        let goes_on = |cpu: &usize| named[*cpu].unwrap_or(others) != Order::Stay;
        let stop = self.stop();
        let host = stop.host;
        if goes_on(&host) { host } else { stopped_cpus(stop).find(goes_on).unwrap_or(host) }
    }

    /// Lets all go on with what they were doing, steps too.
    pub fn go_on_as_before(&mut self) {
        self.stop().goes_on_as_before = true;
    }

    /// Forgets what a gdb wanted that is gone.
    pub fn begin_anew(&mut self) {
        self.stop().remove_all();
        (self.others, self.named, self.range_step) = (Order::Run, [None; arch_contract::MAX_CPUS], None);
        (self.stepped, self.awaited, self.refused, self.waiting) = (None, None, None, None);
        (self.acknowledges, self.is_lldb) = (true, false);
    }

    /// Lets all go on, without a trace of gdb.
    pub fn release(&mut self) {
        self.begin_anew();
        self.give_orders();
    }

    /// Answers a gdb that reads a part of the list of threads: `OFFSET,LENGTH` in hexadecimal. False if that is something else.
    pub fn send_thread_list(&mut self, part: &[u8]) -> bool {
        let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
        let numbers = core::str::from_utf8(part).ok().and_then(|text| text.split_once(','));
        let Some((offset, length)) = numbers.and_then(|(offset, length)| hexadecimal(offset).zip(hexadecimal(length)))
        else {
            return false;
        };
        let mut buffer = [0; LIST_PART];
        let length = usize::try_from(length).map_or(LIST_PART, |length| length.min(LIST_PART));
        let mut window = Window::new(offset, &mut buffer[..length]);
        let view = self.view;
        let _ = view.write_list(self.stop(), &mut window);
        let written = window.length;
        if self.acknowledges {
            Machine::debug_line_write(packet::ACKNOWLEDGEMENT);
        }
        // A part that is not full is the last.
        packet::send_part(&buffer[..written], written < length);
        true
    }

    fn set_hardware(&mut self, wanted: HardwareBreakpoint) -> bool {
        let aligned = wanted.address.is_multiple_of(usize::from(wanted.length));
        let places = self.stop().hardware_breakpoints();
        let free = places.iter_mut().find(|place| place.is_none()).filter(|_| aligned);
        free.map(|place| *place = Some(wanted)).is_some()
    }

    fn clear_hardware(&mut self, wanted: HardwareBreakpoint) -> bool {
        let places: &mut [_; HARDWARE_BREAKPOINTS] = self.stop().hardware_breakpoints();
        let found = places.iter_mut().find(|place| **place == Some(wanted));
        found.map(|place| *place = None).is_some()
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

impl Target for Kernel {
    type Arch = X64;
    type Error = Never;

    fn base_ops(&mut self) -> BaseOps<'_, X64, Never> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_section_offsets(&mut self) -> Option<SectionOffsetsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(&mut self) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Kernel {
    fn read_registers(&mut self, registers: &mut Registers, tid: Tid) -> TargetResult<(), Self> {
        let place = match self.selected {
            None => self.place_of(tid),
            Some(thread) => {
                let stop = self.stop();
                let cpu = stopped_cpus(stop).find(|&cpu| stop.running(cpu).0 == thread);
                Some(cpu.map_or(Place::Waiting(thread), Place::Cpu))
            }
        };
        let stop = self.stop();
        match place.ok_or(TargetError::Errno(NO_SUCH_THREAD))? {
            Place::Cpu(cpu) => {
                registers.general = *stop.registers(cpu);
                registers.system = *stop.system(cpu);
                registers.set_vectors(stop.vectors(cpu));
            }
            Place::Waiting(thread) => {
                let (general, thread_pointer) =
                    threads::registers_of(thread).ok_or(TargetError::Errno(NO_SUCH_THREAD))?;
                registers.general = general;
                registers.system = *stop.system(stop.host);
                registers.system.fs_base = thread_pointer;
                registers.is_suspended = true;
            }
        }
        Ok(())
    }

    fn write_registers(&mut self, registers: &Registers, tid: Tid) -> TargetResult<(), Self> {
        let cpu = self.cpu_of(tid).filter(|_| self.selected.is_none());
        // Of a thread that does not run, they are not in registers.
        let cpu = cpu.ok_or(TargetError::Errno(NO_ACCESS))?;
        let stop = self.stop();
        *stop.registers(cpu) = registers.general;
        if let Some(vectors) = &registers.vectors {
            let area = stop.vectors(cpu);
            let length = area.len().min(vectors.len());
            area[..length].copy_from_slice(&vectors[..length]);
        }
        Ok(())
    }

    fn read_addrs(&mut self, address: u64, data: &mut [u8], _: Tid) -> TargetResult<usize, Self> {
        match self.stop().read(address as usize, data) {
            0 if !data.is_empty() => Err(TargetError::Errno(NO_ACCESS)),
            length => Ok(length),
        }
    }

    fn write_addrs(&mut self, address: u64, data: &[u8], _: Tid) -> TargetResult<(), Self> {
        if self.stop().write(address as usize, data) { Ok(()) } else { Err(TargetError::Errno(NO_ACCESS)) }
    }

    fn list_active_threads(&mut self, each: &mut dyn FnMut(Tid)) -> Result<(), Never> {
        let view = self.view;
        view.for_each(self.stop(), &mut |tid, _| each(tid));
        Ok(())
    }

    fn is_thread_alive(&mut self, tid: Tid) -> Result<bool, Never> {
        Ok(self.place_of(tid).is_some())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }
}

/// gdb reads so what is not in the packet with all, and writes all; LLDB reads all so, as it takes nothing of that packet if one is not
/// known.
impl SingleRegisterAccess<Tid> for Kernel {
    fn read_register(&mut self, tid: Tid, register: Number, out: &mut [u8]) -> TargetResult<usize, Self> {
        let mut registers = Registers::default();
        self.read_registers(&mut registers, tid)?;
        match registers.read(register, out) {
            Some(length) => Ok(length),
            // "Unavailable" to gdb, for which an error would end the command; LLDB would take that for a value.
            None if registers.is_suspended && !self.is_lldb => Ok(0),
            None => Err(TargetError::Errno(NO_ACCESS)),
        }
    }

    fn write_register(&mut self, tid: Tid, register: Number, value: &[u8]) -> TargetResult<(), Self> {
        let mut registers = Registers::default();
        self.read_registers(&mut registers, tid)?;
        if !registers.write(register, value) {
            return Err(TargetError::Errno(NO_ACCESS));
        }
        self.write_registers(&registers, tid)
    }
}

impl MonitorCmd for Kernel {
    fn handle_monitor_cmd(&mut self, line: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Never> {
        match core::str::from_utf8(line) {
            Ok(line) => monitor::execute(line, self.extra, &mut self.selected, &mut out),
            Err(_) => gdbstub::outputln!(out, "error: the command is not text"),
        }
        Ok(())
    }
}

impl MultiThreadResume for Kernel {
    fn resume(&mut self) -> Result<(), Never> {
        if self.others == Order::Stay && self.named.iter().all(Option::is_none) {
            // Only a thread that does not run was to go on: then nothing would, and nobody would listen to gdb.
            let host = self.stop().host;
            self.refused = self.refused.or(self.waiting).or_else(|| Some(self.tid_of(host)));
        }
        self.give_orders();
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Never> {
        (self.others, self.named, self.range_step) = (Order::Run, [None; arch_contract::MAX_CPUS], None);
        (self.refused, self.waiting, self.stepped) = (None, None, None);
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Never> {
        match self.cpu_of(tid) {
            Some(cpu) => self.named[cpu] = Some(Order::Run),
            None => self.waiting = Some(tid),
        }
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Kernel {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Never> {
        match self.cpu_of(tid) {
            Some(cpu) => {
                self.named[cpu] = Some(Order::Step);
                let view = self.view;
                self.stepped = (view == View::Threads).then_some(tid.get() as u64);
            }
            None => self.refused = Some(tid),
        }
        Ok(())
    }
}

impl MultiThreadRangeStepping for Kernel {
    fn set_resume_action_range_step(&mut self, tid: Tid, start: u64, end: u64) -> Result<(), Never> {
        self.range_step = self.cpu_of(tid).map(|cpu| RangeStep { cpu, range: (start, end) });
        self.set_resume_action_step(tid, None)
    }
}

impl MultiThreadSchedulerLocking for Kernel {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Never> {
        self.others = Order::Stay;
        Ok(())
    }
}

impl Breakpoints for Kernel {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Kernel {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.stop().plant(address as usize))
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.stop().remove(address as usize))
    }
}

fn execution_of(address: u64) -> HardwareBreakpoint {
    HardwareBreakpoint { address: address as usize, length: 1, watch: Watch::Execute }
}

impl HwBreakpoint for Kernel {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.set_hardware(execution_of(address)))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.clear_hardware(execution_of(address)))
    }
}

/// x86 cannot watch reads alone.
fn access_to(address: u64, length: u64, kind: WatchKind) -> Option<HardwareBreakpoint> {
    let length = u8::try_from(length).ok().filter(|length| [1, 2, 4, 8].contains(length))?;
    let watch = match kind {
        WatchKind::Write => Watch::Write,
        WatchKind::ReadWrite => Watch::Access,
        WatchKind::Read => return None,
    };
    Some(HardwareBreakpoint { address: address as usize, length, watch })
}

impl HwWatchpoint for Kernel {
    fn add_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(access_to(address, length, kind).is_some_and(|wanted| self.set_hardware(wanted)))
    }

    fn remove_hw_watchpoint(&mut self, address: u64, length: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(access_to(address, length, kind).is_some_and(|wanted| self.clear_hardware(wanted)))
    }
}

/// Physical address the image is linked at.
const LINKED_AT: u64 = 0x20_0000;

/// How far the image was moved from where it was linked.
impl SectionOffsets for Kernel {
    fn get_section_offsets(&mut self) -> Result<Offsets<u64>, Never> {
        let moved = kernel::boot::information().image.start.wrapping_sub(LINKED_AT);
        Ok(Offsets::Sections { text: moved, data: moved, bss: None })
    }
}

impl TargetDescriptionXmlOverride for Kernel {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        let length = length.min(buffer.len());
        let mut window = Window::new(offset, &mut buffer[..length]);
        describe(&mut window, &Machine::vector_layout()).map_err(|_| TargetError::NonFatal)?;
        Ok(window.length)
    }
}
