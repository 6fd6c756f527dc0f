//! Execution groups: the threads of the HRT that have a partner thread in the ROS.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use arch_contract::fault::{Fault, FaultKind, Registers};
use kernel::hybrid::{self, Served, Transport};
use kernel::{cpu, start, thread, time};
use platform::ros_code::{self, groups, is_of_ros};
use platform::{downcall, upcall};
use protocol::call::{REFUSED_CODE, REFUSED_VECTOR, extension};
use protocol::group::{Channel, Group, IDLE, Kind, REMEMBERED, outcome, request, state};
use protocol::system_call;
use wire::snapshot::{ChannelEvent, EventStatistics, GroupState, ServingState};

use crate::polling;

/// Stack of a group's thread, in bytes. The ROS's functions have stacks of the ROS.
const STACK_SIZE: usize = 32 << 10;

static TRANSPORT: Transport = Transport { describe, resolve, polls_for: polling::idle_cycles, runs, served, explain };

/// Lets the kernel see the groups.
pub fn install() {
    hybrid::install(&TRANSPORT);
}

/// Starts a group's CPU and thread. Returns false, and says why, if that fails.
pub fn add(number: u64) -> bool {
    let Some(group) = usize::try_from(number).ok().and_then(|number| groups().nth(number)) else {
        log::warn!("HVM: there is no room for execution group {number}");
        return false;
    };
    let index = number as usize;
    let own_cpus = kernel::boot::information().cpus.len();
    let cpu = match start::start_cpu_of_partner(index, (own_cpus + index) as u32) {
        Ok(cpu) => cpu,
        Err(error) => {
            log::warn!("HVM: execution group {number} cannot be: {error}");
            return false;
        }
    };
    group.cpu.store(cpu as u64, Ordering::Relaxed);
    let name = format!("group {number}");
    let thread = thread::Builder::new(&name).cpu_with_partner(cpu).stack_size(STACK_SIZE);
    match thread.spawn(move || serve(group)) {
        Ok(thread) => {
            group.thread.store(thread.thread().id(), Ordering::Relaxed);
            thread.detach();
            true
        }
        Err(error) => {
            log::warn!("HVM: execution group {number} cannot be: {error}");
            false
        }
    }
}

/// Calls what the partner asks for, for ever.
fn serve(group: &'static Group) {
    ros_code::forward_system_calls(group);
    loop {
        group.state.store(state::READY, Ordering::Release);
        ros_code::done();
        let word = |word: &AtomicU64| word.load(Ordering::Acquire);
        group.outcome.store(outcome::RETURNED, Ordering::Relaxed);
        if word(&group.function) == request::MERGE {
            // SAFETY: the monitor gives the root of tables that it keeps, in the boot state. The
            // lower half was empty, so no CPU has anything of it in its TLB.
            unsafe { upcall::merge(Some(word(&group.arguments[0]))) };
            continue;
        }
        // SAFETY: the partner thread has this function called and answers for what it does, and
        // has given it a stack.
        let result = unsafe { ros_code::call_for(group) };
        group.result.store(result, Ordering::Relaxed);
    }
}

/// The group whose CPU this is.
fn group_here() -> Option<&'static Group> {
    let cpu = cpu::this_index() as u64;
    groups()
        .find(|group| group.state.load(Ordering::Relaxed) == state::RUNNING && group.cpu.load(Ordering::Relaxed) == cpu)
}

/// Whether a group's CPU runs the ROS's function. It may be about to leave, or to come back.
fn runs(cpu: usize) -> bool {
    let is_it = |group: &Group| group.cpu.load(Ordering::Relaxed) == cpu as u64;
    groups().find(|group| is_it(group)).is_some_and(|group| group.state.load(Ordering::Acquire) == state::RUNNING)
}

fn served(thread: u64) -> Option<Served> {
    let is_it = |group: &&Group| {
        group.state.load(Ordering::Acquire) == state::SERVED && group.thread.load(Ordering::Relaxed) == thread
    };
    let group = groups().find(is_it)?;
    let [rbx, rsp, rbp, r12, r13, r14, r15, rip] = group.left_with.each_ref().map(|word| word.load(Ordering::Relaxed));
    let mut registers = Registers {
        instruction_pointer: rip as usize,
        stack_pointer: rsp as usize,
        frame_pointer: rbp as usize,
        ..Registers::default()
    };
    for (name, value) in
        ["rbx", "rsp", "rbp", "r12", "r13", "r14", "r15"].into_iter().zip([rbx, rsp, rbp, r12, r13, r14, r15])
    {
        let place = Registers::names().into_iter().position(|known| known == name);
        place.into_iter().for_each(|place| registers.general[place] = value);
    }
    let number = group.channel.serving[1].load(Ordering::Relaxed);
    Some(Served { registers, name: system_call::name(number), number })
}

fn explain(fault: &Fault) -> Option<&'static str> {
    let is_refused = u64::from(fault.vector) == u64::from(REFUSED_VECTOR) && fault.code == REFUSED_CODE.into();
    is_refused.then_some("an access to memory of the ROS's process that it has not, or not so")
}

fn resolve(fault: &Fault, registers: &mut Registers) -> bool {
    let accessed = match fault.kind {
        FaultKind::Page { address, .. } => address as u64,
        _ => 0,
    };
    let was_absent = fault.code & PAGE_WAS_PRESENT == 0;
    if matches!(fault.kind, FaultKind::Page { .. })
        && was_absent
        && is_of_ros(accessed)
        && downcall::call(extension::OPEN_WINDOW, [accessed, 0]) == 0
    {
        return true;
    }
    let at = fault.registers.instruction_pointer as u64;
    let Some(group) = group_here().filter(|_| is_of_ros(at)) else { return false };
    for (word, value) in group.exception.iter().zip([u64::from(fault.vector), fault.code, at, accessed]) {
        word.store(value, Ordering::Relaxed);
    }
    if group.goes_on.load(Ordering::Relaxed) != 0 {
        registers.go_to(ros_code::leave_for_exception as *const () as usize, registers.stack_pointer);
        return true;
    }
    group.outcome.store(outcome::EXCEPTION, Ordering::Relaxed);
    let [function, stack] = group.way_back.each_ref().map(|word| word.load(Ordering::Relaxed) as usize);
    registers.go_to(function, stack + size_of::<usize>());
    // The function may have set any other flag, also that for single steps.
    registers.flags = FLAGS;
    true
}

/// RFLAGS of a context that leaves a call: the reserved bit, interrupts enabled (SDM Vol. 1,
/// 3.4.3).
const FLAGS: u64 = 1 << 1 | 1 << 9;
/// Bit of a page fault's error code: the page was present (SDM Vol. 3A, 4.7).
const PAGE_WAS_PRESENT: u64 = 1 << 0;

fn describe(list: &mut Vec<GroupState>) {
    for (number, group) in groups().enumerate() {
        let state = group.state.load(Ordering::Acquire);
        if state == state::NONE || list.try_reserve(1).is_err() {
            continue;
        }
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let channel = &group.channel;
        list.push(GroupState {
            number: number as u32,
            state: state::name(state).into(),
            partner: word(&group.partner),
            thread: word(&group.thread),
            cpu: word(&group.cpu) as u32,
            sequence: word(&channel.sequence),
            serving: serving(channel),
            kinds: Kind::ALL.iter().map(|&kind| statistics(channel, kind)).collect(),
            events: events(channel).collect(),
        });
    }
}

fn serving(channel: &Channel) -> Option<ServingState> {
    let [kind, detail, began] = channel.serving.each_ref().map(|word| word.load(Ordering::Acquire));
    let ns = time::cycles_to_ns(time::cycles().saturating_sub(began));
    (kind != IDLE).then(|| ServingState { what: what(kind, detail), ns })
}

/// Says what an event is.
fn what(kind: u64, detail: u64) -> String {
    let Some(kind) = Kind::ALL.into_iter().find(|&known| known as u64 == kind) else {
        return format!("event of kind {kind}");
    };
    match (kind, system_call::name(detail)) {
        (Kind::SystemCall, Some(name)) => name.into(),
        (Kind::SystemCall | Kind::Exception, _) => format!("{} {detail}", kind.name()),
        _ => format!("{} {detail:#x}", kind.name()),
    }
}

fn statistics(channel: &Channel, kind: Kind) -> EventStatistics {
    let statistics = &channel.kinds[kind as usize];
    let classes = statistics.classes.each_ref().map(|class| class.load(Ordering::Relaxed));
    let used = classes.iter().rposition(|&count| count != 0).map_or(0, |last| last + 1);
    EventStatistics {
        kind: kind.name().into(),
        count: statistics.count.load(Ordering::Relaxed),
        ns: time::cycles_to_ns(statistics.cycles.load(Ordering::Relaxed)),
        longest_ns: time::cycles_to_ns(statistics.longest.load(Ordering::Relaxed)),
        classes: classes[..used].to_vec(),
    }
}

fn events(channel: &Channel) -> impl Iterator<Item = ChannelEvent> {
    let latest = channel.sequence.load(Ordering::Acquire);
    (latest.saturating_sub(REMEMBERED as u64 - 1)..=latest).filter_map(|sequence| {
        let [kind, detail, result, began, cycles] = channel.event(sequence)?;
        let (began_ns, ns) = (time::cycles_since_epoch_to_ns(began), time::cycles_to_ns(cycles));
        Some(ChannelEvent { sequence, what: what(kind, detail), result, began_ns, ns })
    })
}
