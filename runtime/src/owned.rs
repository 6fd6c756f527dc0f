//! Threads, channels and fibers: the program owns them, by handles into its heap.

use core::ptr::NonNull;

use abi::{ANY, INVALID, NO_SUCH_CPU, OK, OUT_OF_MEMORY, Status, TIMED_OUT, ThreadOptions};
use kernel::arch::{Architecture, Machine};
use kernel::thread::{self, Builder, JoinHandle, SpawnError};
use kernel::wait::Channel;
use kernel::{fiber, program};

use crate::plain::Handler;
use crate::{attempt, blocking, borrow, deadline, for_text};

/// Keeps a value in the calling program's heap and gives the program a handle of it.
///
/// # Safety
/// `handle` is null, or the program's memory for a pointer.
pub(crate) unsafe fn keep<T, H>(value: T, handle: *mut *mut H) -> Status {
    let Some(program) = program::current() else { return INVALID };
    match program.heap().keep(value) {
        Ok(kept) => {
            // SAFETY: by the caller's word.
            unsafe { handle.write(kept.as_ptr().cast()) };
            OK
        }
        Err(_) => OUT_OF_MEMORY,
    }
}

/// Drops what a handle stands for.
///
/// # Safety
/// The handle came from [`keep`] and is not used again.
pub(crate) unsafe fn release<H>(handle: *mut H) -> Status {
    let (Some(program), Some(block)) = (program::current(), NonNull::new(handle)) else { return INVALID };
    // SAFETY: by the caller's word.
    match unsafe { program.heap().free(block.cast()) } {
        Ok(()) => OK,
        Err(_) => INVALID,
    }
}

/// A thread's handle: taken out when it is joined.
struct Joinable(Option<JoinHandle<()>>);

pub unsafe extern "C" fn aero_thread_spawn(
    options: *const ThreadOptions,
    body: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    thread: *mut *mut abi::Thread,
) -> Status {
    let Some(function) = body else { return INVALID };
    let handler = Handler { function, argument };
    let run = move || {
        let handler = handler;
        Machine::reset_vectors();
        // SAFETY: what the program's function does is the program's business.
        unsafe { (handler.function)(handler.argument) };
    };
    let mut name = NameBuffer::default();
    let mut builder = Builder::new("");
    // SAFETY: the interface's own condition.
    if let Some(options) = unsafe { options.as_ref() } {
        // SAFETY: as above.
        unsafe { for_text(options.name, options.name_length.min(thread::NAME_LIMIT), |part| name.push(part)) };
        builder = Builder::new(name.as_str()).stack_size(options.stack_size);
        if options.cpu != ANY {
            builder = builder.cpu(options.cpu as usize);
        }
    }
    let handle = match builder.spawn(run) {
        Ok(handle) => handle,
        Err(SpawnError::NoSuchCpu(_)) => return NO_SUCH_CPU,
        Err(_) => return OUT_OF_MEMORY,
    };
    if thread.is_null() {
        return OK;
    }
    // SAFETY: the interface's own condition.
    unsafe { keep(Joinable(Some(handle)), thread) }
}

/// A thread's name while it is put together.
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
    let place = thread.cast::<Joinable>();
    if place.is_null() || !place.is_aligned() {
        return INVALID;
    }
    // SAFETY: the interface's own condition: a handle that nobody else uses.
    let Some(handle) = (unsafe { (*place).0.take() }) else { return INVALID };
    match blocking(|| handle.join_until(deadline(deadline_ns))) {
        // SAFETY: joined, so the handle is used up.
        Ok(_) => unsafe { release(thread) },
        Err(handle) => {
            // SAFETY: as above.
            unsafe { (*place).0 = Some(handle) };
            TIMED_OUT
        }
    }
}

pub unsafe extern "C" fn aero_thread_detach(thread: *mut abi::Thread) -> Status {
    // SAFETY: the interface's own condition.
    unsafe { release(thread) }
}

pub unsafe extern "C" fn aero_thread_exit() -> ! {
    thread::exit()
}

pub unsafe extern "C" fn aero_thread_yield() {
    blocking(thread::yield_now);
}

pub unsafe extern "C" fn aero_thread_sleep(deadline_ns: u64) {
    blocking(|| thread::sleep_until(deadline(deadline_ns)));
}

pub unsafe extern "C" fn aero_thread_migrate(cpu: u32) -> Status {
    match blocking(|| thread::migrate(cpu as usize)) {
        Ok(()) => OK,
        Err(_) => NO_SUCH_CPU,
    }
}

pub unsafe extern "C" fn aero_thread_id() -> u64 {
    thread::current().id()
}

pub unsafe extern "C" fn aero_channel_create(capacity: usize, channel: *mut *mut abi::Channel) -> Status {
    if capacity == 0 || channel.is_null() {
        return INVALID;
    }
    match Channel::<u64>::new(capacity) {
        // SAFETY: the interface's own condition.
        Ok(made) => unsafe { keep(made, channel) },
        Err(_) => OUT_OF_MEMORY,
    }
}

pub unsafe extern "C" fn aero_channel_destroy(channel: *mut abi::Channel) -> Status {
    // SAFETY: the interface's own condition.
    unsafe { release(channel) }
}

pub unsafe extern "C" fn aero_channel_send(channel: *const abi::Channel, word: u64, deadline_ns: u64) -> Status {
    // SAFETY: the interface's own condition.
    let channel = attempt!(unsafe { borrow::<Channel<u64>, _>(channel) });
    match blocking(|| channel.send_until(word, deadline(deadline_ns))) {
        Ok(()) => OK,
        Err(_) => TIMED_OUT,
    }
}

pub unsafe extern "C" fn aero_channel_receive(
    channel: *const abi::Channel,
    word: *mut u64,
    deadline_ns: u64,
) -> Status {
    // SAFETY: the interface's own condition.
    let channel = attempt!(unsafe { borrow::<Channel<u64>, _>(channel) });
    if word.is_null() {
        return INVALID;
    }
    match blocking(|| channel.receive_until(deadline(deadline_ns))) {
        Ok(received) => {
            // SAFETY: as above.
            unsafe { word.write(received) };
            OK
        }
        Err(_) => TIMED_OUT,
    }
}

/// A fiber's handle. At the program's end its thread is over, so it is not run to its end but forgotten.
struct OwnedFiber(Option<fiber::Fiber<()>>);

// SAFETY: dropped elsewhere only once its thread is over; see `Drop`.
unsafe impl Send for OwnedFiber {}

impl Drop for OwnedFiber {
    fn drop(&mut self) {
        if let Some(fiber) = self.0.take() {
            // SAFETY: joined fibers were taken out; the others' thread is over, because the program is.
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
    if fiber.is_null() {
        return INVALID;
    }
    let run = move || {
        Machine::reset_vectors();
        // SAFETY: what the program's function does is the program's business.
        unsafe { body(argument) };
    };
    match fiber::create_with_stack(stack_size, run) {
        // SAFETY: the interface's own condition.
        Ok(made) => unsafe { keep(OwnedFiber(Some(made)), fiber) },
        Err(_) => OUT_OF_MEMORY,
    }
}

pub unsafe extern "C" fn aero_fiber_yield() {
    let control = Machine::vector_control();
    fiber::yield_now();
    Machine::set_vector_control(control);
}

pub unsafe extern "C" fn aero_fiber_yield_to(fiber: *const abi::Fiber) -> Status {
    // SAFETY: the interface's own condition.
    let OwnedFiber(Some(fiber)) = attempt!(unsafe { borrow::<OwnedFiber, _>(fiber) }) else { return INVALID };
    let control = Machine::vector_control();
    fiber.yield_to();
    Machine::set_vector_control(control);
    OK
}

pub unsafe extern "C" fn aero_fiber_join(fiber: *mut abi::Fiber) -> Status {
    let place = fiber.cast::<OwnedFiber>();
    if place.is_null() || !place.is_aligned() {
        return INVALID;
    }
    // SAFETY: the interface's own condition: a handle that nobody else uses.
    let Some(made) = (unsafe { (*place).0.take() }) else { return INVALID };
    let control = Machine::vector_control();
    made.join();
    Machine::set_vector_control(control);
    // SAFETY: as above.
    unsafe { release(fiber) }
}
