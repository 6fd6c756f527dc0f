//! Fibers: cooperative contexts inside a thread. They share the thread's CPU, name and turn; one
//! runs at a time.
//!
//! The fibers of a thread, its own flow among them, form a ring in the order of their creation;
//! [`Fibers::yield_now`] switches to the next one. A fiber that blocks blocks its thread.

use core::cell::{Cell, UnsafeCell};
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit, align_of, size_of};
use core::ptr;

use crate::arch::*;
use crate::cpu;
use crate::memory::OutOfMemory;
use crate::memory::stack::{DEFAULT_SIZE, Stack};
use crate::thread::{self, Thread};

/// A fiber as a node of its thread's ring. Only its thread touches it.
pub(crate) struct Node {
    context: UnsafeCell<Context>,
    next: Cell<*const Node>,
    previous: Cell<*const Node>,
    /// The fiber's stack; `None` for the thread's own flow, which runs on the thread's stack.
    stack: Option<Stack>,
}

impl Node {
    fn new(stack: Option<Stack>) -> Self {
        let (next, previous) = (Cell::new(ptr::null()), Cell::new(ptr::null()));
        Self { context: UnsafeCell::default(), next, previous, stack }
    }
}

/// The fibers of a thread.
pub(crate) struct Ring {
    /// The thread's own flow.
    own: Node,
    /// The running fiber; null until the thread makes its first one.
    current: Cell<*const Node>,
    /// The stack of a fiber that has ended, kept for the next one: creating fibers one after the
    /// other takes no lock.
    spare: Cell<Option<Stack>>,
}

// SAFETY: only the ring's own thread touches it, and once that has ended only the CPU that finishes
// or reuses it; a debugger reads it only while the machine is stopped.
unsafe impl Sync for Ring {}

impl Ring {
    pub(crate) fn new() -> Self {
        Self { own: Node::new(None), current: Cell::new(ptr::null()), spare: Cell::new(None) }
    }

    /// Returns a stack of at least `size` bytes.
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
    /// The stack's fiber has ended, and the conditions of [`Stack::release`] hold.
    #[inline(always)]
    unsafe fn return_stack(&self, stack: Stack) {
        if stack.size() == DEFAULT_SIZE && self.spare.get().is_none() {
            self.spare.set(Some(stack));
        } else {
            // SAFETY: the caller guarantees that the fiber has ended and that nothing else uses or
            // releases its stack.
            unsafe { stack.release() };
        }
    }

    /// Returns true if there are fibers besides the running one. Only the thread itself calls this.
    #[inline(always)]
    pub(crate) fn has_others(&self) -> bool {
        // SAFETY: the pointer is null or leads to a node of this ring, which stays until its fiber
        // has ended.
        unsafe { self.current.get().as_ref() }.is_some_and(|current| !ptr::eq(current.next.get(), current))
    }

    /// Releases the stack that a thread that has ended has kept.
    #[inline(always)]
    pub(crate) fn release_spare(&self) {
        if let Some(spare) = self.spare.take() {
            // SAFETY: the stack is that of a fiber that has ended, and only the ring refers to it.
            unsafe { spare.release() };
        }
    }

    /// Forgets the fibers of a thread that has ended.
    #[inline(always)]
    pub(crate) fn reset(&self) {
        self.current.set(ptr::null());
    }

    /// Returns the running fiber's stack, `None` if the thread's own flow runs. The caller is the
    /// thread itself, or the machine is stopped.
    pub(crate) fn running_stack(&self) -> Option<Stack> {
        // SAFETY: the pointer is null, or leads to the own node or to one in the ring, which stays
        // until its fiber has ended.
        unsafe { self.current.get().as_ref() }?.stack
    }

    /// Returns the running fiber. Makes the thread's own flow a ring of one if there is no ring
    /// yet.
    fn current(&self) -> &Node {
        if self.current.get().is_null() {
            self.own.next.set(&raw const self.own);
            self.own.previous.set(&raw const self.own);
            self.current.set(&raw const self.own);
        }
        // SAFETY: the pointer leads to the own node or to one in the ring, which stays until its
        // fiber has ended.
        unsafe { &*self.current.get() }
    }
}

/// A fiber with its body and result, at the top of the fiber's stack.
struct Body<F, T> {
    node: Node,
    body: ManuallyDrop<F>,
    result: MaybeUninit<T>,
    ended: Cell<bool>,
}

/// A handle of a fiber of the calling thread. Dropping it runs the fiber to its end.
pub struct Fiber<T> {
    node: *const Node,
    stack: Stack,
    ended: *const Cell<bool>,
    result: *const MaybeUninit<T>,
    /// A fiber belongs to its thread.
    _not_send: PhantomData<*const T>,
}

/// The fibers of the calling thread: creates them and switches between them. Only a thread can get
/// this, and it cannot be sent, so no interrupt handler switches the fibers of the thread it
/// interrupted.
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
    /// Returns the calling thread's fibers, `None` in an interrupt handler.
    pub fn of_this_thread() -> Option<Self> {
        (!cpu::in_interrupt()).then_some(Self { _not_send: PhantomData })
    }

    /// Creates a fiber with the default stack. It first runs when another fiber yields to it. Its
    /// handle may be forgotten, so the body must borrow only what lives for ever.
    ///
    /// ```compile_fail,E0597
    /// let local = 1;
    /// let borrowed = &local;
    /// let fiber = kernel::fiber::Fibers::of_this_thread().unwrap().create(move || *borrowed);
    /// core::mem::forget(fiber);
    /// ```
    ///
    /// # Errors
    /// [`OutOfMemory`], also if the body does not fit half of the stack.
    pub fn create<F, T>(self, body: F) -> Result<Fiber<T>, OutOfMemory>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        self.create_with_stack(DEFAULT_SIZE, body)
    }

    /// Creates a fiber with a stack of at least `stack_size` bytes.
    ///
    /// # Errors
    /// See [`Fibers::create`].
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
        // SAFETY: the stack is unused and large enough by the check above; the ring and its nodes
        // belong to the calling thread.
        unsafe {
            start.write(Body {
                node: Node::new(Some(stack)),
                body: ManuallyDrop::new(body),
                result: MaybeUninit::uninit(),
                ended: Cell::new(false),
            });
            let fiber = &*start;
            Contexts::prepare(&mut *fiber.node.context.get(), start as usize, run::<F, T>, start as usize);
            // Inserted before the running fiber, so the new one is the last to have its turn.
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

    /// Switches to the thread's next fiber.
    #[inline]
    pub fn yield_now(self) {
        let thread = thread::running();
        let current = thread.fibers().current.get();
        // SAFETY: the pointer is null or leads to a node of this thread's ring, which stays until
        // its fiber has ended.
        let Some(current) = (unsafe { current.as_ref() }) else { return };
        let next = current.next.get();
        if !ptr::eq(next, current) {
            // SAFETY: the links of a ring lead to its nodes, which stay until their fibers have
            // ended.
            switch_to(thread, current, unsafe { &*next });
        }
    }
}

/// Runs a fiber from its first instruction to its last. Interrupts stay as they were where the
/// thread yielded: contexts made by [`Contexts::prepare`] do not change them.
extern "C" fn run<F, T>(start: usize) -> !
where
    F: FnOnce() -> T,
{
    let start = start as *mut Body<F, T>;
    // SAFETY: `create` wrote the body, which is taken once, here; the result is read only after
    // `ended` is set; the links lead to nodes of this thread's ring.
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
    // SAFETY: `from` runs on this thread, and `to` is another node of its ring, so it is suspended
    // or prepared and only this thread can resume it.
    unsafe { Contexts::switch(from.context.get(), to.context.get()) };
}

impl<T> Fiber<T> {
    /// Switches to this fiber, unless it has ended or is the caller.
    #[inline]
    pub fn yield_to(&self) {
        let thread = thread::running();
        let current = thread.fibers().current();
        if !self.has_ended() && !ptr::eq(current, self.node) {
            // SAFETY: the fiber has not ended, so its node is in the ring of the thread that made
            // it, and the handle does not leave that thread.
            switch_to(thread, current, unsafe { &*self.node });
        }
    }

    /// Returns true if the calling thread is running this fiber.
    pub fn is_running(&self) -> bool {
        ptr::eq(thread::running().fibers().current.get(), self.node)
    }

    /// Returns true if the fiber's body has returned.
    #[inline(always)]
    pub fn has_ended(&self) -> bool {
        // SAFETY: the flag is on the fiber's stack, which this handle keeps.
        unsafe { (*self.ended).get() }
    }

    /// Yields until the fiber has ended, and returns its result.
    pub fn join(self) -> T {
        let fiber = ManuallyDrop::new(self);
        fiber.run_to_end();
        // SAFETY: the fiber has ended and left a result, which is read once because `join` consumes
        // the handle.
        let result = unsafe { (*fiber.result).assume_init_read() };
        // SAFETY: the fiber has ended and its result was moved out, so nothing uses the stack any
        // more.
        unsafe { thread::running().fibers().return_stack(fiber.stack) };
        result
    }

    fn run_to_end(&self) {
        // A `Fiber` is never sent and never reaches a handler, so the caller is its thread.
        let fibers = Fibers { _not_send: PhantomData };
        while !self.has_ended() {
            fibers.yield_now();
        }
    }

    /// Frees the fiber's stack without running the fiber to its end. The values on the stack are
    /// not dropped.
    ///
    /// # Safety
    /// The fiber's thread is over, or the fiber has ended and its result was moved out.
    pub unsafe fn abandon(self) {
        // SAFETY: the caller guarantees that the fiber never runs again and that nothing on its
        // stack is used.
        unsafe { ManuallyDrop::new(self).stack.release() };
    }
}

impl<T> Drop for Fiber<T> {
    fn drop(&mut self) {
        self.run_to_end();
        // SAFETY: the fiber has ended and left a result, which `join` did not take because it
        // forgets the handle.
        unsafe {
            self.result.cast_mut().cast::<T>().drop_in_place();
            self.stack.release();
        }
    }
}
