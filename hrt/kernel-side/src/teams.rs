//! Task pools and collectives: many threads at one job.

use abi::{ANY, BUSY, INVALID, NO_SUCH_CPU, OK, OUT_OF_MEMORY, Status, TIMED_OUT, TaskOptions};
use kernel::arch::*;
use kernel::collective::Collective;
use kernel::task::{Place, Pool, Priority, QueueError};

use kernel::program::objects::{Borrowed, Object, ObjectKind};

use crate::handles::{borrow, keep, reserve, take};
use crate::plain::Handler;
use crate::pointers::{array, place};
use crate::{attempt, blocking, deadline};

/// A program's task pool.
struct OwnedPool(Pool);

// SAFETY: no other type has this kind, so a handle of this kind always refers to this type.
unsafe impl Object for OwnedPool {
    const KIND: ObjectKind = ObjectKind::Pool;
}

/// A program's collective.
struct OwnedCollective(Collective);

// SAFETY: no other type has this kind, so a handle of this kind always refers to this type.
unsafe impl Object for OwnedCollective {
    const KIND: ObjectKind = ObjectKind::Collective;
}

pub unsafe extern "C" fn aero_pool_create(pool: *mut *mut abi::Pool) -> Status {
    // SAFETY: by the interface's contract, `pool` is null or the program's memory for the handle.
    let pool = attempt!(unsafe { place(pool) });
    let reserved = attempt!(reserve());
    let Ok(made) = Pool::new() else { return OUT_OF_MEMORY };
    pool.write(keep(reserved, OwnedPool(made)));
    OK
}

pub unsafe extern "C" fn aero_pool_queue(
    pool: *const abi::Pool,
    options: *const TaskOptions,
    body: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
) -> Status {
    let Some(function) = body else { return INVALID };
    let pool = attempt!(borrow::<OwnedPool, _>(pool));
    let (mut place, mut priority) = (Place::Here, Priority::Normal);
    if !options.is_null() {
        // SAFETY: by the interface's contract, `options` is readable and unchanged during the call;
        // any bits are a `TaskOptions`.
        let [options] = attempt!(unsafe { array(options, 1) }) else { return INVALID };
        let cpu = if options.cpu == ANY { kernel::cpu::this_index() } else { options.cpu as usize };
        place = if options.pinned == 0 { Place::Near(cpu) } else { Place::Pinned(cpu) };
        priority = match options.priority {
            abi::PRIORITY_HIGH => Priority::High,
            abi::PRIORITY_NORMAL => Priority::Normal,
            abi::PRIORITY_LOW => Priority::Low,
            _ => return INVALID,
        };
    }
    let handler = attempt!(Handler::new(function, argument));
    let task = move || {
        let handler = handler;
        // The worker has the control words of the thread that ran before it on its CPU, and a
        // thread that runs tasks while it waits wants its own back.
        let control = Vectors::control();
        Vectors::reset();
        // SAFETY: the program passed this function with this argument and is responsible for its
        // effects.
        unsafe { (handler.function)(handler.argument) };
        Vectors::set_control(control);
    };
    match pool.0.queue(place, priority, task) {
        Ok(()) => OK,
        Err(QueueError::OutOfMemory) => OUT_OF_MEMORY,
        Err(QueueError::NoSuchCpu(_)) => NO_SUCH_CPU,
    }
}

pub unsafe extern "C" fn aero_pool_run_one(pool: *const abi::Pool) -> Status {
    Status::from(attempt!(borrow::<OwnedPool, _>(pool)).0.run_one())
}

pub unsafe extern "C" fn aero_pool_destroy(pool: *mut abi::Pool) -> Status {
    {
        // Borrowed rather than taken, because the pool's tasks may still borrow it to queue others
        // until the last one has run.
        let pool = attempt!(borrow::<OwnedPool, _>(pool));
        if pool.0.is_worker() {
            return BUSY;
        }
        attempt!(blocking(|| pool.0.finish()));
    }
    attempt!(take::<OwnedPool, _>(pool)).remove();
    OK
}

pub unsafe extern "C" fn aero_collective_create(members: u32, collective: *mut *mut abi::Collective) -> Status {
    // SAFETY: by the interface's contract, `collective` is null or the program's memory for the
    // handle.
    let collective = attempt!(unsafe { place(collective) });
    if members == 0 {
        return INVALID;
    }
    let reserved = attempt!(reserve());
    let Ok(made) = Collective::new(members as usize) else { return OUT_OF_MEMORY };
    collective.write(keep(reserved, OwnedCollective(made)));
    OK
}

pub unsafe extern "C" fn aero_collective_barrier(collective: *const abi::Collective, deadline_ns: u64) -> Status {
    let collective = attempt!(borrow::<OwnedCollective, _>(collective));
    attempt!(blocking(|| collective.0.barrier(deadline(deadline_ns)))).map_or(TIMED_OUT, Status::from)
}

/// Borrows a collective that has this rank.
fn collective_with(
    collective: *const abi::Collective,
    rank: u32,
) -> Result<Borrowed<'static, OwnedCollective>, Status> {
    let collective = borrow::<OwnedCollective, _>(collective)?;
    if (rank as usize) < collective.0.size() { Ok(collective) } else { Err(INVALID) }
}

pub unsafe extern "C" fn aero_collective_share(
    collective: *const abi::Collective,
    rank: u32,
    word: u64,
    words: *mut u64,
    deadline_ns: u64,
) -> Status {
    let collective = attempt!(collective_with(collective, rank));
    // All of `words` is touched before the exchange begins, so that a program without room for
    // every member's word faults while no operation is half done.
    for index in 0..collective.0.size() {
        // SAFETY: by the interface's contract, `words` is the program's memory for one word per
        // member.
        attempt!(unsafe { place(words.wrapping_add(index)) });
    }
    let mut index = 0;
    let each = |given| {
        // SAFETY: by the interface's contract, `words` has room for one word per member, which the
        // loop above has touched.
        unsafe { words.add(index).write(given) };
        index += 1;
    };
    let shared = attempt!(blocking(|| collective.0.share(rank as usize, word, deadline(deadline_ns), each)));
    if shared.is_ok() { OK } else { TIMED_OUT }
}

pub unsafe extern "C" fn aero_collective_broadcast(
    collective: *const abi::Collective,
    rank: u32,
    root: u32,
    word: *mut u64,
    deadline_ns: u64,
) -> Status {
    let collective = attempt!(collective_with(collective, rank.max(root)));
    // SAFETY: by the interface's contract, `word` is null or the program's memory for a word.
    let word = attempt!(unsafe { place(word) });
    // SAFETY: by the interface's contract, the caller has stored a word there, and any bits are a
    // `u64`.
    let given = unsafe { word.assume_init_read() };
    let broadcast = || collective.0.broadcast(rank as usize, root as usize, given, deadline(deadline_ns));
    match attempt!(blocking(broadcast)) {
        Ok(received) => {
            word.write(received);
            OK
        }
        Err(_) => TIMED_OUT,
    }
}

pub unsafe extern "C" fn aero_collective_set_cpus(
    collective: *const abi::Collective,
    cpus: *const u32,
    count: usize,
) -> Status {
    let collective = attempt!(borrow::<OwnedCollective, _>(collective));
    if count == 0 {
        return INVALID;
    }
    // SAFETY: by the interface's contract, `cpus` is readable for `count` numbers and unchanged
    // during the call.
    let cpus = attempt!(unsafe { array(cpus, count) });
    match collective.0.set_cpus(cpus.iter().map(|&cpu| cpu as usize)) {
        Ok(()) => OK,
        Err(_) => NO_SUCH_CPU,
    }
}

pub unsafe extern "C" fn aero_collective_follow(collective: *const abi::Collective, rank: u32) -> Status {
    let collective = attempt!(collective_with(collective, rank));
    attempt!(blocking(|| collective.0.follow(rank as usize)));
    OK
}

pub unsafe extern "C" fn aero_collective_destroy(collective: *mut abi::Collective) -> Status {
    attempt!(take::<OwnedCollective, _>(collective)).remove();
    OK
}
