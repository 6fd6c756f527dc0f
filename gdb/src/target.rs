//! The gdb target: what gdb can do to the kernel while all CPUs are stopped.

use core::ptr::NonNull;

use arch_contract::debug::{HARDWARE_BREAKPOINTS, HardwareBreakpoint, Watch};
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
use kernel::arch::*;
use kernel::debug::{Order, Reason, Stop};

use crate::monitor;
use crate::packet;
use crate::registers::{Number, Registers, Window, X64, describe};
use crate::threads::{self, Place, View, stopped_cpus};

/// Error numbers of the remote protocol, which are those of POSIX.
const NO_ACCESS: u8 = 14;
const NO_SUCH_THREAD: u8 = 3;
/// Size limit of one packet's part of the thread list, in bytes.
const LIST_PART: usize = 4096;

/// A range step: a CPU steps until its instruction pointer leaves a range of addresses.
#[derive(Clone, Copy)]
pub struct RangeStep {
    /// The stepping CPU.
    pub cpu: usize,
    /// The range's first address, and the first address past its end.
    pub range: (u64, u64),
}

/// A stepped thread that has left its CPU: its step completes when it runs again.
#[derive(Clone, Copy)]
struct Awaited {
    thread: u64,
    /// Index of the hardware breakpoint at the address where the thread resumes.
    place: usize,
}

/// The kernel, as gdb sees it while all CPUs are stopped.
pub struct Kernel {
    /// The current stop; `Some` only while all CPUs are stopped.
    stop: Option<NonNull<Stop>>,
    /// The order for CPUs that gdb did not name.
    others: Order,
    /// The orders for CPUs that gdb did name; `None` for most.
    named: [Option<Order>; arch_contract::MAX_CPUS],
    /// The range step in progress, if any.
    pub range_step: Option<RangeStep>,
    /// gdb expects each packet to be acknowledged.
    pub acknowledges: bool,
    /// The debugger is LLDB, not gdb.
    pub is_lldb: bool,
    /// The kernel thread whose registers gdb sees in place of those of the thread it names
    /// (`monitor thread N`).
    selected: Option<u64>,
    view: View,
    /// The thread that gdb single-steps.
    stepped: Option<u64>,
    awaited: Option<Awaited>,
    /// The image's own console commands.
    extra: &'static [Command],
    /// A thread that gdb wants to step although it is not running.
    refused: Option<Tid>,
    /// A thread that gdb wants to continue although it is not running: it continues when it is
    /// scheduled.
    waiting: Option<Tid>,
    /// The last thread gdb asked for, and its place. Cached because a lookup walks all threads.
    last_place: Option<(Tid, Place)>,
}

// SAFETY: the pointer in `stop` is set only during a stop, when the host alone uses this value, so
// no other CPU can reach what it points to.
unsafe impl Send for Kernel {}

/// The target's error type, which has no values: target operations cannot fail fatally.
#[derive(Debug)]
pub enum Never {}

impl Kernel {
    /// Creates the state before the first stop: no session, all CPUs run.
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

    /// Sets the thread view and the image's console commands.
    pub fn set_up(&mut self, view: View, extra: &'static [Command]) {
        (self.view, self.extra) = (view, extra);
    }

    /// Returns true if hardware breakpoint `hit` is the one set for the awaited thread.
    pub fn is_awaited(&self, hit: Option<usize>) -> bool {
        self.awaited.is_some_and(|awaited| Some(awaited.place) == hit)
    }

    /// Handles a step or hardware breakpoint `hit` on the host. Returns true if gdb must not be
    /// told yet because the stepped thread is no longer on this CPU; the thread is then awaited at
    /// the address where it resumes.
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
            // The thread is still being switched out; its saved registers are not final.
            return true;
        }
        if self.others == Order::Stay {
            // The scheduler is locked, so the thread cannot run again.
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

    /// Stops awaiting a stepped thread: gdb gives new orders or is told of a stop.
    pub fn forget_awaited(&mut self) {
        if let Some(awaited) = self.awaited.take() {
            self.stop().hardware_breakpoints()[awaited.place] = None;
        }
    }

    /// Returns gdb's id of what runs on a CPU.
    pub fn tid_of(&mut self, cpu: usize) -> Tid {
        let view = self.view;
        view.tid_of(self.stop(), cpu)
    }

    /// Returns where the thread with gdb's id `tid` is; `None` if there is no such thread.
    fn place_of(&mut self, tid: Tid) -> Option<Place> {
        if let Some((_, place)) = self.last_place.filter(|last| last.0 == tid) {
            return Some(place);
        }
        let view = self.view;
        let place = view.place_of(self.stop(), tid)?;
        self.last_place = Some((tid, place));
        Some(place)
    }

    /// Returns the CPU on which `tid` runs, if it is running.
    fn cpu_of(&mut self, tid: Tid) -> Option<usize> {
        match self.place_of(tid) {
            Some(Place::Cpu(cpu)) => Some(cpu),
            _ => None,
        }
    }

    /// Takes the thread that gdb wanted to step although it is not running. Check after each
    /// `resume`: if there is one, the CPUs must not go on.
    pub fn take_refused(&mut self) -> Option<Tid> {
        self.refused.take()
    }

    /// Runs `work` with `stop` as the current stop.
    pub fn during<T>(&mut self, stop: &mut Stop, work: impl FnOnce(&mut Self) -> T) -> T {
        self.stop = Some(NonNull::from(stop));
        let result = work(self);
        (self.stop, self.last_place) = (None, None);
        result
    }

    /// Returns the current stop.
    ///
    /// # Panics
    /// If called outside [`during`](Self::during).
    pub fn stop(&mut self) -> &mut Stop {
        let mut stop = self.stop.expect("gdb is only listened to while all CPUs are stopped");
        // SAFETY: `during` derives the pointer from an exclusive reference that it holds until it
        // clears the pointer again, so this is the only reference in use.
        unsafe { stop.as_mut() }
    }

    /// Passes gdb's orders to all CPUs.
    pub fn give_orders(&mut self) {
        let (others, named) = (self.others, self.named);
        self.selected = None;
        for (cpu, named) in named.into_iter().enumerate() {
            self.stop().order(cpu, named.unwrap_or(others));
        }
    }

    /// Returns a CPU that gdb resumes, the host if it is one: gdb expects stop reports only for
    /// these.
    pub fn cpu_to_go_on(&mut self) -> usize {
        let (others, named) = (self.others, self.named);
        let goes_on = |cpu: &usize| named[*cpu].unwrap_or(others) != Order::Stay;
        let stop = self.stop();
        let host = stop.host;
        if goes_on(&host) { host } else { stopped_cpus(stop).find(goes_on).unwrap_or(host) }
    }

    /// Resumes all CPUs with their previous orders, unfinished steps included.
    pub fn go_on_as_before(&mut self) {
        self.stop().goes_on_as_before = true;
    }

    /// Discards the state that an earlier gdb left: breakpoints, orders, steps and modes.
    pub fn begin_anew(&mut self) {
        self.stop().remove_all();
        (self.others, self.named, self.range_step) = (Order::Run, [None; arch_contract::MAX_CPUS], None);
        (self.stepped, self.awaited, self.refused, self.waiting) = (None, None, None, None);
        (self.acknowledges, self.is_lldb) = (true, false);
    }

    /// Resumes all CPUs and removes every trace of gdb.
    pub fn release(&mut self) {
        self.begin_anew();
        self.give_orders();
    }

    /// Answers gdb's request for part of the thread list, `OFFSET,LENGTH` in hexadecimal. Returns
    /// false if `part` does not parse.
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
            DebugLine::write(packet::ACKNOWLEDGEMENT);
        }
        // A part shorter than requested is the last one.
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
        // The registers of a thread that is not running are on its stack, out of reach here.
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

/// gdb reads this way the registers that the `g` packet omits, and writes all of them this way.
/// LLDB reads all of them this way, because it rejects a `g` packet in which any register is
/// unknown.
impl SingleRegisterAccess<Tid> for Kernel {
    fn read_register(&mut self, tid: Tid, register: Number, out: &mut [u8]) -> TargetResult<usize, Self> {
        let mut registers = Registers::default();
        self.read_registers(&mut registers, tid)?;
        match registers.read(register, out) {
            Some(length) => Ok(length),
            // Zero bytes mean "unavailable". An error would abort gdb's command; LLDB, on the other
            // hand, would take zero bytes for a value.
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
            // gdb resumes only a thread that is not running. All CPUs would stay stopped and no CPU
            // would listen to gdb, so refuse.
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

/// Returns the hardware watchpoint for an access; `None` for reads alone, which x86 cannot watch,
/// and for unsupported lengths.
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

/// The physical address at which the image is linked.
const LINKED_AT: u64 = 0x20_0000;

/// Reports the image's displacement from its link address.
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
        describe(&mut window, &Vectors::layout()).map_err(|_| TargetError::NonFatal)?;
        Ok(window.length)
    }
}
