//! The interface common to all machines.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::Receiver;

use anyhow::Result;

/// A running machine. Dropping it ends it.
pub trait Machine {
    /// Returns the channel with the machine's console output, in pieces. It disconnects once no
    /// more output can come.
    fn output(&mut self) -> &mut Receiver<Vec<u8>>;

    /// Takes the writer to the console's input. Returns `None` if it was taken before or the
    /// machine has no input.
    fn take_input(&mut self) -> Option<Box<dyn Write + Send>> {
        None
    }

    /// Makes the kernel report where its CPUs are and end, and returns its output as far as it
    /// gets. Returns `None` for a machine that has no way to ask its kernel.
    fn interrogate(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// Ends the machine if it has not ended by itself, and tells how it ended.
    ///
    /// # Errors
    /// Fails if the machine's process cannot be waited for.
    fn end(&mut self) -> Result<End>;

    /// Returns what the machine shows outside its console, for the report on a kernel that does not
    /// finish.
    fn shows(&self) -> Option<String> {
        None
    }

    /// Tells once, as soon as a crashed kernel has begun to write its state, how to look at it.
    fn crash_note(&mut self) -> Option<String> {
        None
    }

    /// Tells once that the kernel's trace loses events, as soon as it does.
    fn loss_note(&mut self) -> Option<String> {
        None
    }

    /// Returns the crashed kernel's state file, once [`Machine::crash_note`] has announced it.
    fn crash_file(&self) -> Option<&Path> {
        None
    }

    /// Returns the socket of the machine's debugger line.
    fn debugger_socket(&self) -> Option<&Path> {
        None
    }
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The kernel's exit status, if the machine reports one.
    pub status: Option<u8>,
    /// True if the machine was switched off or reset, neither of which reports a status.
    pub is_switched_off: bool,
    /// Description of the end, as a sentence, for a kernel that did not finish.
    pub how: String,
    /// Why the emulator could not run a machine at all. It is meaningful only if the machine has
    /// sent no output; then the emulator failed and not the kernel.
    pub refusal: Option<String>,
}
