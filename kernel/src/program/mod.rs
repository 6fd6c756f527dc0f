//! Programs: what a runtime developer's image becomes while it runs. Its threads, what it owns, how it ends.
//!
//! A program runs in kernel mode like everything else; what makes it one is that its end takes everything it had back.
//! It ends when its main function returns, it exits, faults or is killed. A supervisor thread of the kernel then ends its
//! other threads: one in the program's own code at its next interrupt, one that waits by a forced timeout, after which
//! the interface's function does not return. Nobody is ended inside the kernel's code.

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

use crate::arch::{Architecture, Machine};
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

/// Longest reason kept of a program that failed, in bytes.
const REASON_LIMIT: usize = 160;
/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its main function returned this, or it exited with it.
    Exited(i32),
    /// Somebody killed it.
    Killed,
    /// It faulted or panicked.
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
    /// Its part that threads and the scheduler know. The first, as [`Owner`] says.
    owner: Owner,
    id: u64,
    name: ArrayString<NAME_LIMIT>,
    code: Code,
    /// Its function names, in the format of [`symbols`].
    symbols: &'static [u8],
    file_name: &'static str,
    heap: Heap,
    objects: Objects,
    /// Where its arguments are in its heap.
    arguments: AtomicPtr<u8>,
    /// Threads that have not ended.
    threads: AtomicUsize,
    /// Those that ended after it had begun to end, linked by their own links: each kept with its stack until none is left.
    ended: AtomicPtr<Thread>,
    /// Threads that still touch the program to say that they have.
    leaving: AtomicUsize,
    /// Functions of its own that devices may call.
    handlers: AtomicUsize,
    /// Functions of its own that CPUs were asked to call, and have not returned.
    calls: AtomicUsize,
    outcome: SpinLock<Option<Outcome>>,
    /// Signalled when it begins to end, and when its last thread has.
    changed: Event,
    /// Latched when all it had is given back.
    finished: Event,
    ended_lately: EndedLately,
    /// The thread that waits for its end.
    supervisor: SpinLock<Option<JoinHandle<()>>>,
    /// What it left.
    left: SpinLock<Left>,
    started_at: AtomicU64,
}

/// What a program runs.
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

/// All that run.
static RUNNING: SpinLock<ArrayVec<Arc<Program>, { image::IMAGE_LIMIT }>> = SpinLock::new(ArrayVec::new_const());

/// Why a program did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// Its image was refused.
    Load(LoadError),
    /// There is no memory for it or its first threads.
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

/// Loads a file and runs its main function with arguments, the first its name. `resolve` knows the interface's
/// functions by name.
///
/// # Errors
/// See [`StartError`]; nothing is left of it then.
///
/// # Safety
/// The file is a program's, whose code may run in kernel mode, and `resolve` gives functions that behave as their names say.
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

/// Runs a function of the kernel's own image as a program: with what a program has, and its end.
///
/// # Errors
/// See [`StartError`]; nothing is left of it then.
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
    // `Arc::try_new` is not stable: a box of the same size shows whether there is memory.
    drop(memory::try_box(core::mem::MaybeUninit::<[T; 2]>::uninit())?);
    Ok(Arc::new(value))
}

/// Takes a program off the list.
fn forget(program: &Arc<Program>) {
    RUNNING.lock().retain(|other| !Arc::ptr_eq(other, program));
    symbols::remove(program.image_start());
    images_changed();
}

/// Does nothing: a debugger's breakpoint here tells it that a program is loaded, and has not run yet, or is gone
/// (`gdb/aerokernel.py`).
#[inline(never)]
fn images_changed() {
    core::hint::black_box(());
}

/// What threads and the scheduler ask of a program: an [`Owner`] that is in one.
static OWNER_FUNCTIONS: Functions = Functions {
    // SAFETY: the caller's word, as `Functions` says; the same below.
    is_code: |owner, address| unsafe { program_of(owner) }.is_code(address),
    // SAFETY: as above.
    join: |owner| unsafe { program_of(owner) }.add_thread(),
    // SAFETY: as above.
    leave: |owner, thread| unsafe { program_of(owner) }.thread_has_ended(thread),
};

/// The program that an owner is in.
///
/// # Safety
/// The owner has [`OWNER_FUNCTIONS`], which only a program gives it, and its program outlives the reference.
unsafe fn program_of<'a>(owner: *const Owner) -> &'a Program {
    // SAFETY: the owner is the first field of its program, which is `repr(C)`; the caller's word for its life.
    unsafe { &*owner.cast() }
}

impl Program {
    /// The owner that it is to its threads, and an address to compare.
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
            // The caller, until the first thread is there.
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

    /// Its number, from the same count as threads'.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Threads that have not ended.
    pub fn threads(&self) -> usize {
        self.started_threads()
    }

    /// What it has allocated now.
    pub fn usage(&self) -> Usage {
        self.heap.usage()
    }

    /// Its memory.
    pub fn heap(&self) -> &Heap {
        &self.heap
    }

    /// Its objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Time it was started, in ns.
    pub fn started_at_ns(&self) -> u64 {
        self.started_at.load(Ordering::Relaxed)
    }

    /// Where its image is; 0 if it is the kernel's.
    pub fn image_start(&self) -> usize {
        self.code.image().map_or(0, Image::start)
    }

    /// The instruction set it was built for, if it says so.
    fn instruction_set(&self) -> Option<&str> {
        self.code.image().and_then(Image::instruction_set)
    }

    fn is_code(&self, address: usize) -> bool {
        self.code.image().is_some_and(|image| image.is_code(address))
    }

    /// True once it ends.
    pub fn is_ending(&self) -> bool {
        self.owner.is_ending()
    }

    /// How it ended or is ending.
    pub fn outcome(&self) -> Option<Outcome> {
        *self.outcome.lock()
    }

    /// What it left at its end.
    pub fn left(&self) -> Left {
        *self.left.lock()
    }

    /// Waits until it has ended, all it had is given back, and so is its supervisor.
    ///
    /// # Errors
    /// [`crate::wait::TimedOut`].
    pub fn wait_until(&self, deadline: Deadline) -> Result<(), crate::wait::TimedOut> {
        self.finished.wait_until(deadline)?;
        // It is about to end.
        let supervisor = self.supervisor.lock().take();
        if let Some(Err(still_there)) = supervisor.map(|handle| handle.join_until(deadline)) {
            *self.supervisor.lock() = Some(still_there);
            return Err(crate::wait::TimedOut);
        }
        Ok(())
    }

    /// Makes it end; the first outcome counts. Any context.
    pub fn end(&self, outcome: Outcome) {
        self.outcome.lock().get_or_insert(outcome);
        self.owner.set_ending();
        self.changed.signal();
    }

    fn started_threads(&self) -> usize {
        self.threads.load(Ordering::SeqCst)
    }

    /// A thread of it is spawned: where the thread's own variables end, 0 if the program has none.
    fn add_thread(&self) -> Result<usize, OutOfMemory> {
        let thread_pointer = self.make_thread_locals()?;
        self.threads.fetch_add(1, Ordering::Relaxed);
        Ok(thread_pointer)
    }

    /// A thread of it has ended.
    fn thread_has_ended(&self, thread: &'static Thread) {
        if self.is_ending() {
            // A thread that was ended may have lent what is on its stack to threads that have not been yet.
            thread.add_reference();
            self.keep_thread(thread);
        } else {
            self.ended_lately.note(thread);
            self.free_thread_locals(thread);
        }
        self.remove_thread();
    }

    /// Keeps a thread that has ended, with a reference to it, until all have.
    fn keep_thread(&self, thread: &'static Thread) {
        let link = |first: *mut Thread| {
            thread.next().store(first, Ordering::Relaxed);
            Some(ptr::from_ref(thread).cast_mut())
        };
        let _ = self.ended.fetch_update(Ordering::Release, Ordering::Relaxed, link);
    }

    /// A thread of it has ended: the last access that thread causes.
    fn remove_thread(&self) {
        self.leaving.fetch_add(1, Ordering::SeqCst);
        self.threads.fetch_sub(1, Ordering::SeqCst);
        self.changed.signal();
        self.leaving.fetch_sub(1, Ordering::Release);
    }

    /// A device may call a function of it from now on.
    pub fn add_handler(&self) {
        self.handlers.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends [`Program::add_handler`].
    pub fn remove_handler(&self) {
        self.handlers.fetch_sub(1, Ordering::Relaxed);
    }

    /// A CPU is asked to run a function of it: while the result exists, nothing of the program is given back.
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

    /// C strings behind an array of pointers to them, all in one block of the program's.
    fn keep_arguments(&self, name: &str, arguments: &[&str]) -> Result<*mut u8, OutOfMemory> {
        let texts = || core::iter::once(&name).chain(arguments);
        let pointers = (arguments.len() + 2) * size_of::<*const u8>();
        let size = pointers + texts().map(|text| text.len() + 1).sum::<usize>();
        let block = self.heap.allocate(size, align_of::<*const u8>(), Placement::Near)?.as_ptr();
        // SAFETY: the block was made for the pointers, a null pointer, and behind them the texts with a zero each.
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
            // SAFETY: the program outlives its threads.
            let program = unsafe { &*(owner as *const Self) };
            Machine::reset_vectors();
            program.end(Outcome::Exited(program.run_main(count)));
        };
        let main_name = format!("{}/main", self.name);
        // SAFETY: the caller has a reference to the program.
        let builder = unsafe { Builder::new(&main_name).stack_size(stack_size).owner(self.as_owner()) };
        builder.spawn(body)?.detach();
        Ok(())
    }

    fn run_main(&self, count: usize) -> i32 {
        match &self.code {
            Code::Function(function) => function(),
            Code::Image(image) => {
                // SAFETY: code of the image; what that does is the program's business.
                image.constructors().for_each(|construct| unsafe { construct() });
                // The loader refuses images without one.
                let Some(main) = image.program().main else { return 0 };
                let values = self.arguments.load(Ordering::Relaxed).cast::<*const u8>();
                // SAFETY: the loader checked that it is code of the image; what that does is the program's business.
                unsafe { main(count as i32, values) }
            }
        }
    }
}

/// A CPU was asked to run a function of a program, and may not have.
pub struct CallUnderWay(&'static Program);

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Release);
    }
}

/// The calling thread's program.
///
/// # Safety
/// Nothing keeps the reference, or what is borrowed from it, beyond the thread's life: a program outlives its threads, no more.
pub unsafe fn current() -> Option<&'static Program> {
    // SAFETY: null, or the program of a thread that is there.
    unsafe { owner::current().cast::<Program>().as_ref() }
}

/// All that run, or as many as there is memory to list.
pub fn all() -> Vec<Arc<Program>> {
    let mut programs = Vec::new();
    let running = RUNNING.lock();
    if programs.try_reserve_exact(running.len()).is_ok() {
        programs.extend(running.iter().cloned());
    }
    programs
}

/// One that runs, by its number.
pub fn by_id(id: u64) -> Option<Arc<Program>> {
    RUNNING.lock().iter().find(|program| program.id == id).cloned()
}

/// Runs a handler of a program's: interrupt context.
pub fn as_handler_of(program: &'static Program, handler: impl FnOnce()) {
    let _guard = InterruptGuard::new();
    let here = cpu::this();
    let outer = here.handlers_owner.swap(program.as_owner().cast_mut(), Ordering::Relaxed);
    handler();
    here.handlers_owner.store(outer, Ordering::Relaxed);
}

/// The program on whose behalf the kernel is called: the calling thread's, or that of the handler that runs.
///
/// # Safety
/// As for [`current`]; in a handler, nothing keeps it beyond that.
pub unsafe fn caller() -> Option<&'static Program> {
    let guard = InterruptGuard::new();
    let here = cpu::this();
    if here.in_interrupt.load(Ordering::Relaxed) {
        // SAFETY: null, or a program whose handler runs, for which its end waits.
        return unsafe { here.handlers_owner.load(Ordering::Relaxed).cast::<Program>().as_ref() };
    }
    drop(guard);
    // SAFETY: the caller's word.
    unsafe { current() }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Name and number.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.id)
    }
}
