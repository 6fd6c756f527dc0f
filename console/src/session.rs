//! Sessions: each is a source of keys and a destination for text.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::memory::OutOfMemory;
use kernel::{output, thread};

use crate::input::Input;

/// A session, which belongs to one thread.
pub trait Session: Sync {
    /// Returns the next key as terminals send it. Blocks.
    fn key(&self) -> u8;
    /// Shows text, with `\n` at the end of each line.
    fn print(&self, text: &str);
    /// Replaces the line being typed, prompt included, by `line`; `""` once the line has been given
    /// to a command. `change` turns the line as shown into the new one.
    fn edit(&self, change: &str, line: &str);
    /// Forgets an earlier Ctrl-C.
    fn clear_interrupted(&self);
}

/// Number of possible sessions.
const SESSIONS: usize = 2;

/// The session that a Ctrl-C concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The session on the serial line.
    Serial = 0,
    /// The session on the screen and its keyboard.
    Screen = 1,
}

/// Set by Ctrl-C; long commands poll it.
static INTERRUPTED: [AtomicBool; SESSIONS] = [const { AtomicBool::new(false) }; SESSIONS];
/// Number of the thread of the session on the screen, 0 for none.
static SCREEN_THREAD: AtomicU64 = AtomicU64::new(0);

/// Records a Ctrl-C. Callable from any context.
pub fn interrupt(place: Place) {
    INTERRUPTED[place as usize].store(true, Ordering::Relaxed);
}

/// Forgets an earlier Ctrl-C.
pub fn clear_interrupted(place: Place) {
    INTERRUPTED[place as usize].store(false, Ordering::Relaxed);
}

/// Makes the calling thread the one of the session on the screen.
pub fn is_on_screen() {
    SCREEN_THREAD.store(thread::current().id(), Ordering::Relaxed);
}

/// Returns true if Ctrl-C was typed in the calling thread's session since its last command began.
pub fn interrupted() -> bool {
    let on_screen = thread::current().id() == SCREEN_THREAD.load(Ordering::Relaxed);
    INTERRUPTED[if on_screen { Place::Screen } else { Place::Serial } as usize].load(Ordering::Relaxed)
}

/// The session on the serial line.
pub struct Serial(Input);

impl Serial {
    /// Opens the serial line permanently.
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

/// The serial line without a person at it.
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
