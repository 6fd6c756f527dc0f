//! Threads, message queues and fibers, which the program refers to by handles.

use abi::{ANY, INVALID, NO_SUCH_CPU, OK, OUT_OF_MEMORY, Status, TIMED_OUT, ThreadOptions};
use kernel::arch::*;
use kernel::cpu;
use kernel::fiber::{Fiber, Fibers};
use kernel::memory;

use kernel::program::objects::{Object, ObjectKind};
use kernel::thread::{self, Builder, JoinHandle, SpawnError};
use kernel::wait::MessageQueue;

use crate::handles::{borrow, keep, reserve, take};
use crate::plain::Handler;
use crate::pointers::{array, for_text, place};
use crate::{attempt, blocking, deadline};

/// A thread that can be joined.
struct Joinable(Option<JoinHandle<()>>);

// SAFETY: no other type has this kind, so a handle of this kind always refers to this type.
unsafe impl Object for Joinable {
    const KIND: ObjectKind = ObjectKind::Thread;
}

pub unsafe extern "C" fn aero_thread_spawn(
    options: *const ThreadOptions,
    body: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    thread: *mut *mut abi::Thread,
) -> Status {
    let Some(function) = body else { return INVALID };
    let mut name = NameBuffer::default();
    let mut builder = Builder::new("");
    if !options.is_null() {
        // SAFETY: by the interface's contract, `options` is readable and unchanged during the call;
        // any bits are a `ThreadOptions`.
        let [options] = attempt!(unsafe { array(options, 1) }) else { return INVALID };
        let length = if options.name.is_null() { 0 } else { options.name_length.min(thread::NAME_LIMIT) };
        // SAFETY: by the interface's contract, the name is readable for its length and unchanged
        // during the call.
        for_text(attempt!(unsafe { array(options.name, length) }), |part| name.push(part));
        builder = Builder::new(name.as_str()).stack_size(options.stack_size);
        if options.cpu != ANY {
            builder = builder.cpu(options.cpu as usize);
        }
    }
    let handler = attempt!(Handler::new(function, argument));
    let run = move || {
        let handler = handler;
        Vectors::reset();
        // SAFETY: the program passed this function with this argument and is responsible for its
        // effects.
        unsafe { (handler.function)(handler.argument) };
    };
    let mut wanted = None;
    if !thread.is_null() {
        // SAFETY: by the interface's contract, `thread` is the program's memory for the handle.
        wanted = Some((attempt!(unsafe { place(thread) }), attempt!(reserve::<Joinable>())));
    }
    let spawned = match builder.spawn(run) {
        Ok(spawned) => spawned,
        Err(SpawnError::NoSuchCpu(_)) => return NO_SUCH_CPU,
        Err(_) => return OUT_OF_MEMORY,
    };
    if let Some((thread, reserved)) = wanted {
        thread.write(keep(reserved, Joinable(Some(spawned))));
    }
    OK
}

/// Buffer in which a thread's name is assembled.
#[derive(Default)]
struct NameBuffer {
    bytes: [u8; thread::NAME_LIMIT],
    length: usize,
}

impl NameBuffer {
    fn push(&mut self, text: &str) {
        let room = self.bytes.len() - self.length;
        let mut cut = text.len().min(room);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        self.bytes[self.length..self.length + cut].copy_from_slice(&text.as_bytes()[..cut]);
        self.length += cut;
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("")
    }
}

pub unsafe extern "C" fn aero_thread_join(thread: *mut abi::Thread, deadline_ns: u64) -> Status {
    let mut joinable = attempt!(take::<Joinable, _>(thread));
    let Some(handle) = joinable.0.take() else { return INVALID };
    if handle.thread().id() == thread::current().id() {
        joinable.0 = Some(handle);
        return INVALID;
    }
    let joined = blocking(|| handle.join_until(deadline(deadline_ns)));
    match joined {
        Ok(Ok(_)) => {
            joinable.remove();
            OK
        }
        Ok(Err(handle)) => {
            // The same holds if the program is ending: its end then takes back the handle.
            joinable.0 = Some(handle);
            TIMED_OUT
        }
        Err(status) => status,
    }
}

pub unsafe extern "C" fn aero_thread_detach(thread: *mut abi::Thread) -> Status {
    attempt!(take::<Joinable, _>(thread)).remove();
    OK
}

pub unsafe extern "C" fn aero_thread_exit() -> ! {
    // SAFETY: by the interface's contract, the program vouches for whatever its thread has lent
    // from the stack; only the program's own memory is at stake.
    unsafe { thread::exit() }
}

pub unsafe extern "C" fn aero_thread_yield() {
    let _ = blocking(thread::yield_now);
}

pub unsafe extern "C" fn aero_thread_sleep(deadline_ns: u64) {
    let _ = blocking(|| thread::sleep_until(deadline(deadline_ns)));
}

pub unsafe extern "C" fn aero_thread_migrate(cpu: u32) -> Status {
    match attempt!(blocking(|| thread::migrate(cpu as usize))) {
        Ok(()) => OK,
        Err(_) => NO_SUCH_CPU,
    }
}

pub unsafe extern "C" fn aero_thread_id() -> u64 {
    thread::current().id()
}

/// A message queue of words.
struct WordQueue(MessageQueue<u64>);

// SAFETY: no other type has this kind, so a handle of this kind always refers to this type.
unsafe impl Object for WordQueue {
    const KIND: ObjectKind = ObjectKind::MessageQueue;
}

pub unsafe extern "C" fn aero_message_queue_create(capacity: usize, queue: *mut *mut abi::MessageQueue) -> Status {
    // SAFETY: by the interface's contract, `queue` is null or the program's memory for the
    // handle.
    let queue = attempt!(unsafe { place(queue) });
    if capacity == 0 {
        return INVALID;
    }
    let reserved = attempt!(reserve());
    let Ok(made) = MessageQueue::new(capacity) else { return OUT_OF_MEMORY };
    queue.write(keep(reserved, WordQueue(made)));
    OK
}

pub unsafe extern "C" fn aero_message_queue_destroy(queue: *mut abi::MessageQueue) -> Status {
    attempt!(take::<WordQueue, _>(queue)).remove();
    OK
}

pub unsafe extern "C" fn aero_message_queue_send(
    queue: *const abi::MessageQueue,
    word: u64,
    deadline_ns: u64,
) -> Status {
    let queue = attempt!(borrow::<WordQueue, _>(queue));
    match attempt!(blocking(|| queue.0.send_until(word, deadline(deadline_ns)))) {
        Ok(()) => OK,
        Err(_) => TIMED_OUT,
    }
}

pub unsafe extern "C" fn aero_message_queue_receive(
    queue: *const abi::MessageQueue,
    word: *mut u64,
    deadline_ns: u64,
) -> Status {
    // SAFETY: by the interface's contract, `word` is null or the program's memory for a word.
    let word = attempt!(unsafe { place(word) });
    let queue = attempt!(borrow::<WordQueue, _>(queue));
    match attempt!(blocking(|| queue.0.receive_until(deadline(deadline_ns)))) {
        Ok(received) => {
            word.write(received);
            OK
        }
        Err(_) => TIMED_OUT,
    }
}

/// A fiber and the id of its thread. At the program's end the thread is gone, so the fiber is
/// abandoned rather than run to its end.
struct OwnedFiber {
    fiber: Option<Fiber<()>>,
    thread: u64,
}

// SAFETY: only the fiber's own thread runs or joins it; another thread drops it only once that
// thread is gone (see `Drop`).
unsafe impl Send for OwnedFiber {}
// SAFETY: `for_caller` hands out the fiber only to its own thread, so a shared reference gives
// other threads no access.
unsafe impl Sync for OwnedFiber {}

// SAFETY: no other type has this kind, so a handle of this kind always refers to this type.
unsafe impl Object for OwnedFiber {
    const KIND: ObjectKind = ObjectKind::Fiber;
}

impl OwnedFiber {
    /// Returns the fiber if the caller is the fiber's own thread.
    fn for_caller(&self) -> Result<&Fiber<()>, Status> {
        let is_its = !cpu::in_interrupt() && self.thread == thread::current().id();
        self.fiber.as_ref().filter(|_| is_its).ok_or(INVALID)
    }
}

impl Drop for OwnedFiber {
    fn drop(&mut self) {
        if let Some(fiber) = self.fiber.take() {
            // SAFETY: either the fiber has ended and its `()` result needs no drop, or its thread
            // is gone because the program has ended.
            unsafe { fiber.abandon() };
        }
    }
}

pub unsafe extern "C" fn aero_fiber_create(
    body: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    stack_size: usize,
    fiber: *mut *mut abi::Fiber,
) -> Status {
    let Some(body) = body else { return INVALID };
    // SAFETY: by the interface's contract, `fiber` is null or the program's memory for the handle.
    let place = attempt!(unsafe { place(fiber) });
    let Some(fibers) = Fibers::of_this_thread() else { return INVALID };
    let run = move || {
        Vectors::reset();
        // SAFETY: the program passed this function with this argument and is responsible for its
        // effects.
        unsafe { body(argument) };
    };
    let reserved = attempt!(reserve());
    let mut made = fibers.create_with_stack(stack_size, run);
    if made.is_err() && memory::reclaim() {
        made = fibers.create_with_stack(stack_size, run);
    }
    match made {
        Ok(made) => {
            place.write(keep(reserved, OwnedFiber { fiber: Some(made), thread: thread::current().id() }));
            OK
        }
        Err(_) => OUT_OF_MEMORY,
    }
}

/// Runs an operation that switches fibers, and keeps the vector control words.
fn switching(operation: impl FnOnce()) {
    let control = Vectors::control();
    operation();
    Vectors::set_control(control);
}

pub unsafe extern "C" fn aero_fiber_yield() {
    if let Some(fibers) = Fibers::of_this_thread() {
        switching(|| fibers.yield_now());
    }
}

pub unsafe extern "C" fn aero_fiber_yield_to(fiber: *const abi::Fiber) -> Status {
    let fiber = attempt!(borrow::<OwnedFiber, _>(fiber));
    let fiber = attempt!(fiber.for_caller());
    switching(|| fiber.yield_to());
    OK
}

pub unsafe extern "C" fn aero_fiber_join(fiber: *mut abi::Fiber) -> Status {
    {
        let fiber = attempt!(borrow::<OwnedFiber, _>(fiber));
        let fiber = attempt!(fiber.for_caller());
        let Some(fibers) = Fibers::of_this_thread().filter(|_| !fiber.is_running()) else { return INVALID };
        while !fiber.has_ended() {
            if thread::is_ending() {
                // The caller does not continue, and the program's end takes back the fiber.
                return INVALID;
            }
            switching(|| fibers.yield_now());
        }
    }
    let mut ended = attempt!(take::<OwnedFiber, _>(fiber)).remove();
    if let Some(fiber) = ended.fiber.take() {
        fiber.join();
    }
    OK
}
