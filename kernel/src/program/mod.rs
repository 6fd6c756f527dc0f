//! Programs: running images built by runtime developers, with their threads, what they own, and how
//! they end.
//!
//! A program runs in kernel mode like all other code; what sets it apart is that the kernel takes
//! back everything it owned when it ends. A program ends when its main function returns, or when it
//! exits, faults or is killed. A supervisor thread of the kernel then ends its other threads: a
//! thread in the program's own code at its next interrupt, a waiting thread by a forced timeout,
//! after which the interface function that waited does not return. No thread is ended inside the
//! kernel's code.

mod archive;
mod deadlock;
mod end;
mod failure;
pub mod heap;
pub mod image;
pub mod objects;
mod regions;
mod table;
mod thread_locals;

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use arrayvec::{ArrayString, ArrayVec};

use crate::arch::*;
use crate::cpu;
use crate::lock::{InterruptGuard, SpinLock};
use crate::memory::{self, OutOfMemory, Placement};
use crate::scheduler::mailbox::Linked;
use crate::symbols::{self, Names};
use crate::thread::owner::{self, Functions, Owner};
use crate::thread::{self, Builder, JoinHandle, NAME_LIMIT, SpawnError, Thread};
use crate::time::Deadline;
use crate::wait::Event;
pub use archive::{File, files};
use deadlock::EndedLately;
use end::KILL_LIMIT;
pub use end::Left;
pub(crate) use failure::contain;
pub use failure::{fail_current, fail_handler};
use heap::{Heap, Usage};
use image::{Image, LoadError};
use objects::Objects;

/// Longest failure reason kept of a program, in bytes.
const REASON_LIMIT: usize = 160;
/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its main function returned this status, or it exited with it.
    Exited(i32),
    /// It was killed.
    Killed,
    /// It faulted or panicked, for this reason.
    Failed(ArrayString<REASON_LIMIT>),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Killed => f.write_str("was killed"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// A running program.
#[repr(C)]
pub struct Program {
    /// The part that threads and the scheduler know. It must be the first field; see [`Owner`].
    owner: Owner,
    id: u64,
    name: ArrayString<NAME_LIMIT>,
    code: Code,
    /// The program's function names, in the format of [`symbols`].
    symbols: &'static [u8],
    file_name: &'static str,
    heap: Heap,
    objects: Objects,
    /// The argument block in the program's heap.
    arguments: AtomicPtr<u8>,
    /// Number of threads that have not ended.
    threads: AtomicUsize,
    /// Threads that ended after the program began to end, linked through [`Thread`]'s own link.
    /// Each is kept with its stack until no thread is left.
    ended: AtomicPtr<Thread>,
    /// Number of threads in [`Program::remove_thread`]. The supervisor waits for them, as they
    /// still touch the program.
    leaving: AtomicUsize,
    /// Number of the program's functions that devices may call.
    handlers: AtomicUsize,
    /// Number of calls of the program's functions that CPUs were asked to make and have not
    /// returned from.
    calls: AtomicUsize,
    outcome: SpinLock<Option<Outcome>>,
    /// Signalled when the program begins to end, and each time one of its threads has ended.
    changed: Event,
    /// Latched when the supervisor is done: everything has been given back, or is kept because it
    /// may still be in use.
    finished: Event,
    ended_lately: EndedLately,
    /// The thread that waits for the program's end.
    supervisor: SpinLock<Option<JoinHandle<()>>>,
    /// What the program left behind at its end.
    left: SpinLock<Left>,
    started_at: AtomicU64,
}

/// The code that a program runs.
#[expect(clippy::large_enum_variant, reason = "nearly all are images")]
enum Code {
    /// An image that was loaded for it.
    Image(Image),
    /// A function of the kernel's own image.
    Function(fn() -> i32),
}

impl Code {
    fn image(&self) -> Option<&Image> {
        match self {
            Self::Image(image) => Some(image),
            Self::Function(_) => None,
        }
    }
}

/// All running programs.
static RUNNING: SpinLock<ArrayVec<Arc<Program>, { image::IMAGE_LIMIT }>> = SpinLock::new(ArrayVec::new_const());

/// Why a program did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// Its image was refused.
    Load(LoadError),
    /// There is not enough memory for it or its first threads.
    OutOfMemory,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => error.fmt(f),
            Self::OutOfMemory => f.write_str("out of memory for its threads"),
        }
    }
}

impl From<LoadError> for StartError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

impl From<OutOfMemory> for StartError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<SpawnError> for StartError {
    fn from(_: SpawnError) -> Self {
        Self::OutOfMemory
    }
}

/// Loads a file and runs its main function with `arguments`, preceded by the file's name. `resolve`
/// looks up the interface's functions by name.
///
/// # Errors
/// See [`StartError`]; nothing of the program is left then.
///
/// # Safety
/// The file holds a program whose code may run in kernel mode, and `resolve` returns functions that
/// behave as their names say.
pub unsafe fn start(
    file: &File,
    arguments: &[&str],
    resolve: &dyn Fn(&str) -> Option<usize>,
) -> Result<Arc<Program>, StartError> {
    let image = Image::load(file.elf, resolve)?;
    let program = Program::new(file.name, Code::Image(image), file.symbols)?;
    let values = program.keep_arguments(file.name, arguments)?;
    program.arguments.store(values, Ordering::Relaxed);
    launch(program, arguments.len() + 1)
}

/// Runs a function of the kernel's own image as a program, with everything that a program has and
/// its cleanup at the end.
///
/// # Errors
/// See [`StartError`]; nothing of the program is left then.
pub fn start_function(name: &'static str, function: fn() -> i32) -> Result<Arc<Program>, StartError> {
    launch(Program::new(name, Code::Function(function), &[])?, 0)
}

fn launch(program: Arc<Program>, count: usize) -> Result<Arc<Program>, StartError> {
    let mut running = RUNNING.lock();
    running.try_push(program.clone()).map_err(|_| LoadError::TooMany)?;
    drop(running);
    if let Some(image) = program.code.image() {
        symbols::add(Names { program: program.file_name, table: program.symbols, addresses: image.addresses() });
    }
    images_changed();
    let supervised = program.clone();
    let supervisor = Builder::new("supervisor").spawn(move || end::supervise(&supervised));
    match supervisor {
        Ok(handle) => *program.supervisor.lock() = Some(handle),
        Err(error) => {
            forget(&program);
            return Err(error.into());
        }
    }
    let started = program.start_main(count);
    program.remove_thread();
    if let Err(error) = started {
        program.end(Outcome::Killed);
        let _ = program.finished.wait_until(Deadline::after(KILL_LIMIT));
        return Err(error);
    }
    Ok(program)
}

fn try_arc<T>(value: T) -> Result<Arc<T>, OutOfMemory> {
    // `Arc::try_new` is not stable. A box that is at least as large shows whether there is memory.
    drop(memory::try_box(core::mem::MaybeUninit::<[T; 2]>::uninit())?);
    Ok(Arc::new(value))
}

/// Removes a program from the list of running programs and from the symbol tables.
fn forget(program: &Arc<Program>) {
    RUNNING.lock().retain(|other| !Arc::ptr_eq(other, program));
    symbols::remove(program.image_start());
    images_changed();
}

/// Does nothing. A debugger sets a breakpoint here to learn that a program has been loaded but has
/// not run yet, or is gone (`gdb/aerokernel.py`).
#[inline(never)]
fn images_changed() {
    core::hint::black_box(());
}

/// A program's side of [`Owner`]: the functions that threads and the scheduler call.
static OWNER_FUNCTIONS: Functions = Functions {
    // SAFETY: `Functions` are only called with the owner that holds them, a program's, which
    // outlives the call.
    is_code: |owner, address| unsafe { program_of(owner) }.is_code(address),
    // SAFETY: `Functions` are only called with the owner that holds them, a program's, which
    // outlives the call.
    join: |owner| unsafe { program_of(owner) }.add_thread(),
    // SAFETY: `Functions` are only called with the owner that holds them, a program's, which
    // outlives the call.
    leave: |owner, thread| unsafe { program_of(owner) }.thread_has_ended(thread),
};

/// Returns the program that contains an owner.
///
/// # Safety
/// The owner has [`OWNER_FUNCTIONS`], which only a program gives it, and its program outlives the
/// reference.
unsafe fn program_of<'a>(owner: *const Owner) -> &'a Program {
    // SAFETY: the owner is the first field of its program, which is `repr(C)`, and the caller
    // guarantees that the program outlives the reference.
    unsafe { &*owner.cast() }
}

impl Program {
    /// Returns the program as the owner of its threads; also serves as an address to compare.
    fn as_owner(&self) -> *const Owner {
        ptr::from_ref(self).cast()
    }

    fn new(name: &'static str, code: Code, symbols: &'static [u8]) -> Result<Arc<Self>, StartError> {
        let id = thread::next_id();
        let mut kept = ArrayString::new();
        name.chars().take_while(|&character| kept.try_push(character).is_ok()).for_each(drop);
        let program = Self {
            owner: Owner::new(&OWNER_FUNCTIONS),
            id,
            name: kept,
            code,
            symbols,
            file_name: name,
            heap: Heap::new(id as u32)?,
            objects: Objects::new(id),
            arguments: AtomicPtr::new(ptr::null_mut()),
            // Counts the caller of `launch`, so that the program does not end before its first
            // thread exists.
            threads: AtomicUsize::new(1),
            ended: AtomicPtr::new(ptr::null_mut()),
            leaving: AtomicUsize::new(0),
            handlers: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            outcome: SpinLock::new(None),
            changed: Event::new(),
            finished: Event::new(),
            ended_lately: EndedLately::new(),
            supervisor: SpinLock::new(None),
            left: SpinLock::new(Left::default()),
            started_at: AtomicU64::new(crate::time::now_ns()),
        };
        Ok(try_arc(program)?)
    }

    /// Returns the program's number, from the same sequence as thread numbers.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the program's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of threads that have not ended.
    pub fn threads(&self) -> usize {
        self.started_threads()
    }

    /// Returns what the program has allocated now.
    pub fn usage(&self) -> Usage {
        self.heap.usage()
    }

    /// Returns the program's heap.
    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    /// Returns the program's objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Returns the time at which the program was started, in ns.
    pub fn started_at_ns(&self) -> u64 {
        self.started_at.load(Ordering::Relaxed)
    }

    /// Returns the address of the program's image; 0 if its code is the kernel's.
    pub fn image_start(&self) -> usize {
        self.code.image().map_or(0, Image::start)
    }

    /// Returns the instruction set that the program was built for, if the image names one.
    fn instruction_set(&self) -> Option<&str> {
        self.code.image().and_then(Image::instruction_set)
    }

    fn is_code(&self, address: usize) -> bool {
        self.code.image().is_some_and(|image| image.is_code(address))
    }

    /// Returns true once the program is ending.
    pub fn is_ending(&self) -> bool {
        self.owner.is_ending()
    }

    /// Returns how the program ended or is ending; `None` while it runs.
    pub fn outcome(&self) -> Option<Outcome> {
        *self.outcome.lock()
    }

    /// Returns what the program left behind at its end.
    pub fn left(&self) -> Left {
        *self.left.lock()
    }

    /// Waits until the program has ended, everything it owned has been given back, and its
    /// supervisor has ended too.
    ///
    /// # Errors
    /// [`crate::wait::TimedOut`].
    pub fn wait_until(&self, deadline: Deadline) -> Result<(), crate::wait::TimedOut> {
        self.finished.wait_until(deadline)?;
        // The supervisor has latched `finished` and is about to end.
        let supervisor = self.supervisor.lock().take();
        if let Some(Err(still_there)) = supervisor.map(|handle| handle.join_until(deadline)) {
            *self.supervisor.lock() = Some(still_there);
            return Err(crate::wait::TimedOut);
        }
        Ok(())
    }

    /// Makes the program end. The first outcome counts. Callable in any context.
    pub fn end(&self, outcome: Outcome) {
        self.outcome.lock().get_or_insert(outcome);
        self.owner.set_ending();
        self.changed.signal();
    }

    fn started_threads(&self) -> usize {
        self.threads.load(Ordering::SeqCst)
    }

    /// Counts a new thread. Returns its thread pointer, where its thread-local variables end; 0 if
    /// the program has none.
    fn add_thread(&self) -> Result<usize, OutOfMemory> {
        let thread_pointer = self.make_thread_locals()?;
        self.threads.fetch_add(1, Ordering::Relaxed);
        Ok(thread_pointer)
    }

    /// Handles the end of one of the program's threads.
    fn thread_has_ended(&self, thread: &'static Thread) {
        if self.is_ending() {
            // Other threads may still use what this one lent them from its stack, since it was
            // ended and did not return.
            thread.add_reference();
            self.keep_thread(thread);
        } else {
            self.ended_lately.note(thread);
            self.free_thread_locals(thread);
        }
        self.remove_thread();
    }

    /// Keeps an ended thread, with a reference to it, until all have ended.
    fn keep_thread(&self, thread: &'static Thread) {
        let link = |first: *mut Thread| {
            thread.next().store(first, Ordering::Relaxed);
            Some(ptr::from_ref(thread).cast_mut())
        };
        let _ = self.ended.fetch_update(Ordering::Release, Ordering::Relaxed, link);
    }

    /// Uncounts an ended thread: the last access to the program on its behalf. `leaving` tells the
    /// supervisor that the thread count has reached zero but the program is still being touched.
    fn remove_thread(&self) {
        self.leaving.fetch_add(1, Ordering::SeqCst);
        self.threads.fetch_sub(1, Ordering::SeqCst);
        self.changed.signal();
        self.leaving.fetch_sub(1, Ordering::Release);
    }

    /// Notes that a device may call a function of the program from now on.
    pub fn add_handler(&self) {
        self.handlers.fetch_add(1, Ordering::Relaxed);
    }

    /// Reverts [`Program::add_handler`].
    pub fn remove_handler(&self) {
        self.handlers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that a CPU is asked to run a function of the program. While the result exists, nothing
    /// of the program is given back.
    pub fn begin_call(&'static self) -> CallUnderWay {
        self.calls.fetch_add(1, Ordering::Relaxed);
        CallUnderWay(self)
    }

    fn for_each_thread(&self, mut each: impl FnMut(&Thread)) {
        for cpu in cpu::all() {
            let registry = cpu.registry.lock();
            registry.iter().filter(|thread| ptr::eq(thread.owner(), self.as_owner())).for_each(&mut each);
        }
    }

    /// Builds an argument vector: a null-terminated array of pointers followed by the C strings,
    /// all in one block of the program's heap.
    fn keep_arguments(&self, name: &str, arguments: &[&str]) -> Result<*mut u8, OutOfMemory> {
        let texts = || core::iter::once(&name).chain(arguments);
        let pointers = (arguments.len() + 2) * size_of::<*const u8>();
        let size = pointers + texts().map(|text| text.len() + 1).sum::<usize>();
        let block = self.heap.allocate(size, align_of::<*const u8>(), Placement::Near)?.as_ptr();
        // SAFETY: the block was allocated with room for the pointers, a null pointer, and behind
        // them each text with its terminating zero.
        unsafe {
            let mut text_at = block.add(pointers);
            for (index, text) in texts().enumerate() {
                block.cast::<*const u8>().add(index).write(text_at);
                text_at.copy_from_nonoverlapping(text.as_ptr(), text.len());
                text_at.add(text.len()).write(0);
                text_at = text_at.add(text.len() + 1);
            }
            block.cast::<*const u8>().add(arguments.len() + 1).write(ptr::null());
        }
        Ok(block)
    }

    fn start_main(self: &Arc<Self>, count: usize) -> Result<(), StartError> {
        let stack_size = self.code.image().map_or(0, |image| image.program().stack_size);
        let owner = Arc::as_ptr(self) as usize;
        let body = move || {
            // SAFETY: a program outlives its threads, and this closure runs on one of them.
            let program = unsafe { &*(owner as *const Self) };
            Vectors::reset();
            program.end(Outcome::Exited(program.run_main(count)));
        };
        let main_name = format!("{}/main", self.name);
        // SAFETY: the caller holds a reference to the program, so the owner lives until the new
        // thread counts as its own.
        let builder = unsafe { Builder::new(&main_name).stack_size(stack_size).owner(self.as_owner()) };
        builder.spawn(body)?.detach();
        Ok(())
    }

    fn run_main(&self, count: usize) -> i32 {
        match &self.code {
            Code::Function(function) => function(),
            Code::Image(image) => {
                // SAFETY: `constructors` yields only code of the mapped image; the caller of
                // `start` vouched that it may run in kernel mode.
                image.constructors().for_each(|construct| unsafe { construct() });
                // The loader refuses images without a main function.
                let Some(main) = image.program().main else { return 0 };
                let values = self.arguments.load(Ordering::Relaxed).cast::<*const u8>();
                // SAFETY: the loader checked that `main` is code of the image; the caller of
                // `start` vouched that it may run in kernel mode.
                unsafe { main(count as i32, values) }
            }
        }
    }
}

/// A CPU's call of a program's function that was requested and may not have finished.
pub struct CallUnderWay(&'static Program);

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Release);
    }
}

/// Returns the calling thread's program.
///
/// # Safety
/// Neither the reference nor anything borrowed from it is kept beyond the thread's life, as only
/// that keeps the program.
pub unsafe fn current() -> Option<&'static Program> {
    // SAFETY: the owner is null or the calling thread's program, which outlives the thread.
    unsafe { owner::current().cast::<Program>().as_ref() }
}

/// Returns all running programs, or none if there is no memory to list them.
pub fn all() -> Vec<Arc<Program>> {
    let mut programs = Vec::new();
    let running = RUNNING.lock();
    if programs.try_reserve_exact(running.len()).is_ok() {
        programs.extend(running.iter().cloned());
    }
    programs
}

/// Returns the running program with this number.
pub fn by_id(id: u64) -> Option<Arc<Program>> {
    RUNNING.lock().iter().find(|program| program.id == id).cloned()
}

/// Runs a program's handler in interrupt context, with the program as the CPU's current handler
/// owner.
pub fn as_handler_of(program: &'static Program, handler: impl FnOnce()) {
    let _guard = InterruptGuard::new();
    let here = cpu::this();
    let outer = here.handlers_owner.swap(program.as_owner().cast_mut(), Ordering::Relaxed);
    handler();
    here.handlers_owner.store(outer, Ordering::Relaxed);
}

/// Returns the program on whose behalf the kernel is called: that of the running handler, or else
/// the calling thread's.
///
/// # Safety
/// As for [`current`]; in a handler, nothing of it is kept beyond the handler's return.
pub unsafe fn caller() -> Option<&'static Program> {
    let guard = InterruptGuard::new();
    let here = cpu::this();
    if here.in_interrupt.load(Ordering::Relaxed) {
        // SAFETY: the owner is null or a program whose handler is running here, and a program's end
        // waits for its handlers.
        return unsafe { here.handlers_owner.load(Ordering::Relaxed).cast::<Program>().as_ref() };
    }
    drop(guard);
    // SAFETY: the caller guarantees that nothing of the program is kept beyond the calling thread's
    // life.
    unsafe { current() }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes the program's name and number.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.id)
    }
}
