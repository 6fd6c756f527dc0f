//! What another thread, or the HRT, tells the thread that serves the lines.

use std::io;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::EventFd;

use crate::descriptors::Descriptors;

/// A bell.
pub struct Bell {
    event: EventFd,
    ends: AtomicBool,
    /// A debugger is connected to its line.
    has_debugger: AtomicBool,
}

impl Bell {
    /// A bell that was not rung.
    ///
    /// # Errors
    /// Linux's.
    pub fn new(descriptors: &Descriptors) -> io::Result<Self> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self {
            // SAFETY: the descriptor is that of the same event, and is given over.
            event: descriptors.place(event, |fd| Some(unsafe { EventFd::from_raw_fd(fd) })),
            ends: AtomicBool::new(false),
            has_debugger: AtomicBool::new(false),
        })
    }

    /// Whether a debugger is connected to its line.
    pub fn has_debugger(&self) -> bool {
        self.has_debugger.load(Ordering::Relaxed)
    }

    /// Records whether a debugger is connected.
    pub fn set_debugger(&self, is_there: bool) {
        self.has_debugger.store(is_there, Ordering::Relaxed);
    }

    /// The event that rings it.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Has the thread serve the lines.
    pub fn begin(&self) {
        self.ends.store(false, Ordering::Release);
    }

    /// Has the thread end.
    pub fn end(&self) {
        self.ends.store(true, Ordering::Release);
        let _ = self.event.write(1);
    }

    /// Whether the thread is to end.
    pub fn ends(&self) -> bool {
        self.ends.load(Ordering::Acquire)
    }
}
