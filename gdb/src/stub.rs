//! The session with gdb: its state across stops, and the conversation during each.

use core::cell::UnsafeCell;
use core::time::Duration;

use arch_contract::debug::Watch;
use console::Command;
use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{GdbStub, MultiThreadStopReason};
use gdbstub::target::ext::breakpoints::WatchKind;
use kernel::arch::*;
use kernel::command_line::Options;
use kernel::debug::{Debugger, Reason, Stop};
use kernel::time::spin_until;

use crate::deferred;
use crate::framing::{Event, Framer, PACKET_LIMIT};
use crate::packet::{self, Line};
use crate::target::Kernel;
use crate::threads::View;

/// The packet with which gdb begins a session.
const HELLO: &[u8] = b"qSupported";
/// The packet that turns acknowledgements off.
const NO_ACKNOWLEDGEMENTS: &[u8] = b"QStartNoAckMode";
/// A packet that LLDB sends at the beginning of a session and gdb never sends.
const LLDB: &[u8] = b"QThreadSuffixSupported";
/// The prefix of a request for part of the thread list.
const THREAD_LIST: &[u8] = b"qXfer:threads:read::";
/// The byte that requests retransmission.
const REPEAT: u8 = b'-';
/// Acknowledgement and empty reply, for a packet that is too long or that gdbstub cannot parse.
const UNSUPPORTED: &[u8] = b"+$#00";
/// The reply to `vKill`, for which gdb waits and which gdbstub omits without extended mode.
const KILL: &[u8] = b"vKill";
const DONE: &[u8] = b"$OK#9a";
/// Prefixes of the packets that gdb sends just before it resumes CPUs: supported resume actions,
/// breakpoints, registers, memory, thread selection.
const BEFORE_GOING_ON: [&[u8]; 8] = [b"vCont?", b"Z", b"z", b"P", b"G", b"M", b"X", b"Hc"];
/// Polling interval of the line: less than a byte's time at 115,200 baud.
const POLL: Duration = Duration::from_micros(20);
/// Message for a thread that cannot be stepped.
const NOT_STEPPED: &[u8] = b"it does not run: set a breakpoint where it goes on (`info frame`), and continue\n";

type Session = GdbStubStateMachine<'static, Kernel, Line>;

struct State {
    kernel: Kernel,
    framer: Framer,
    /// `None` until a gdb has sent its first packet.
    session: Option<Session>,
    /// A Ctrl-C from gdb has arrived.
    interrupted: bool,
    /// A packet began while the CPUs ran, which means that a new gdb has connected.
    packet_begun: bool,
}

/// The stub.
pub struct Stub(UnsafeCell<State>);

// SAFETY: `kernel::debug` calls the stub on one CPU at a time, so the state is never accessed
// concurrently.
unsafe impl Sync for Stub {}

static STUB: Stub = Stub(UnsafeCell::new(State {
    kernel: Kernel::new(),
    framer: Framer::new(),
    session: None,
    interrupted: false,
    packet_begun: false,
}));

/// The packet buffer that gdbstub borrows.
struct PacketBuffer(UnsafeCell<[u8; PACKET_LIMIT]>);

// SAFETY: `new_session` is the only user, runs on the host only, and lends the buffer to one
// session at a time.
unsafe impl Sync for PacketBuffer {}

static PACKET_BUFFER: PacketBuffer = PacketBuffer(UnsafeCell::new([0; PACKET_LIMIT]));

/// Installs the stub in the kernel and passes it the image's commands. Returns false if there is no
/// line to a debugger.
///
/// # Safety
/// The conditions of [`kernel::debug::install`] hold: the boot CPU calls this once, before other
/// CPUs start.
pub unsafe fn install(options: &Options<'_>, extra: &'static [Command]) -> bool {
    let view = if options.debugs_cpus_only { View::Cpus } else { View::Threads };
    // SAFETY: the caller runs this once, on the boot CPU, before other CPUs start, so no other code
    // uses the stub yet; `kernel::debug::install` requires the same.
    unsafe {
        (*STUB.0.get()).kernel.set_up(view, extra);
        kernel::debug::install(&STUB)
    }
}

impl Debugger for Stub {
    fn attention(&self) -> bool {
        // SAFETY: `kernel::debug` calls the stub on one CPU at a time, so this reference is
        // exclusive.
        let state = unsafe { &mut *self.0.get() };
        // Once a packet has begun, its remaining bytes are read when all CPUs are stopped.
        while !state.packet_begun
            && let Some(byte) = DebugLine::read()
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
        // SAFETY: `kernel::debug` calls the stub on one CPU at a time, and this only reads.
        unsafe { (*self.0.get()).session.is_some() }
    }

    fn stopped(&self, stop: &mut Stop) {
        // SAFETY: `kernel::debug` calls this on the host only, one CPU at a time, so this reference
        // is exclusive.
        let State { kernel, framer, session, interrupted, packet_begun } = unsafe { &mut *self.0.get() };
        let (was_interrupted, is_new) = (core::mem::take(interrupted), core::mem::take(packet_begun));
        kernel.during(stop, |kernel| {
            let is_message = kernel.stop().reason == Reason::Message;
            if is_message {
                // The message reaches gdb only if it waits for a stop; the console has it in any
                // case.
                deferred::send_output(matches!(session, Some(GdbStubStateMachine::Running(_))) && !is_new);
            }
            if is_message && !was_interrupted && !is_new || goes_on_stepping(kernel, was_interrupted || is_new) {
                return if is_message { kernel.go_on_as_before() } else { kernel.give_orders() };
            }
            *session = session.take().and_then(|session| match session {
                // A gdb that waits for a stop sends no packets: this is a new gdb, and the old
                // session is dead.
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

/// Returns true if gdb's step is unfinished: the stepped thread is elsewhere, or still inside the
/// range being stepped over.
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

/// Returns the reason for the stop, in gdb's terms.
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

/// Replaces a session, which gives the packet buffer up, by one at its beginning; `None` if gdbstub
/// fails to start one.
fn new_session(kernel: &mut Kernel, _before: Option<Session>) -> Option<Session> {
    // SAFETY: the previous session, the only other borrower of the buffer, has been moved here and
    // is not used any more.
    let buffer = unsafe { &mut *PACKET_BUFFER.0.get() };
    let stub = GdbStub::builder(Line::new()).with_packet_buffer(buffer).build().ok()?;
    stub.run_state_machine(kernel).ok()
}

/// Talks to gdb until it resumes the CPUs. Returns the session for the next stop, or `None` if gdb
/// has detached.
fn converse(kernel: &mut Kernel, framer: &mut Framer, session: Option<Session>) -> Option<Session> {
    let mut session = session;
    // gdb's Ctrl-C can overtake the packets that resume the CPUs; the CPUs then stop before they
    // have started. Followed by any other packet, the Ctrl-C is stale: gdb has meanwhile been told
    // of a stop and is reading its state, as it does first after each stop.
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
                    // SIGSTOP rather than the signal of a step, or gdb would keep stepping.
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
                let Some(byte) = DebugLine::read() else {
                    // Polling without a pause would keep an emulated device from receiving its
                    // input.
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
                        DebugLine::write(REPEAT);
                        idle
                    }
                    Event::TooLong => {
                        UNSUPPORTED.iter().for_each(|&byte| DebugLine::write(byte));
                        idle
                    }
                    _ => idle,
                }
            }
        };
    }
}

/// Passes a complete packet to the session, or to a new one if the packet begins a session.
fn take_packet(kernel: &mut Kernel, framer: &Framer, session: Option<Session>) -> Option<Session> {
    let mut session = session;
    if framer.text().starts_with(HELLO) || session.is_none() {
        // A new gdb must not inherit breakpoints or orders from the previous one.
        kernel.begin_anew();
        session = new_session(kernel, session);
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
        // gdbstub abandons the session on a packet it cannot parse. Report the packet as
        // unsupported; the debugger's next packet begins a new session.
        UNSUPPORTED.iter().for_each(|&byte| DebugLine::write(byte));
    }
    if framer.text().starts_with(KILL) && matches!(session, Some(GdbStubStateMachine::Disconnected(_))) {
        DONE.iter().for_each(|&byte| DebugLine::write(byte));
    }
    session
}
