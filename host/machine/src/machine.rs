//! What all machines have.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::Receiver;

use anyhow::Result;

/// A machine that runs. Dropping it ends it.
pub trait Machine {
    /// What comes on its console, in pieces; the sender is gone once nothing more can come.
    fn output(&mut self) -> &mut Receiver<Vec<u8>>;

    /// Takes the way to its console's input. `None` if it was taken before, and for a machine that takes none.
    fn take_input(&mut self) -> Option<Box<dyn Write + Send>> {
        None
    }

    /// Makes the kernel report where its CPUs are, and end; what it says, as far as it does. `None` for a machine in which nothing
    /// can.
    fn interrogate(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// Ends it if it has not ended by itself, and tells how it ended.
    ///
    /// # Errors
    /// A process that cannot be waited for.
    fn end(&mut self) -> Result<End>;

    /// What it shows outside of its console, for the report of a kernel that does not finish.
    fn shows(&self) -> Option<String> {
        None
    }

    /// How to look at what a crashed kernel has left, once it has begun to write that; told once.
    fn crash_note(&mut self) -> Option<String> {
        None
    }

    /// That something of the kernel's trace is lost, once it is; told once.
    fn loss_note(&mut self) -> Option<String> {
        None
    }

    /// Where the kernel has left its state after a crash, once [`Machine::crash_note`] has told of it.
    fn crash_file(&self) -> Option<&Path> {
        None
    }

    /// The socket of its line to a debugger.
    fn debugger_socket(&self) -> Option<&Path> {
        None
    }
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The kernel's exit status, if the machine tells one.
    pub status: Option<u8>,
    /// True if it was switched off or reset, which tells no status.
    pub is_switched_off: bool,
    /// How, as a sentence, for a kernel that did not finish before.
    pub how: String,
    /// Why there was no machine at all, if it has said nothing: then the emulator failed and not the kernel.
    pub refusal: Option<String>,
}
