//! Threads, channels, timers, interrupts and fibers: the program owns them, by handles into its heap.

use core::ptr::{self, NonNull};

use abi::{ANY, BUSY, INVALID, NO_SUCH_CPU, OK, OUT_OF_MEMORY, Status, TIMED_OUT, ThreadOptions};
use kernel::arch::{Architecture, Machine};
use kernel::fiber;
use kernel::interrupts::{self, RegisterError};
use kernel::thread::{self, Builder, JoinHandle, SpawnError};
use kernel::time::Timer;
use kernel::wait::{Channel, InterruptSafe};
use kernel::{call, program};

use crate::plain::Handler;
use crate::{attempt, blocking, borrow, deadline, for_text};

/// Keeps a value in the calling program's heap and gives the program a handle of it.
///
/// # Safety
/// `handle` is null, or the program's memory for a pointer.
unsafe fn keep<T, H>(value: T, handle: *mut *mut H) -> Status {
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
unsafe fn release<H>(handle: *mut H) -> Status {
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

/// A program's function with a place of its own, for timers and interrupts.
struct Callback(Handler);

// SAFETY: two words that do not change.
unsafe impl Sync for Callback {}
// SAFETY: what its function may do in an interrupt, the interface says.
unsafe impl InterruptSafe for Callback {}

impl Callback {
    fn call(&self) {
        self.0.call_in_interrupt();
    }

    /// In a box that whoever has the registration frees after it.
    fn new(function: Option<unsafe extern "C" fn(*mut u8)>, argument: *mut u8) -> Result<&'static Self, Status> {
        let function = function.ok_or(INVALID)?;
        let boxed = kernel::memory::try_box(Self(Handler { function, argument })).map_err(|_| OUT_OF_MEMORY)?;
        Ok(alloc::boxed::Box::leak(boxed))
    }

    /// # Safety
    /// Nothing can call it any more.
    unsafe fn free(&'static self) {
        // SAFETY: made by `Box::leak`, freed once.
        drop(unsafe { alloc::boxed::Box::from_raw(ptr::from_ref(self).cast_mut()) });
    }
}

struct OwnedTimer {
    timer: Option<Timer>,
    callback: &'static Callback,
}

impl Drop for OwnedTimer {
    fn drop(&mut self) {
        self.timer = None;
        // SAFETY: a dropped timer's function is not called and does not run.
        unsafe { self.callback.free() };
    }
}

pub unsafe extern "C" fn aero_timer_create(
    function: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    timer: *mut *mut abi::Timer,
) -> Status {
    if timer.is_null() {
        return INVALID;
    }
    let callback = attempt!(Callback::new(function, argument));
    let made = Timer::new(callback, Callback::call);
    let owned = OwnedTimer { timer: made.ok(), callback };
    if owned.timer.is_none() {
        return OUT_OF_MEMORY;
    }
    // SAFETY: the interface's own condition.
    unsafe { keep(owned, timer) }
}

/// # Safety
/// Null, misaligned, or a live handle that nobody else uses now.
unsafe fn timer_of<'a>(timer: *mut abi::Timer) -> Option<&'a mut Timer> {
    let owned = timer.cast::<OwnedTimer>();
    if owned.is_null() || !owned.is_aligned() {
        return None;
    }
    // SAFETY: by the caller's word.
    unsafe { (*owned).timer.as_mut() }
}

pub unsafe extern "C" fn aero_timer_set(timer: *mut abi::Timer, deadline_ns: u64) -> Status {
    // SAFETY: the interface's own condition.
    match unsafe { timer_of(timer) } {
        Some(timer) => {
            timer.set(deadline(deadline_ns));
            OK
        }
        None => INVALID,
    }
}

pub unsafe extern "C" fn aero_timer_cancel(timer: *mut abi::Timer) -> Status {
    // SAFETY: the interface's own condition.
    unsafe { timer_of(timer) }.map_or(INVALID, |timer| Status::from(timer.cancel()))
}

pub unsafe extern "C" fn aero_timer_destroy(timer: *mut abi::Timer) -> Status {
    // SAFETY: the interface's own condition.
    unsafe { release(timer) }
}

struct OwnedInterrupt {
    vector: u8,
    callback: &'static Callback,
}

impl Drop for OwnedInterrupt {
    fn drop(&mut self) {
        interrupts::unregister_vector(self.vector);
        // SAFETY: an unregistered handler is not called and does not run.
        unsafe { self.callback.free() };
    }
}

pub unsafe extern "C" fn aero_interrupt_register(
    handler: Option<unsafe extern "C" fn(*mut u8)>,
    argument: *mut u8,
    interrupt: *mut *mut abi::Interrupt,
) -> Status {
    if interrupt.is_null() {
        return INVALID;
    }
    let callback = attempt!(Callback::new(handler, argument));
    match interrupts::register_vector(callback, Callback::call) {
        // SAFETY: the interface's own condition.
        Ok(vector) => unsafe { keep(OwnedInterrupt { vector, callback }, interrupt) },
        Err(error) => {
            // SAFETY: it was not registered.
            unsafe { callback.free() };
            if error == RegisterError::NoFreeVector { BUSY } else { INVALID }
        }
    }
}

pub unsafe extern "C" fn aero_interrupt_send(interrupt: *const abi::Interrupt, cpu: u32) -> Status {
    // SAFETY: the interface's own condition.
    let vector = attempt!(unsafe { borrow::<OwnedInterrupt, _>(interrupt) }).vector;
    let sent = if cpu == ANY { call::broadcast_ipi(vector) } else { call::send_ipi(cpu as usize, vector) };
    if sent.is_ok() { OK } else { NO_SUCH_CPU }
}

pub unsafe extern "C" fn aero_interrupt_unregister(interrupt: *mut abi::Interrupt) -> Status {
    // SAFETY: the interface's own condition.
    unsafe { release(interrupt) }
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
