//! Fibers: cooperative contexts inside a thread. They share the thread's CPU, name and turn; one runs at a time.
//!
//! The fibers of a thread, its own flow among them, form a ring in the order they were made; [`Fibers::yield_now`] goes to the
//! next. A fiber that blocks blocks its thread.

use core::cell::{Cell, UnsafeCell};
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit, align_of, size_of};
use core::ptr;

use crate::arch::{Architecture, Machine};
use crate::cpu;
use crate::memory::OutOfMemory;
use crate::memory::stack::{DEFAULT_SIZE, Stack};
use crate::thread::{self, Thread};

/// A fiber as it sits in its thread's ring. Touched by its thread only.
pub(crate) struct Node {
    context: UnsafeCell<<Machine as Architecture>::Context>,
    next: Cell<*const Node>,
    previous: Cell<*const Node>,
    /// A fiber's own; `None` for a thread's own flow.
    stack: Option<Stack>,
}

impl Node {
    fn new(stack: Option<Stack>) -> Self {
        let (next, previous) = (Cell::new(ptr::null()), Cell::new(ptr::null()));
        Self { context: UnsafeCell::default(), next, previous, stack }
    }
}

/// What a thread keeps of its fibers.
pub(crate) struct Ring {
    /// The thread's own flow.
    own: Node,
    /// Who runs; null as long as there are no others.
    current: Cell<*const Node>,
    /// Stack of a fiber that has ended, for the next one: making them one after the other takes no lock.
    spare: Cell<Option<Stack>>,
}

// SAFETY: touched by its thread only.
unsafe impl Sync for Ring {}

impl Ring {
    pub(crate) fn new() -> Self {
        Self { own: Node::new(None), current: Cell::new(ptr::null()), spare: Cell::new(None) }
    }

    /// A stack of at least so many bytes.
    #[inline(always)]
    fn take_stack(&self, size: usize) -> Result<Stack, OutOfMemory> {
        if size == DEFAULT_SIZE
            && let Some(spare) = self.spare.take()
        {
            return Ok(spare);
        }
        Stack::new(size)
    }

    /// Takes a stack back.
    ///
    /// # Safety
    /// As for [`Stack::release`].
    #[inline(always)]
    unsafe fn return_stack(&self, stack: Stack) {
        if stack.size() == DEFAULT_SIZE && self.spare.get().is_none() {
            self.spare.set(Some(stack));
        } else {
            // SAFETY: the caller's word.
            unsafe { stack.release() };
        }
    }

    /// True if there are fibers beside the one that runs. By the thread.
    #[inline(always)]
    pub(crate) fn has_others(&self) -> bool {
        // SAFETY: null or a node of this ring.
        unsafe { self.current.get().as_ref() }.is_some_and(|current| !ptr::eq(current.next.get(), current))
    }

    /// Gives back what a thread that is over has kept.
    #[inline(always)]
    pub(crate) fn release_spare(&self) {
        if let Some(spare) = self.spare.take() {
            // SAFETY: a fiber's that has ended.
            unsafe { spare.release() };
        }
    }

    /// Forgets the fibers of a thread that is over.
    #[inline(always)]
    pub(crate) fn reset(&self) {
        self.current.set(ptr::null());
    }

    /// The stack of the fiber that runs, if one does. By its thread.
    pub(crate) fn running_stack(&self) -> Option<Stack> {
        // SAFETY: null, the own node, or one in the ring, which stays until it has ended.
        unsafe { self.current.get().as_ref() }?.stack
    }

    /// Who runs, after making the thread's own flow a ring of one if there was none.
    fn current(&self) -> &Node {
        if self.current.get().is_null() {
            self.own.next.set(&raw const self.own);
            self.own.previous.set(&raw const self.own);
            self.current.set(&raw const self.own);
        }
        // SAFETY: the own node, or one in the ring, which stays until it has ended.
        unsafe { &*self.current.get() }
    }
}

/// A fiber with its body and result, at the top of its stack.
struct Body<F, T> {
    node: Node,
    body: ManuallyDrop<F>,
    result: MaybeUninit<T>,
    ended: Cell<bool>,
}

/// A fiber of the calling thread. Dropping it runs it to its end.
pub struct Fiber<T> {
    node: *const Node,
    stack: Stack,
    ended: *const Cell<bool>,
    result: *const MaybeUninit<T>,
    /// Belongs to its thread.
    _not_send: PhantomData<*const T>,
}

/// The fibers of the calling thread: what makes them and switches between them. It is had by a thread only, and not sent, so
/// that no interrupt handler switches the thread that it interrupted.
///
/// ```compile_fail,E0277
/// fn is_send<T: Send>() {}
/// is_send::<kernel::fiber::Fibers>();
/// ```
///
/// ```compile_fail,E0277
/// fn is_sync<T: Sync>() {}
/// is_sync::<kernel::fiber::Fibers>();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Fibers {
    _not_send: PhantomData<*const ()>,
}

impl Fibers {
    /// Those of the calling thread; `None` in an interrupt handler.
    pub fn of_this_thread() -> Option<Self> {
        (!cpu::in_interrupt()).then_some(Self { _not_send: PhantomData })
    }

    /// Makes a fiber with the default stack. It first runs when somebody gives way to it. Its handle may be forgotten, so what it
    /// borrows must live for ever.
    ///
    /// ```compile_fail,E0597
    /// let local = 1;
    /// let borrowed = &local;
    /// let fiber = kernel::fiber::Fibers::of_this_thread().unwrap().create(move || *borrowed);
    /// core::mem::forget(fiber);
    /// ```
    ///
    /// # Errors
    /// [`OutOfMemory`], also for a body that does not fit half of the stack.
    pub fn create<F, T>(self, body: F) -> Result<Fiber<T>, OutOfMemory>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        self.create_with_stack(DEFAULT_SIZE, body)
    }

    /// Makes a fiber with a stack of at least so many bytes.
    ///
    /// # Errors
    /// As [`Fibers::create`].
    pub fn create_with_stack<F, T>(self, stack_size: usize, body: F) -> Result<Fiber<T>, OutOfMemory>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        if size_of::<Body<F, T>>() > stack_size.max(DEFAULT_SIZE) / 2 {
            return Err(OutOfMemory);
        }
        let fibers = thread::running().fibers();
        let stack = fibers.take_stack(stack_size.max(DEFAULT_SIZE))?;
        let align = align_of::<Body<F, T>>().max(16);
        let start = ((stack.top() - size_of::<Body<F, T>>()) & !(align - 1)) as *mut Body<F, T>;
        let current = fibers.current();
        // SAFETY: the top of a stack nobody uses yet; the ring belongs to this thread.
        unsafe {
            start.write(Body {
                node: Node::new(Some(stack)),
                body: ManuallyDrop::new(body),
                result: MaybeUninit::uninit(),
                ended: Cell::new(false),
            });
            let fiber = &*start;
            Machine::prepare(&mut *fiber.node.context.get(), start as usize, run::<F, T>, start as usize);
            // In front of the one that runs: the last to have its turn.
            let before = current.previous.get();
            fiber.node.previous.set(before);
            fiber.node.next.set(current);
            (*before).next.set(&raw const fiber.node);
            current.previous.set(&raw const fiber.node);
            Ok(Fiber {
                node: &raw const fiber.node,
                stack,
                ended: &raw const fiber.ended,
                result: &raw const fiber.result,
                _not_send: PhantomData,
            })
        }
    }

    /// Lets the thread's next fiber run.
    #[inline]
    pub fn yield_now(self) {
        let thread = thread::running();
        let current = thread.fibers().current.get();
        // SAFETY: null or a node of this thread's ring.
        let Some(current) = (unsafe { current.as_ref() }) else { return };
        let next = current.next.get();
        if !ptr::eq(next, current) {
            // SAFETY: a ring's links lead to its nodes.
            switch_to(thread, current, unsafe { &*next });
        }
    }
}

/// A fiber's first and last code. Interrupts are as they were where the thread gave way: [`Machine::prepare`]'s contexts
/// do not change them.
extern "C" fn run<F, T>(start: usize) -> !
where
    F: FnOnce() -> T,
{
    let start = start as *mut Body<F, T>;
    // SAFETY: written by `create`; the body is taken once, here; the result is read once `ended` is set.
    unsafe {
        let body = ManuallyDrop::take(&mut (*start).body);
        let result = body();
        (*start).result.write(result);
        (*start).ended.set(true);
        let node = &(*start).node;
        let (next, previous) = (node.next.get(), node.previous.get());
        (*previous).next.set(next);
        (*next).previous.set(previous);
        switch_to(thread::running(), node, &*next);
    }
    unreachable!("a fiber went on after its end")
}

#[inline(always)]
fn switch_to(thread: &Thread, from: &Node, to: &Node) {
    thread.fibers().current.set(to);
    // SAFETY: `from` runs on this thread, `to` is another one of its ring: suspended or prepared.
    unsafe { Machine::switch(from.context.get(), to.context.get()) };
}

impl<T> Fiber<T> {
    /// Lets this fiber run, if it has not ended and is not the caller.
    #[inline]
    pub fn yield_to(&self) {
        let thread = thread::running();
        let current = thread.fibers().current();
        if !self.has_ended() && !ptr::eq(current, self.node) {
            // SAFETY: it has not ended, so it is in the ring of the thread that made it, which a handle does not leave.
            switch_to(thread, current, unsafe { &*self.node });
        }
    }

    /// True for the fiber that the calling thread runs now.
    pub fn is_running(&self) -> bool {
        ptr::eq(thread::running().fibers().current.get(), self.node)
    }

    /// True if its body has returned.
    #[inline(always)]
    pub fn has_ended(&self) -> bool {
        // SAFETY: on the fiber's stack, which this handle keeps.
        unsafe { (*self.ended).get() }
    }

    /// Gives way until it has ended, and returns its result.
    pub fn join(self) -> T {
        let fiber = ManuallyDrop::new(self);
        fiber.run_to_end();
        // SAFETY: it has ended and left a result, which is read once, here.
        let result = unsafe { (*fiber.result).assume_init_read() };
        // SAFETY: the fiber has ended and its result was taken.
        unsafe { thread::running().fibers().return_stack(fiber.stack) };
        result
    }

    fn run_to_end(&self) {
        // A fiber does not leave its thread, nor that by a handler.
        let fibers = Fibers { _not_send: PhantomData };
        while !self.has_ended() {
            fibers.yield_now();
        }
    }

    /// Frees its stack without running it to its end; what is on it is forgotten.
    ///
    /// # Safety
    /// Its thread is over, or it has ended and its result was moved out.
    pub unsafe fn abandon(self) {
        // SAFETY: the caller's word.
        unsafe { ManuallyDrop::new(self).stack.release() };
    }
}

impl<T> Drop for Fiber<T> {
    fn drop(&mut self) {
        self.run_to_end();
        // SAFETY: it has ended, and its result was not taken.
        unsafe {
            self.result.cast_mut().cast::<T>().drop_in_place();
            self.stack.release();
        }
    }
}
