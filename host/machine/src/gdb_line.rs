//! The machine's second serial line, at a socket for a debugger. QEMU would let a second debugger wait in silence until the first is
//! gone; here it is told that the line is taken.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// What a debugger that is one too many is answered, whatever it asks (gdb manual, "Standard Replies").
const TAKEN: &str = "E.another debugger is attached to this machine";
/// How long one that takes nothing, or one too many that says nothing, is waited for.
const TAKEN_LIMIT: Duration = Duration::from_secs(5);
/// Packets that are answered so, before the connection ends: gdb shows the second answer.
const TAKEN_ANSWERS: usize = 3;

/// A socket that leads to the line; removed with this.
pub struct GdbLine {
    /// The socket.
    pub socket: PathBuf,
}

impl GdbLine {
    /// Listens at a socket for what goes to `machine` and comes from there.
    ///
    /// # Errors
    /// A socket that cannot be made.
    pub fn listen(socket: &Path, machine: UnixStream) -> Result<Self> {
        if UnixStream::connect(socket).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            // An `aero` that was killed has left it.
            let _ = std::fs::remove_file(socket);
        }
        let listener =
            UnixListener::bind(socket).with_context(|| format!("{} cannot be listened at", socket.display()))?;
        let debugger = Arc::new(Mutex::new(None));
        let (mut from_machine, told) = (machine.try_clone()?, debugger.clone());
        thread::spawn(move || pass_on(&mut from_machine, &told));
        thread::spawn(move || accept(&listener, &machine, &debugger));
        Ok(Self { socket: socket.into() })
    }
}

impl Drop for GdbLine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// The debugger that is attached, if one is.
type Attached = Mutex<Option<UnixStream>>;

/// Gives it what the machine sends; what no debugger hears is lost, as on any serial line.
fn pass_on(machine: &mut UnixStream, debugger: &Attached) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = machine.read(&mut buffer) {
        if let Some(debugger) = debugger.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // One that has gone is noticed where it is read from.
            let _ = debugger.write_all(&buffer[..length]);
        }
    }
    // The machine is gone.
    if let Some(debugger) = debugger.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        let _ = debugger.shutdown(Shutdown::Both);
    }
}

fn accept(listener: &UnixListener, machine: &UnixStream, debugger: &Arc<Attached>) {
    for caller in listener.incoming().flatten() {
        // One that stands still must not keep others from being told.
        let _ = caller.set_write_timeout(Some(TAKEN_LIMIT));
        let mut attached = debugger.lock().unwrap_or_else(PoisonError::into_inner);
        match (attached.as_ref(), caller.try_clone(), machine.try_clone()) {
            (None, Ok(kept), Ok(machine)) => {
                *attached = Some(kept);
                let debugger = debugger.clone();
                thread::spawn(move || serve(caller, machine, &debugger));
            }
            _ => {
                thread::spawn(move || refuse(caller));
            }
        }
    }
}

/// Gives the machine what the debugger sends, until that goes.
fn serve(mut caller: UnixStream, mut machine: UnixStream, debugger: &Attached) {
    let _ = io::copy(&mut caller, &mut machine);
    *debugger.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Answers every packet of a debugger that it is one too many.
fn refuse(mut caller: UnixStream) -> io::Result<()> {
    let sum = TAKEN.bytes().fold(0u8, u8::wrapping_add);
    let answer = format!("+${TAKEN}#{sum:02x}");
    caller.set_read_timeout(Some(TAKEN_LIMIT))?;
    // A packet ends with this and its sum.
    let packets = BufReader::new(caller.try_clone()?).split(b'#');
    for packet in packets.take(TAKEN_ANSWERS) {
        packet?;
        caller.write_all(answer.as_bytes())?;
    }
    Ok(())
}
