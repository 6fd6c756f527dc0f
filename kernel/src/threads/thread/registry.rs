//! All threads bound to one CPU, for snapshots.

use intrusive_collections::{LinkedList, LinkedListLink, UnsafeRef, intrusive_adapter};

use crate::thread::Thread;

intrusive_adapter!(pub(crate) RegistryAdapter = UnsafeRef<Thread>: Thread { registry_link => LinkedListLink });

/// The list, newest last.
pub struct Registry {
    list: LinkedList<RegistryAdapter>,
    count: usize,
}

// SAFETY: the links are only followed under the registry's lock.
unsafe impl Send for Registry {}

impl Registry {
    pub(crate) const fn new() -> Self {
        Self { list: LinkedList::new(RegistryAdapter::NEW), count: 0 }
    }

    /// Adds a thread that is in no registry.
    #[inline(always)]
    pub(crate) fn add(&mut self, thread: &'static Thread) {
        // SAFETY: threads live until they were removed again.
        self.list.push_back(unsafe { UnsafeRef::from_raw(thread) });
        self.count += 1;
    }

    /// Removes a thread of this registry.
    #[inline(always)]
    pub(crate) fn remove(&mut self, thread: &Thread) {
        // SAFETY: the caller says it is in this list.
        unsafe { self.list.cursor_mut_from_ptr(thread) }.remove();
        self.count -= 1;
    }

    /// Number of threads.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The threads, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Thread> {
        // A list that somebody was changing when all was stopped may be a circle.
        self.list.iter().take(self.count)
    }
}
