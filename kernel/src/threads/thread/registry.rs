//! The registry of all threads bound to one CPU, for snapshots.

use intrusive_collections::{LinkedList, LinkedListLink, UnsafeRef, intrusive_adapter};

use crate::thread::Thread;

intrusive_adapter!(pub(crate) RegistryAdapter = UnsafeRef<Thread>: Thread { registry_link => LinkedListLink });

/// The threads of one CPU, newest last.
pub struct Registry {
    list: LinkedList<RegistryAdapter>,
    count: usize,
}

// SAFETY: the links are followed only under the lock around the registry.
unsafe impl Send for Registry {}

impl Registry {
    pub(crate) const fn new() -> Self {
        Self { list: LinkedList::new(RegistryAdapter::NEW), count: 0 }
    }

    /// Adds a thread that is in no registry.
    #[inline(always)]
    pub(crate) fn add(&mut self, thread: &'static Thread) {
        // SAFETY: a thread is removed from its registry before it is freed.
        self.list.push_back(unsafe { UnsafeRef::from_raw(thread) });
        self.count += 1;
    }

    /// Removes a thread that is in this registry.
    #[inline(always)]
    pub(crate) fn remove(&mut self, thread: &Thread) {
        // SAFETY: the caller guarantees that the thread is in this list, and holds the lock around
        // it.
        unsafe { self.list.cursor_mut_from_ptr(thread) }.remove();
        self.count -= 1;
    }

    /// Returns the number of threads.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns the threads, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Thread> {
        // A list that was being changed when the machine was stopped may be circular, so the walk
        // is bounded.
        self.list.iter().take(self.count)
    }
}
