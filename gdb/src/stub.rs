//! When gdb may do what: the state of its session over many stops.

use core::cell::UnsafeCell;
use core::time::Duration;

use arch_contract::debug::{Debugging, Watch};
use console::Command;
use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{GdbStub, MultiThreadStopReason};
use gdbstub::target::ext::breakpoints::WatchKind;
use kernel::arch::Machine;
use kernel::command_line::Options;
use kernel::debug::{Debugger, Reason, Stop};
use kernel::time::spin_until;

use crate::deferred;
use crate::framing::{Event, Framer, PACKET_LIMIT};
use crate::packet::{self, Line};
use crate::target::Kernel;
use crate::threads::View;

/// How gdb says hello.
const HELLO: &[u8] = b"qSupported";
/// How it asks that packets are not acknowledged any more.
const NO_ACKNOWLEDGEMENTS: &[u8] = b"QStartNoAckMode";
/// How LLDB, and never gdb, begins.
const LLDB: &[u8] = b"QThreadSuffixSupported";
/// How it reads the list of threads.
const THREAD_LIST: &[u8] = b"qXfer:threads:read::";
/// What asks for a repetition, and what is said of a packet that is too long.
const REPEAT: u8 = b'-';
const UNSUPPORTED: &[u8] = b"+$#00";
/// What gdb waits for after this packet, and gdbstub leaves out where there is no extended mode.
const KILL: &[u8] = b"vKill";
const DONE: &[u8] = b"$OK#9a";
/// How packets begin that gdb sends on its way to let the CPUs go on: which ways there are, breakpoints, registers, memory, threads.
const BEFORE_GOING_ON: [&[u8]; 8] = [b"vCont?", b"Z", b"z", b"P", b"G", b"M", b"X", b"Hc"];
/// Time between two looks whether something has come: less than a byte takes on a line of 115,200 baud.
const POLL: Duration = Duration::from_micros(20);
/// Said of a thread that cannot be stepped.
const NOT_STEPPED: &[u8] = b"it does not run: set a breakpoint where it goes on (`info frame`), and continue\n";

type Session = GdbStubStateMachine<'static, Kernel, Line>;

struct State {
    kernel: Kernel,
    framer: Framer,
    /// None as long as no gdb has said hello.
    session: Option<Session>,
    /// gdb has sent its Ctrl-C.
    interrupted: bool,
    /// Bytes of a packet came while the CPUs ran: a gdb that begins.
    packet_begun: bool,
}

/// The stub.
pub struct Stub(UnsafeCell<State>);

// SAFETY: `kernel::debug` calls it on one CPU at a time.
unsafe impl Sync for Stub {}

static STUB: Stub = Stub(UnsafeCell::new(State {
    kernel: Kernel::new(),
    framer: Framer::new(),
    session: None,
    interrupted: false,
    packet_begun: false,
}));

/// gdbstub's own buffer for packets.
struct PacketBuffer(UnsafeCell<[u8; PACKET_LIMIT]>);

// SAFETY: lent to one session at a time.
unsafe impl Sync for PacketBuffer {}

static PACKET_BUFFER: PacketBuffer = PacketBuffer(UnsafeCell::new([0; PACKET_LIMIT]));

/// Gives the kernel this stub, which knows the image's commands; false if there is no line to a gdb.
///
/// # Safety
/// As for [`kernel::debug::install`].
pub unsafe fn install(options: &Options<'_>, extra: &'static [Command]) -> bool {
    let view = if options.debugs_cpus_only { View::Cpus } else { View::Threads };
    // SAFETY: the caller's word: nobody uses the stub yet.
    unsafe {
        (*STUB.0.get()).kernel.set_up(view, extra);
        kernel::debug::install(&STUB)
    }
}

impl Debugger for Stub {
    fn attention(&self) -> bool {
        // SAFETY: see `Stub`.
        let state = unsafe { &mut *self.0.get() };
        // From the beginning of a packet on, bytes are read once all are stopped.
        while !state.packet_begun
            && let Some(byte) = Machine::debug_line_read()
        {
            match state.framer.push(byte) {
                Event::Interrupt => state.interrupted = true,
                Event::Begun => state.packet_begun = true,
                _ => {}
            }
        }
        state.interrupted || state.packet_begun
    }

    fn takes_faults(&self) -> bool {
        // SAFETY: as above; only looked at.
        unsafe { (*self.0.get()).session.is_some() }
    }

    fn stopped(&self, stop: &mut Stop) {
        // SAFETY: as above.
        let State { kernel, framer, session, interrupted, packet_begun } = unsafe { &mut *self.0.get() };
        let (was_interrupted, is_new) = (core::mem::take(interrupted), core::mem::take(packet_begun));
        kernel.during(stop, |kernel| {
            let is_message = kernel.stop().reason == Reason::Message;
            if is_message {
                // To a gdb that waits for a stop; if there is none, the console has it.
                deferred::send_output(matches!(session, Some(GdbStubStateMachine::Running(_))) && !is_new);
            }
            if is_message && !was_interrupted && !is_new || goes_on_stepping(kernel, was_interrupted || is_new) {
                return if is_message { kernel.go_on_as_before() } else { kernel.give_orders() };
            }
            *session = session.take().and_then(|session| match session {
                // A packet while everything runs comes from a gdb that the old session knows nothing of.
                GdbStubStateMachine::Running(_) if is_new => None,
                GdbStubStateMachine::Running(running) => {
                    let reason = reason_of(kernel, was_interrupted);
                    kernel.forget_awaited();
                    running.report_stop(kernel, reason).ok()
                }
                session => Some(session),
            });
            *session = converse(kernel, framer, session.take());
        });
    }
}

/// True if what gdb wanted stepped is not done: the thread is elsewhere, or still in the range of addresses.
fn goes_on_stepping(kernel: &mut Kernel, wanted_otherwise: bool) -> bool {
    let (reason, host) = (kernel.stop().reason, kernel.stop().host);
    let hit = match reason {
        Reason::Stepped => None,
        Reason::Hardware(index) => Some(index),
        _ => return false,
    };
    if wanted_otherwise {
        return false;
    }
    let was_awaited = kernel.is_awaited(hit);
    if kernel.awaits_stepped(hit) {
        return true;
    }
    let Some(step) = kernel.range_step.filter(|step| step.cpu == host && (hit.is_none() || was_awaited)) else {
        return false;
    };
    let at = kernel.stop().registers(host).instruction_pointer as u64;
    (step.range.0..step.range.1).contains(&at)
}

/// Why the CPUs stopped, as gdb says it.
fn reason_of(kernel: &mut Kernel, was_interrupted: bool) -> MultiThreadStopReason<u64> {
    let host = kernel.stop().host;
    let tid = kernel.tid_of(host);
    let stop = kernel.stop();
    let signal = |signal| MultiThreadStopReason::SignalWithThread { tid, signal };
    match stop.reason {
        Reason::Attention if was_interrupted => signal(Signal::SIGINT),
        Reason::Attention | Reason::Stepped => signal(Signal::SIGTRAP),
        Reason::Message if was_interrupted => signal(Signal::SIGINT),
        Reason::Watchdog | Reason::Message | Reason::Person => signal(Signal::SIGTRAP),
        Reason::Breakpoint => {
            let at = stop.registers(stop.host).instruction_pointer;
            if stop.has_planted(at) { MultiThreadStopReason::SwBreak(tid) } else { signal(Signal::SIGTRAP) }
        }
        Reason::Hardware(index) => match stop.hardware_breakpoints()[index] {
            Some(hit) if hit.watch != Watch::Execute => {
                let kind = if hit.watch == Watch::Write { WatchKind::Write } else { WatchKind::ReadWrite };
                MultiThreadStopReason::Watch { tid, kind, addr: hit.address as u64 }
            }
            _ => MultiThreadStopReason::HwBreak(tid),
        },
        Reason::Fault { is_access: true } => signal(Signal::SIGSEGV),
        Reason::Fault { is_access: false } => signal(Signal::SIGILL),
    }
}

/// A session that has heard nothing yet, or none if gdbstub refuses its buffer.
fn new_session(kernel: &mut Kernel) -> Option<Session> {
    // SAFETY: the session that had the buffer is gone.
    let buffer = unsafe { &mut *PACKET_BUFFER.0.get() };
    let stub = GdbStub::builder(Line::new()).with_packet_buffer(buffer).build().ok()?;
    stub.run_state_machine(kernel).ok()
}

/// Listens to gdb until it lets the CPUs go on. The session goes on with the next stop, unless gdb has left.
fn converse(kernel: &mut Kernel, framer: &mut Framer, session: Option<Session>) -> Option<Session> {
    let mut session = session;
    // gdb's Ctrl-C can overtake the packets that let the CPUs go on: they stop before they have begun. Before any packet that
    // looks it is late, for a stop that gdb has meanwhile been told of: each time gdb first reads where that was.
    let mut interrupted = false;
    loop {
        session = match session {
            Some(GdbStubStateMachine::Running(running)) if core::mem::take(&mut interrupted) => {
                let cpu = kernel.cpu_to_go_on();
                let tid = kernel.tid_of(cpu);
                let reason = MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGINT };
                running.report_stop(kernel, reason).ok()
            }
            Some(GdbStubStateMachine::Running(running)) => match kernel.take_refused() {
                None => return Some(running.into()),
                Some(tid) => {
                    packet::say(NOT_STEPPED);
                    // Not the signal of a step, or gdb would go on stepping.
                    running
                        .report_stop(kernel, MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGSTOP })
                        .ok()
                }
            },
            Some(GdbStubStateMachine::Disconnected(_)) => {
                kernel.release();
                return None;
            }
            Some(GdbStubStateMachine::CtrlCInterrupt(interrupt)) => {
                interrupt.interrupt_handled(kernel, None::<MultiThreadStopReason<u64>>).ok()
            }
            idle => {
                let Some(byte) = Machine::debug_line_read() else {
                    // Looking all the time would keep an emulated device from what comes for it.
                    spin_until(POLL, || false);
                    session = idle;
                    continue;
                };
                match framer.push(byte) {
                    Event::Packet => {
                        let next = take_packet(kernel, framer, idle);
                        interrupted &= matches!(next, Some(GdbStubStateMachine::Running(_)))
                            || BEFORE_GOING_ON.iter().any(|begin| framer.text().starts_with(begin));
                        next
                    }
                    Event::Interrupt => {
                        interrupted = true;
                        idle
                    }
                    Event::Damaged => {
                        Machine::debug_line_write(REPEAT);
                        idle
                    }
                    Event::TooLong => {
                        UNSUPPORTED.iter().for_each(|&byte| Machine::debug_line_write(byte));
                        idle
                    }
                    _ => idle,
                }
            }
        };
    }
}

/// Gives a whole packet to the session; to a new one if it is how a gdb begins.
fn take_packet(kernel: &mut Kernel, framer: &Framer, session: Option<Session>) -> Option<Session> {
    let mut session = session;
    if framer.text().starts_with(HELLO) || session.is_none() {
        // Nothing of a gdb that is gone shall stay.
        kernel.begin_anew();
        session = new_session(kernel);
    }
    if let (Some(GdbStubStateMachine::Idle(_)), Some(part)) = (&session, framer.text().strip_prefix(THREAD_LIST))
        && kernel.send_thread_list(part)
    {
        return session;
    }
    if framer.text().starts_with(HELLO) {
        packet::add_offers();
    }
    for &byte in framer.packet() {
        session = match session {
            Some(GdbStubStateMachine::Idle(idle)) => idle.incoming_data(kernel, byte).ok(),
            other => other,
        };
    }
    kernel.is_lldb |= framer.text() == LLDB;
    if framer.text() == NO_ACKNOWLEDGEMENTS {
        kernel.acknowledges = false;
    }
    if session.is_none() {
        // gdbstub gives up at what it cannot parse. Whoever sent it is told, and begins anew.
        UNSUPPORTED.iter().for_each(|&byte| Machine::debug_line_write(byte));
    }
    if framer.text().starts_with(KILL) && matches!(session, Some(GdbStubStateMachine::Disconnected(_))) {
        DONE.iter().for_each(|&byte| Machine::debug_line_write(byte));
    }
    session
}
