//! Sessions: somebody's keys, and where the text for them goes.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::memory::OutOfMemory;
use kernel::{output, thread};

use crate::input::Input;

/// A session, of one thread.
pub trait Session: Sync {
    /// The next key, as terminals send it. Blocks.
    fn key(&self) -> u8;
    /// Shows text, `\n` at the end of lines.
    fn print(&self, text: &str);
    /// What is typed becomes `line` with its prompt, `""` once it is given to a command; `change` is what leads to it from the line
    /// as it was.
    fn edit(&self, change: &str, line: &str);
    /// Forgets an earlier Ctrl-C.
    fn clear_interrupted(&self);
}

/// Sessions there can be.
const SESSIONS: usize = 2;

/// Which session's Ctrl-C is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The serial line.
    Serial = 0,
    /// Screen and keyboard.
    Screen = 1,
}

/// Set by Ctrl-C; long commands look at it.
static INTERRUPTED: [AtomicBool; SESSIONS] = [const { AtomicBool::new(false) }; SESSIONS];
/// The thread of the session on the screen, 0 for none.
static SCREEN_THREAD: AtomicU64 = AtomicU64::new(0);

/// Ctrl-C was typed. Any context.
pub fn interrupt(place: Place) {
    INTERRUPTED[place as usize].store(true, Ordering::Relaxed);
}

/// Forgets an earlier Ctrl-C.
pub fn clear_interrupted(place: Place) {
    INTERRUPTED[place as usize].store(false, Ordering::Relaxed);
}

/// The calling thread's session is the one on the screen.
pub fn is_on_screen() {
    SCREEN_THREAD.store(thread::current().id(), Ordering::Relaxed);
}

/// True if Ctrl-C was typed in the calling thread's session since its last command began.
pub fn interrupted() -> bool {
    let on_screen = thread::current().id() == SCREEN_THREAD.load(Ordering::Relaxed);
    INTERRUPTED[if on_screen { Place::Screen } else { Place::Serial } as usize].load(Ordering::Relaxed)
}

/// The serial line.
pub struct Serial(Input);

impl Serial {
    /// Opens it, for good.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn open() -> Result<&'static Self, OutOfMemory> {
        let serial = kernel::memory::try_box(Self(Input::open()?))?;
        Ok(alloc::boxed::Box::leak(serial))
    }
}

impl Session for Serial {
    fn key(&self) -> u8 {
        self.0.next()
    }

    fn print(&self, text: &str) {
        output::print_to_serial(text);
    }

    fn edit(&self, change: &str, line: &str) {
        output::edit_serial_line(change, line);
    }

    fn clear_interrupted(&self) {
        clear_interrupted(Place::Serial);
    }
}

/// The serial line, nobody at it.
pub struct Unattended;

impl Session for Unattended {
    fn key(&self) -> u8 {
        0
    }

    fn print(&self, text: &str) {
        output::print_to_serial(text);
    }

    fn edit(&self, _: &str, _: &str) {}

    fn clear_interrupted(&self) {}
}
