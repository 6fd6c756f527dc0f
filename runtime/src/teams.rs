//! Pools of tasks, and groups: many threads at one thing.

use abi::{ANY, BUSY, INVALID, NO_SUCH_CPU, OK, OUT_OF_MEMORY, Status, TIMED_OUT, TaskOptions};
use kernel::group::Group;
use kernel::task::{Place, Pool, Priority, QueueError};

use crate::owned::{keep, release};
use crate::plain::Handler;
use crate::{attempt, blocking, borrow, deadline};

pub unsafe extern "C" fn aero_pool_create(pool: *mut *mut abi::Pool) -> Status {
    if pool.is_null() {
        return INVALID;
    }
    match Pool::new() {
        // SAFETY: the interface's own condition.
        Ok(made) => unsafe { keep(made, pool) },
        Err(_) => OUT_OF_MEMORY,
    }
}

pub unsafe extern "C" fn aero_pool_queue(
    pool: *const abi::Pool,
    options: *const TaskOptions,
    body: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
) -> Status {
    let Some(function) = body else { return INVALID };
    // SAFETY: the interface's own condition.
    let pool = attempt!(unsafe { borrow::<Pool, _>(pool) });
    let (mut place, mut priority) = (Place::Here, Priority::Normal);
    // SAFETY: the interface's own condition.
    if let Some(options) = unsafe { options.as_ref() } {
        let cpu = if options.cpu == ANY { kernel::cpu::this_index() } else { options.cpu as usize };
        place = if options.pinned == 0 { Place::Near(cpu) } else { Place::Pinned(cpu) };
        priority = match options.priority {
            abi::PRIORITY_HIGH => Priority::High,
            abi::PRIORITY_NORMAL => Priority::Normal,
            abi::PRIORITY_LOW => Priority::Low,
            _ => return INVALID,
        };
    }
    let handler = Handler { function, argument };
    let task = move || {
        let handler = handler;
        // SAFETY: what the program's function does is the program's business.
        unsafe { (handler.function)(handler.argument) };
    };
    match pool.queue(place, priority, task) {
        Ok(()) => OK,
        Err(QueueError::OutOfMemory) => OUT_OF_MEMORY,
        Err(QueueError::NoSuchCpu(_)) => NO_SUCH_CPU,
    }
}

pub unsafe extern "C" fn aero_pool_run_one(pool: *const abi::Pool) -> Status {
    // SAFETY: the interface's own condition.
    Status::from(attempt!(unsafe { borrow::<Pool, _>(pool) }).run_one())
}

pub unsafe extern "C" fn aero_pool_destroy(pool: *mut abi::Pool) -> Status {
    // SAFETY: the interface's own condition.
    if attempt!(unsafe { borrow::<Pool, _>(pool) }).is_worker() {
        return BUSY;
    }
    // SAFETY: the interface's own condition.
    blocking(|| unsafe { release(pool) })
}

pub unsafe extern "C" fn aero_group_create(members: u32, group: *mut *mut abi::Group) -> Status {
    if members == 0 || group.is_null() {
        return INVALID;
    }
    match Group::new(members as usize) {
        // SAFETY: the interface's own condition.
        Ok(made) => unsafe { keep(made, group) },
        Err(_) => OUT_OF_MEMORY,
    }
}

pub unsafe extern "C" fn aero_group_barrier(group: *const abi::Group, deadline_ns: u64) -> Status {
    // SAFETY: the interface's own condition.
    let group = attempt!(unsafe { borrow::<Group, _>(group) });
    blocking(|| group.barrier(deadline(deadline_ns))).map_or(TIMED_OUT, Status::from)
}

/// A group in which there is such a rank.
///
/// # Safety
/// As for [`borrow`].
unsafe fn group_with<'a>(group: *const abi::Group, rank: u32) -> Result<&'a Group, Status> {
    // SAFETY: by the caller's word.
    let group = unsafe { borrow::<Group, _>(group) }?;
    if (rank as usize) < group.size() { Ok(group) } else { Err(INVALID) }
}

pub unsafe extern "C" fn aero_group_share(
    group: *const abi::Group,
    rank: u32,
    word: u64,
    words: *mut u64,
    deadline_ns: u64,
) -> Status {
    // SAFETY: the interface's own condition.
    let group = attempt!(unsafe { group_with(group, rank) });
    if words.is_null() || !words.is_aligned() {
        return INVALID;
    }
    let mut index = 0;
    let each = |given| {
        // SAFETY: the interface's own condition: room for a word of each member.
        unsafe { words.add(index).write(given) };
        index += 1;
    };
    let shared = blocking(|| group.share(rank as usize, word, deadline(deadline_ns), each));
    if shared.is_ok() { OK } else { TIMED_OUT }
}

pub unsafe extern "C" fn aero_group_broadcast(
    group: *const abi::Group,
    rank: u32,
    root: u32,
    word: *mut u64,
    deadline_ns: u64,
) -> Status {
    // SAFETY: the interface's own condition.
    let group = attempt!(unsafe { group_with(group, rank.max(root)) });
    if word.is_null() || !word.is_aligned() {
        return INVALID;
    }
    // SAFETY: the interface's own condition.
    let given = unsafe { word.read() };
    match blocking(|| group.broadcast(rank as usize, root as usize, given, deadline(deadline_ns))) {
        Ok(received) => {
            // SAFETY: as above.
            unsafe { word.write(received) };
            OK
        }
        Err(_) => TIMED_OUT,
    }
}

pub unsafe extern "C" fn aero_group_set_cpus(group: *const abi::Group, cpus: *const u32, count: usize) -> Status {
    // SAFETY: the interface's own condition.
    let group = attempt!(unsafe { borrow::<Group, _>(group) });
    if cpus.is_null() || !cpus.is_aligned() || count == 0 {
        return INVALID;
    }
    // SAFETY: the interface's own condition.
    let cpus = unsafe { core::slice::from_raw_parts(cpus, count) };
    match group.set_cpus(cpus.iter().map(|&cpu| cpu as usize)) {
        Ok(()) => OK,
        Err(_) => NO_SUCH_CPU,
    }
}

pub unsafe extern "C" fn aero_group_follow(group: *const abi::Group, rank: u32) -> Status {
    // SAFETY: the interface's own condition.
    let group = attempt!(unsafe { group_with(group, rank) });
    blocking(|| group.follow(rank as usize));
    OK
}

pub unsafe extern "C" fn aero_group_destroy(group: *mut abi::Group) -> Status {
    // SAFETY: the interface's own condition.
    unsafe { release(group) }
}
