//! Programs: what a runtime developer's image becomes while it runs. Its threads, what it owns, how it ends.
//!
//! A program runs in kernel mode like everything else; what makes it one is that its end takes everything it had back.
//! It ends when its main function returns, it exits, faults or is killed. A supervisor thread of the kernel then ends its
//! other threads: one in the program's own code at its next interrupt, one that waits by a forced timeout, after which
//! the interface's function does not return. Nobody is ended inside the kernel's code.

mod deadlock;
pub mod heap;
pub mod image;
pub mod objects;
mod regions;
mod table;

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use arch_contract::fault::{Fault, FaultKind, Registers};
use arrayvec::{ArrayString, ArrayVec};

use crate::arch::{Architecture, Machine};
use crate::backtrace;
use crate::call;
use crate::cpu;
use crate::interrupts;
use crate::lock::{InterruptGuard, SpinLock};
use crate::memory::{self, OutOfMemory, Placement};
use crate::scheduler;
use crate::start::boot_information;
use crate::symbols::{self, Symbol};
use crate::thread::{self, Builder, JoinHandle, NAME_LIMIT, SpawnError, Thread};
use crate::time::Deadline;
use crate::wait::Event;
use heap::{Heap, Overrun, Usage};
use image::{Image, LoadError};
use objects::Objects;

/// Longest reason kept of a program that failed, in bytes.
const REASON_LIMIT: usize = 160;
/// Time between two attempts to end a program's threads.
const KILL_POLL: Duration = Duration::from_millis(1);
/// Time between two looks whether its threads can still do anything.
const DEADLOCK_POLL: Duration = Duration::from_secs(1);
/// How long ending them may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// The interrupt flag in [`Fault`]'s flags.
const INTERRUPTS_ON: u64 = 1 << 9;
/// Faults that are no single thread's: non-maskable interrupt, double fault, machine check.
const MACHINE_FAULTS: [u8; 3] = [2, 8, 18];

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
pub struct Program {
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
    /// Threads that still touch the program to say that they have.
    leaving: AtomicUsize,
    /// Functions of its own that devices may call.
    handlers: AtomicUsize,
    /// Functions of its own that CPUs were asked to call, and have not returned.
    calls: AtomicUsize,
    /// Set once its threads shall end.
    ending: AtomicBool,
    outcome: SpinLock<Option<Outcome>>,
    /// Signalled when it begins to end, and when its last thread has.
    changed: Event,
    /// Latched when all it had is given back.
    finished: Event,
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

/// What a program left behind at its end. All of it was taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Memory that it had not freed.
    pub memory: Usage,
    /// A block that it had written behind.
    pub overrun: Option<Overrun>,
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

/// What can be started.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its name.
    pub name: &'static str,
    /// The ELF file.
    pub elf: &'static [u8],
    /// Its function names, in the format of [`symbols`].
    pub symbols: &'static [u8],
}

/// Loads a file and runs its main function with arguments, the first its name. `resolve` knows the interface's
/// functions by name.
///
/// # Errors
/// See [`StartError`]; nothing is left of it then.
pub fn start(
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
    let supervised = program.clone();
    let supervisor = Builder::new("supervisor").spawn(move || supervise(&supervised));
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
}

/// A supervisor's life: waits for the end of its program, tells if it never comes, and gives everything back.
fn supervise(program: &Arc<Program>) {
    let mut watch = deadlock::Watch::default();
    while !program.ending.load(Ordering::Acquire) && program.started_threads() > 0 {
        if program.changed.wait_until(Deadline::after(DEADLOCK_POLL)).is_err() {
            watch.look(program);
        }
    }
    program.end(Outcome::Exited(0));
    let deadline = Deadline::after(KILL_LIMIT);
    while program.started_threads() > 0 && !deadline.has_passed() {
        program.push_threads_out();
        let _ = program.changed.wait_until(Deadline::after(KILL_POLL));
    }
    while program.leaving.load(Ordering::Acquire) != 0 {
        Machine::spin_hint();
    }
    match program.wait_until_unused() {
        Ok(()) => program.take_everything_back(),
        Err(user) => {
            log::error!("program {program}: {user}; its memory is kept");
            *program.left.lock() = Left { memory: program.heap.usage(), overrun: None };
            core::mem::forget(program.clone());
        }
    }
    forget(program);
    program.finished.latch();
}

/// What may still use a program's memory at its end.
enum User {
    Threads(usize),
    Handlers,
    Calls(usize),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threads(count) => write!(f, "{count} of its threads do not end"),
            Self::Handlers => f.write_str("a CPU does not leave one of its interrupt handlers"),
            Self::Calls(count) => write!(f, "CPUs have not run {count} of the functions it asked them to run"),
        }
    }
}

impl Program {
    fn new(name: &'static str, code: Code, symbols: &'static [u8]) -> Result<Arc<Self>, StartError> {
        let id = thread::next_id();
        let mut kept = ArrayString::new();
        name.chars().take_while(|&character| kept.try_push(character).is_ok()).for_each(drop);
        let program = Self {
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
            leaving: AtomicUsize::new(0),
            handlers: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
            outcome: SpinLock::new(None),
            changed: Event::new(),
            finished: Event::new(),
            supervisor: SpinLock::new(None),
            left: SpinLock::new(Left::default()),
            started_at: AtomicU64::new(crate::time::now_ns()),
        };
        Ok(try_arc(program)?)
    }

    /// Waits until nothing can run the program's code any more. Its threads were told to end.
    fn wait_until_unused(&self) -> Result<(), User> {
        match self.started_threads() {
            0 => (),
            stuck => return Err(User::Threads(stuck)),
        }
        let deadline = Deadline::after(KILL_LIMIT);
        loop {
            let left = self.silence();
            if left.is_ok() || deadline.has_passed() {
                return left;
            }
            thread::sleep(KILL_POLL);
        }
    }

    /// Stops timers, interrupts and lines, and looks whether a CPU is still in a function of the program.
    fn silence(&self) -> Result<(), User> {
        if !self.objects.silence_all() || interrupts::wait_for_handlers(call::DEFAULT_LIMIT).is_err() {
            return Err(User::Handlers);
        }
        match self.calls.load(Ordering::Acquire) {
            0 => (),
            calls => return Err(User::Calls(calls)),
        }
        // What ran until now may have set a timer.
        if self.objects.silence_all() { Ok(()) } else { Err(User::Handlers) }
    }

    fn take_everything_back(&self) {
        if let Some(arguments) = NonNull::new(self.arguments.load(Ordering::Relaxed)) {
            // SAFETY: the program, whose arguments they are, is over. It may have freed them, which is no error.
            let _ = unsafe { self.heap.free(arguments) };
        }
        *self.left.lock() = Left { memory: self.heap.usage(), overrun: self.heap.find_overrun() };
        self.objects.release_all();
        self.heap.release_all();
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

    fn is_code(&self, address: usize) -> bool {
        self.code.image().is_some_and(|image| image.is_code(address))
    }

    /// True once it ends.
    #[inline(always)]
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
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
        self.ending.store(true, Ordering::Release);
        self.changed.signal();
    }

    fn started_threads(&self) -> usize {
        self.threads.load(Ordering::SeqCst)
    }

    /// A thread of it was spawned.
    #[inline(always)]
    pub(crate) fn add_thread(&self) {
        self.threads.fetch_add(1, Ordering::Relaxed);
    }

    /// A thread of it has ended: the last access that thread causes.
    pub(crate) fn remove_thread(&self) {
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
            registry.iter().filter(|thread| ptr::eq(thread.program(), self)).for_each(&mut each);
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
        let builder = Builder::new(&main_name).stack_size(stack_size).program(self);
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

    /// Wakes its waiting threads by their timeouts, and interrupts those that run.
    fn push_threads_out(&self) {
        self.for_each_thread(Thread::force_time_out);
        cpu::all().for_each(|cpu| scheduler::nudge(cpu.index));
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
pub fn current() -> Option<&'static Program> {
    // SAFETY: a program outlives its threads, and so every use by one of them.
    unsafe { thread::try_current()?.program().as_ref() }
}

/// True if the calling thread belongs to a program that ends.
pub fn is_ending() -> bool {
    current().is_some_and(Program::is_ending)
}

/// The image's programs.
pub fn files() -> impl Iterator<Item = File> {
    Archive(boot_information().programs).files()
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

/// Ends the calling thread if its program ends. The interface's functions call it before they return. In an interrupt
/// handler it does nothing: the thread there is whichever was interrupted.
#[inline(always)]
pub fn leave_if_ending() {
    if is_ending() {
        leave();
    }
}

#[cold]
fn leave() {
    if !cpu::in_interrupt() {
        scheduler::exit();
    }
}

/// Ends the calling thread's program as failed, reports it, and does not return. `None`: it belongs to none.
pub fn fail_current(reason: fmt::Arguments<'_>) -> Option<core::convert::Infallible> {
    // The thread there is whichever was interrupted, and what it was doing is half done.
    assert!(!cpu::in_interrupt(), "a program's interrupt handler failed: {reason}");
    let program = current()?;
    let registers = Machine::registers_here();
    report(program, reason, &registers);
    scheduler::exit()
}

/// Runs a handler of a program's: interrupt context.
pub fn as_handler_of(program: &'static Program, handler: impl FnOnce()) {
    let _guard = InterruptGuard::new();
    let here = cpu::this();
    let outer = here.handlers_program.swap(ptr::from_ref(program).cast_mut(), Ordering::Relaxed);
    handler();
    here.handlers_program.store(outer, Ordering::Relaxed);
}

/// The program on whose behalf the kernel is called: the calling thread's, or that of the handler that runs.
pub fn caller() -> Option<&'static Program> {
    let guard = InterruptGuard::new();
    let here = cpu::this();
    if here.in_interrupt.load(Ordering::Relaxed) {
        // SAFETY: null, or a program whose handler runs, for which its end waits.
        return unsafe { here.handlers_program.load(Ordering::Relaxed).as_ref() };
    }
    drop(guard);
    current()
}

/// Ends the program whose handler runs as failed, and reports it. The handler goes on.
pub fn fail_handler(reason: fmt::Arguments<'_>) {
    if let Some(program) = caller()
        && !program.is_ending()
    {
        report(program, reason, &Machine::registers_here());
    }
}

/// A fault: if it is a program's own, ends that and does not return. On the fault's stack, interrupts off.
pub(crate) fn contain(fault: &Fault, text: fmt::Arguments<'_>) {
    let Some(program) = current() else { return };
    let is_the_threads = match fault.kind {
        FaultKind::Other { vector, .. } => !MACHINE_FAULTS.contains(&vector),
        FaultKind::Page { .. } | FaultKind::Breakpoint => true,
    };
    // With interrupts off, the kernel may have been in the middle of something.
    let in_middle = fault.registers.flags & INTERRUPTS_ON == 0 || cpu::this().in_interrupt.load(Ordering::Relaxed);
    if !is_the_threads || in_middle {
        return;
    }
    report(program, text, &fault.registers);
    Machine::fault_contained();
    scheduler::exit()
}

fn report(program: &Program, reason: fmt::Arguments<'_>, registers: &Registers) {
    let thread = thread::current();
    let mut kept = ArrayString::<REASON_LIMIT>::new();
    // What does not fit is cut.
    let _ = fmt::write(&mut Cut(&mut kept), reason);
    let cpu = cpu::this_index();
    crate::println!(
        "program {} ({}): {reason}\nin thread {} \"{}\" on CPU {cpu}, image at {:#x}; backtrace:",
        program.name,
        program.id,
        thread.id(),
        thread.name(),
        program.image_start()
    );
    backtrace::print(registers);
    program.end(Outcome::Failed(kept));
}

/// Takes as much text as there is room for.
struct Cut<'a>(&'a mut ArrayString<REASON_LIMIT>);

impl fmt::Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let shown = if character == '\n' { ' ' } else { character };
            self.0.try_push(shown).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}

/// The function of a program's image an address is in. Any context: gives up where the list is in use.
pub(crate) fn resolve(address: usize) -> Option<Symbol<'static>> {
    let running = RUNNING.try_lock()?;
    let image = |program: &Arc<Program>| program.code.image().filter(|image| image.contains(address)).map(Image::start);
    let (program, start) = running.iter().find_map(|program| Some((program, image(program)?)))?;
    let symbol = symbols::resolve_in(program.symbols, start, address);
    Some(Symbol { program: Some(program.file_name), ..symbol })
}

/// True if the calling thread was interrupted in its own program's code, which ends.
pub(crate) fn interrupted_in_ending(interrupted: usize) -> bool {
    current().is_some_and(|program| program.is_ending() && program.is_code(interrupted))
}

/// What `aero build --hrt` packs behind the image: u32 count; for each file three u32 lengths, of name, ELF file and
/// function names, and then these.
struct Archive(&'static [u8]);

impl Archive {
    /// Its files; ends early where it is damaged.
    fn files(self) -> impl Iterator<Item = File> {
        let mut rest = self.0;
        let count = take_word(&mut rest).unwrap_or(0);
        (0..count).map_while(move |_| {
            let lengths = [take_word(&mut rest)?, take_word(&mut rest)?, take_word(&mut rest)?];
            let [name, elf, symbols] = lengths.map(|length| length as usize);
            Some(File {
                name: core::str::from_utf8(take(&mut rest, name)?).ok()?,
                elf: take(&mut rest, elf)?,
                symbols: take(&mut rest, symbols)?,
            })
        })
    }
}

fn take(bytes: &mut &'static [u8], length: usize) -> Option<&'static [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_word(bytes: &mut &'static [u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?))
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
