//! Partner threads: a thread of this process that calls functions in the HRT runs the CPU on which
//! they run itself, and serves what they cannot do there. The two are an execution group.
//!
//! What runs between two entries of the HRT must be as careful as a signal handler: the function in
//! the HRT uses this thread's errno, its thread-local variables, and may hold the allocator's lock.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_regs;
use protocol::call::{self, CHARACTER_PORT, extension};
use protocol::group::{Begun, Group, Kind, outcome, port, state};
use protocol::upcall::request;

use crate::core::Core;
use crate::kick;
use crate::memory::{END_OF_ROS, Mapping};
use crate::partners::{Partner, PartnerCpu, locked};
use crate::refused::{leave, leave_call};
use crate::runner::{self, Runner};
use crate::serve::{Flow, Forward, Serve};
use crate::state::{CallError, End, Exception, Transaction};
use crate::system_call;
use crate::vcpu::{Exit, Vcpu, now};

/// Stack of a function in the HRT, in bytes.
pub const STACK_SIZE: usize = 256 << 10;
/// Longest interval at which calls are compared with their limit.
const LONGEST_WATCH: Duration = Duration::from_millis(250);
/// A function that makes no step in so many intervals is stuck at an instruction: KVM tries again
/// for ever where Linux has no data for a mapped page, as behind a file's end.
const STEP_TRIES: u32 = 8;
/// Vector of a breakpoint (SDM Vol. 3A, table 6-1).
const BREAKPOINT: u64 = 3;
/// When a call began that has no limit.
const UNLIMITED: u64 = u64::MAX;

/// A thread's part in an execution group. It gives the group back when the thread ends.
struct Membership {
    core: Weak<Core>,
    partner: Arc<Partner>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        // A thread that ends within a call never gets here.
        if let Some(core) = self.core.upgrade()
            && core.is_here()
        {
            locked(&core.partners.free).push(Arc::clone(&self.partner));
        }
    }
}

thread_local! {
    static MINE: RefCell<Vec<Membership>> = const { RefCell::new(Vec::new()) };
    static TELLS_END: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Has a flag set once the calling thread ends within a call, from which it does not come back.
pub fn tell_end(flag: Arc<AtomicBool>) {
    TELLS_END.set(Some(flag));
}

/// Calls a function in the HRT on the calling thread's group.
///
/// # Errors
/// See [`CallError`].
pub fn call(core: &Arc<Core>, function: u64, first: u64, second: u64) -> Result<u64, CallError> {
    if let Some(end) = core.state.over() {
        return Err(CallError::Ended(end));
    }
    // The partner is kept alive by the thread's membership, but that may end meanwhile.
    let partner = match of_this_thread(core) {
        Some(partner) => partner,
        None => {
            core.kicks.admit();
            let partner = join(core)?;
            MINE.with_borrow_mut(|mine| {
                mine.retain(|member| member.core.strong_count() > 0);
                mine.push(Membership { core: Arc::downgrade(core), partner: Arc::clone(&partner) });
            });
            partner
        }
    };
    call_served(core, &partner, function, [first, second], &mut Forward)
}

/// As [`call`], on the group of a partner that is the calling thread, with system calls as the
/// server makes them.
///
/// # Errors
/// See [`CallError`].
pub fn call_served(
    core: &Arc<Core>,
    partner: &Arc<Partner>,
    function: u64,
    arguments: [u64; 2],
    server: &mut dyn Serve,
) -> Result<u64, CallError> {
    let mut taken = match partner.cpu.try_lock() {
        Ok(cpu) => cpu,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        // A signal handler that interrupted this thread's call.
        Err(TryLockError::WouldBlock) => return Err(CallError::Busy(Transaction::Call)),
    };
    let Some(cpu) = &mut *taken else { return Err(CallError::Ended(End::Stopped)) };
    let group = core.group(partner.number);
    if let Some(begun) = cpu.unfinished.take() {
        // What became of it is of no interest any more.
        let _ = finish(core, partner, cpu, group, begun, &mut Forward)?;
    }
    group.function.store(function, Ordering::Relaxed);
    for (word, value) in group.arguments.iter().zip(arguments) {
        word.store(value, Ordering::Relaxed);
    }
    let begun = group.channel.begin(Kind::Call, function, now());
    let ended = finish(core, partner, cpu, group, begun, server);
    if matches!(ended, Err(CallError::Ended(End::Crashed { cpu, .. })) if cpu == core.cpus() + partner.number as u32) {
        run_on(core, partner);
    }
    ended?
}

/// Has a thread of the library run the CPU that has crashed, for the prompt: the partner thread
/// has its own things to do.
fn run_on(core: &Arc<Core>, partner: &Arc<Partner>) {
    let (its, index) = (Arc::clone(partner), core.cpus() + partner.number as u32);
    // Without a thread there is no prompt.
    let runner = Runner::start(index, core, move |core| match &mut *locked(&its.cpu) {
        Some(cpu) => runner::run(index, &mut cpu.vcpu, core),
        None => End::Stopped,
    });
    *locked(&core.partners.join_crashed) = runner.ok().map(|runner| Box::new(|| runner.join()) as Box<_>);
}

/// Whether the calling thread is a partner thread.
pub fn is_one(core: &Arc<Core>) -> bool {
    of_this_thread(core).is_some()
}

/// The calling thread's partner, if it has one.
fn of_this_thread(core: &Arc<Core>) -> Option<Arc<Partner>> {
    MINE.with_borrow(|mine| {
        let is_its = |member: &&Membership| member.core.as_ptr() == Arc::as_ptr(core);
        mine.iter().find(is_its).map(|member| Arc::clone(&member.partner))
    })
}

/// Makes the calling thread the partner of a group that is free, or of a new one.
///
/// # Errors
/// See [`CallError`].
pub fn join(core: &Arc<Core>) -> Result<Arc<Partner>, CallError> {
    let free = locked(&core.partners.free).pop();
    let partner = match free {
        Some(partner) => partner,
        None => make(core)?,
    };
    let taken = locked(&partner.cpu);
    let Some(cpu) = &*taken else { return Err(CallError::Ended(End::Stopped)) };
    let group = core.group(partner.number);
    group.process.store(std::process::id().into(), Ordering::Relaxed);
    group.futex_waiters.store(0, Ordering::Relaxed);
    group.is_wanted.store(0, Ordering::Relaxed);
    group.partner.store(system_call::thread_id(), Ordering::Relaxed);
    // The thread's own variables are reached through FS (System V ABI AMD64, 3.4.2).
    let refused = |error| CallError::Refused(format!("the thread's FS base cannot be set: {error}"));
    let mut special = cpu.vcpu.fd.get_sregs().map_err(refused)?;
    special.fs.base = system_call::fs_base();
    cpu.vcpu.fd.set_sregs(&special).map_err(refused)?;
    drop(taken);
    Ok(partner)
}

/// Makes a group: a CPU, and the HRT's thread on it.
fn make(core: &Arc<Core>) -> Result<Arc<Partner>, CallError> {
    let _making = locked(&core.partners.making);
    let number = locked(&core.partners.all).len() as u64;
    if number >= core.most_groups() {
        return Err(CallError::Refused(format!("the HRT can have {number} execution groups, and has")));
    }
    let refused = |error: crate::Error| CallError::Refused(error.to_string());
    let vcpu = core.take_cpu(core.cpus() + number as u32).map_err(refused)?;
    let stack = Mapping::stack(STACK_SIZE).map_err(refused)?;
    let group = core.group(number);
    group.channel.clear();
    group.partner.store(system_call::thread_id(), Ordering::Relaxed);
    group.stack.store(stack.stack_pointer(), Ordering::Relaxed);
    group.state.store(state::STARTING, Ordering::Release);
    let cpu = Mutex::new(Some(PartnerCpu { vcpu, _stack: stack, unfinished: None }));
    let partner = Arc::new(Partner {
        number,
        cpu,
        since: AtomicU64::new(0),
        gives_up: AtomicU64::new(0),
        entries: Default::default(),
    });
    locked(&core.partners.all).push(Arc::clone(&partner));
    let started = start(core, &partner, group);
    if started.is_err() {
        group.state.store(state::LOST, Ordering::Release);
        // The HRT may have given the start up in the meantime.
        partner.since.store(0, Ordering::Release);
    }
    started.map(|()| partner)
}

/// Has the HRT start a group's CPU and thread.
fn start(core: &Arc<Core>, partner: &Partner, group: &Group) -> Result<(), CallError> {
    watch(core)?;
    core.state.begin_when_idle(Transaction::AddGroup, core.limit)?;
    partner.since.store(now(), Ordering::Release);
    core.send(request::ADD_GROUP, partner.number)?;
    let ran = match &mut *locked(&partner.cpu) {
        Some(cpu) => run(core, partner, cpu, group, &mut Forward),
        None => Err(CallError::Ended(End::Stopped)),
    };
    partner.since.store(0, Ordering::Release);
    if core.answers()?.iter().any(|&answer| answer != 0) {
        return Err(CallError::Failed(Transaction::AddGroup));
    }
    ran
}

/// Runs a call to its end, and returns the function's result. The inner error is the function's.
fn finish(
    core: &Core,
    partner: &Partner,
    cpu: &mut PartnerCpu,
    group: &Group,
    begun: Begun,
    server: &mut dyn Serve,
) -> Result<Result<u64, CallError>, CallError> {
    let since = if server.is_function() { now() } else { UNLIMITED };
    partner.since.store(since, Ordering::Release);
    group.goes_on.store(u64::from(!server.is_function()), Ordering::Relaxed);
    group.state.store(state::RUNNING, Ordering::Release);
    let ran = run(core, partner, cpu, group, server);
    partner.since.store(0, Ordering::Release);
    if let Err(error) = ran {
        if matches!(error, CallError::NoAnswer(_)) {
            group.state.store(state::GIVEN_UP, Ordering::Release);
            cpu.unfinished = Some(begun);
        }
        return Err(error);
    }
    Ok(outcome_of(core, group, begun))
}

/// Ends a call's event and returns how the call ended.
pub fn outcome_of(core: &Core, group: &Group, begun: Begun) -> Result<u64, CallError> {
    let result = group.result.load(Ordering::Relaxed);
    let ended = match group.outcome.load(Ordering::Relaxed) {
        outcome::RETURNED => Ok(result),
        outcome::REFUSED => Err(CallError::RefusedAccess { at: group.exception[2].load(Ordering::Relaxed) }),
        _ => {
            let [vector, code, at, address] = group.exception.each_ref().map(|word| word.load(Ordering::Relaxed));
            core.end_event(group, group.channel.begin(Kind::Exception, vector, now()), at);
            Err(CallError::Exception(Exception { vector: vector as u8, code, at, address }))
        }
    };
    core.end_event(group, begun, result);
    ended
}

/// Runs the group's CPU until its context is done with the call.
fn run(
    core: &Core,
    partner: &Partner,
    cpu: &mut PartnerCpu,
    group: &Group,
    server: &mut dyn Serve,
) -> Result<(), CallError> {
    let ended = |end| Err(CallError::Ended(core.state.end(end)));
    let index = core.cpus() + partner.number as u32;
    let mut tries = 0;
    loop {
        server.before_entry(&mut cpu.vcpu);
        partner.entries[0].store(partner.entries[0].load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        let exit = cpu.vcpu.run();
        match exit {
            // A process may not do that.
            Exit::Out { .. } | Exit::In { .. } if !server.is_function() && is_in_process(&mut cpu.vcpu) => {
                refused(core, cpu, group, server);
            }
            Exit::Out { port: SYSTEM_CALL, .. } => serve_system_call(core, partner, cpu, group, server),
            Exit::Out { port: EXCEPTION, .. } => serve_exception(core, cpu, group, server),
            Exit::Out { port: DONE, .. } => {
                if tries > 0 {
                    step(cpu, false)?;
                }
                return Ok(());
            }
            Exit::Out { port: PORT, .. } => match downcall(core, index, cpu, group) {
                None => {}
                Some(crash @ End::Crashed { .. }) => return Err(CallError::Ended(crash)),
                Some(end) => return ended(end),
            },
            Exit::Out { port: CHARACTER_PORT, byte } => core.state.say(byte),
            Exit::Interrupted => server.interrupted(&mut cpu.vcpu),
            Exit::Step => {}
            Exit::Refused if is_in_process(&mut cpu.vcpu) => refused(core, cpu, group, server),
            Exit::Refused if cpu.vcpu.refuse_access() => {}
            Exit::Shutdown if core.revive(&mut cpu.vcpu) => {}
            Exit::Shutdown => return ended(End::TripleFault { cpu: index }),
            exit => return ended(End::Failed { cpu: index, why: exit.describe(cpu.vcpu.registers().rip) }),
        }
        if partner.gives_up.load(Ordering::Relaxed) == partner.since.load(Ordering::Relaxed) {
            if let Some(end) = core.state.over() {
                return Err(CallError::Ended(end));
            }
            // Whether the function makes one more step, or is stuck at its instruction.
            if tries == 0 {
                step(cpu, true)?;
            } else if exit != Exit::Interrupted || cpu.vcpu.registers().rip >= END_OF_ROS {
                step(cpu, false)?;
                return Err(CallError::NoAnswer(core.limit));
            } else if tries == STEP_TRIES {
                step(cpu, false)?;
                tries = 0;
                refused(core, cpu, group, server);
                // Its limit begins anew.
                partner.since.store(now(), Ordering::Relaxed);
                continue;
            }
            tries += 1;
        }
    }
}

/// Whether a CPU runs code of the process, and not the kernel's.
fn is_in_process(cpu: &mut Vcpu) -> bool {
    cpu.registers().rip < END_OF_ROS
}

/// The ports as KVM has them.
const SYSTEM_CALL: u16 = port::SYSTEM_CALL as u16;
const DONE: u16 = port::DONE as u16;
const EXCEPTION: u16 = port::EXCEPTION as u16;
const PORT: u16 = call::PORT as u16;

/// Makes the CPU leave the HRT after each instruction, or no longer.
fn step(cpu: &PartnerCpu, on: bool) -> Result<(), CallError> {
    cpu.vcpu.step(on).map_err(|error| CallError::Refused(format!("the HRT's CPU cannot be stepped: {error}")))
}

/// Makes the system call that the HRT asks for.
fn serve_system_call(core: &Core, partner: &Partner, cpu: &mut PartnerCpu, group: &Group, server: &mut dyn Serve) {
    let registers = cpu.vcpu.registers();
    let number = registers.rax;
    let begun = group.channel.begin(Kind::SystemCall, number, now());
    // SYSCALL leaves in RCX where the function goes on (SDM Vol. 2B).
    let kvm_regs { rbx, rsp, rbp, r12, r13, r14, r15, rcx, .. } = *registers;
    for (word, value) in group.left_with.iter().zip([rbx, rsp, rbp, r12, r13, r14, r15, rcx]) {
        word.store(value, Ordering::Relaxed);
    }
    group.state.store(state::SERVED, Ordering::Release);
    if number == libc::SYS_exit as u64 && server.is_function() {
        // The thread does not come back.
        group.state.store(state::LOST, Ordering::Release);
        partner.since.store(0, Ordering::Release);
        TELLS_END.with_borrow(|flag| flag.iter().for_each(|flag| flag.store(true, Ordering::Release)));
    }
    let flow = server.system_call(&mut cpu.vcpu);
    let result = cpu.vcpu.registers().rax;
    cpu.vcpu.use_registers();
    core.end_event(group, begun, result);
    group.state.store(state::RUNNING, Ordering::Release);
    if flow == Flow::Leave {
        leave(&mut cpu.vcpu, group);
    }
}

/// Serves a downcall. Returns how the HRT ended, if it did.
fn downcall(core: &Core, index: u32, cpu: &mut PartnerCpu, group: &Group) -> Option<End> {
    let registers = cpu.vcpu.registers();
    let begun =
        (registers.rcx == extension::OPEN_WINDOW).then(|| group.channel.begin(Kind::Window, registers.rdx, now()));
    let end = core.downcall(index, &mut cpu.vcpu);
    begun.into_iter().for_each(|begun| core.end_event(group, begun, cpu.vcpu.registers().rax));
    end
}

/// Does what an access that Linux refuses is to have for an effect.
fn refused(core: &Core, cpu: &mut PartnerCpu, group: &Group, server: &mut dyn Serve) {
    if !core.faults_as_in_process {
        return leave_call(core, &mut cpu.vcpu, group);
    }
    let begun = group.channel.begin(Kind::RefusedAccess, cpu.vcpu.registers().rip, now());
    let was_done = server.execute(&mut cpu.vcpu);
    core.end_event(group, begun, u64::from(was_done));
    if !was_done {
        leave_call(core, &mut cpu.vcpu, group);
    }
}

/// Gives an exception of a program's thread the effect that it has in a process.
fn serve_exception(core: &Core, cpu: &mut PartnerCpu, group: &Group, server: &mut dyn Serve) {
    let [vector, _, at, _] = group.exception.each_ref().map(|word| word.load(Ordering::Relaxed));
    let begun = group.channel.begin(Kind::Exception, vector, now());
    // A breakpoint is a trap: it is reported behind its instruction (SDM Vol. 3A, 6.5).
    cpu.vcpu.registers().rip = if vector == BREAKPOINT { at - 1 } else { at };
    cpu.vcpu.use_registers();
    let was_done = server.execute(&mut cpu.vcpu);
    core.end_event(group, begun, u64::from(was_done));
    if !was_done {
        leave_call(core, &mut cpu.vcpu, group);
    }
}

/// Starts the thread that ends calls at their limit, unless it runs.
fn watch(core: &Arc<Core>) -> Result<(), CallError> {
    let mut watch = locked(&core.partners.watch);
    if watch.is_none() {
        let kicks = core.kicks;
        kicks.ignore();
        let weak = Arc::downgrade(core);
        let run = move || {
            kicks.take_no_others();
            weak.upgrade().into_iter().for_each(|core| core.hardware.descriptors.keep_apart());
            let mut ended_at = None;
            while let Some(core) = weak.upgrade() {
                if core.state.over().is_some() {
                    // A thread that has blocked the signal, or that Linux does not let go, stays.
                    let is_over = ended_at.get_or_insert_with(Instant::now).elapsed() > core.limit;
                    if is_over {
                        return;
                    }
                }
                if !watch_once(&core) {
                    return;
                }
            }
        };
        let started = thread::Builder::new().name("hrt-watch".into()).spawn(run);
        *watch = Some(started.map_err(|why| CallError::Refused(format!("no thread can watch the calls: {why}")))?);
    }
    Ok(())
}

/// Makes the calls that are past their limit, or whose HRT has ended, leave the HRT. Returns false
/// once the HRT has ended and none is left.
fn watch_once(core: &Core) -> bool {
    let has_ended = core.state.over().is_some();
    let limit = core.cycles(core.limit);
    let (mut has_late, is_stopped) = (false, !has_ended && core.is_stopped());
    for partner in locked(&core.partners.all).iter() {
        let since = partner.since.load(Ordering::Acquire);
        if is_stopped && since != 0 && since != UNLIMITED {
            // The limit begins anew, unless the call has just ended.
            let _ = partner.since.compare_exchange(since, now(), Ordering::AcqRel, Ordering::Relaxed);
        } else if since == UNLIMITED && !has_ended {
            look_at(core, partner);
        } else if since != 0 && (has_ended || now().saturating_sub(since) > limit) {
            partner.gives_up.store(since, Ordering::Relaxed);
            core.kicks.kick(core.group(partner.number).partner.load(Ordering::Relaxed));
            has_late = true;
        }
    }
    if has_late {
        thread::sleep(kick::INTERVAL);
    } else if has_ended {
        return false;
    } else {
        core.state.wait((core.limit / 4).clamp(kick::INTERVAL, LONGEST_WATCH));
    }
    true
}

/// Nudges a program's thread that has not left the HRT since the last look.
fn look_at(core: &Core, partner: &Partner) {
    let [entries, looked] = &partner.entries;
    let count = entries.load(Ordering::Relaxed);
    let group = core.group(partner.number);
    if looked.swap(count, Ordering::Relaxed) == count && group.state.load(Ordering::Relaxed) == state::RUNNING {
        let thread = group.partner.load(Ordering::Relaxed);
        // Where the program has blocked the nudge's signal, it would only find it later.
        if !kick::blocks_nudges(thread) {
            kick::nudge(thread);
        }
    }
}

/// Waits until no thread of the process is in the HRT, which has ended.
pub fn join_all(core: &Core) {
    let watch = locked(&core.partners.watch).take();
    if let Some(watch) = watch {
        let _ = watch.join();
    }
    let join = locked(&core.partners.join_crashed).take();
    join.into_iter().for_each(|join| join());
}

/// Takes the CPUs from the groups of an HRT that was stopped. A CPU that a thread still has, which
/// Linux does not let go, stays with it.
pub fn give_back(core: &Core) {
    for partner in locked(&core.partners.all).iter() {
        let taken = match partner.cpu.try_lock() {
            Ok(mut taken) => taken.take(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(cpu) = taken {
            core.hardware.keep_cpu(core.cpus() + partner.number as u32, cpu.vcpu);
        }
    }
}
