//! The machine's second serial line, offered at a socket to a debugger. QEMU would let a second
//! debugger wait in silence until the first one leaves; this module tells it that the line is
//! taken.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// Answer to every packet of a debugger that connects while another one is attached (gdb manual,
/// "Standard Replies").
const TAKEN: &str = "E.another debugger is attached to this machine";
/// Timeout for writes to a debugger that takes nothing, and for reads from a refused one that sends
/// nothing.
const TAKEN_LIMIT: Duration = Duration::from_secs(5);
/// Packets answered before a refused connection is closed. gdb shows the second answer.
const TAKEN_ANSWERS: usize = 3;

/// A socket that leads to the serial line. It is removed when this value is dropped.
pub struct GdbLine {
    /// The socket's path.
    pub socket: PathBuf,
}

impl GdbLine {
    /// Listens at a socket and connects it with `machine`, our end of the serial line.
    ///
    /// # Errors
    /// Fails if the socket cannot be created.
    pub fn listen(socket: &Path, machine: UnixStream) -> Result<Self> {
        if UnixStream::connect(socket).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            // The socket is left over from an `aero` that was killed.
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

/// The attached debugger, if any.
type Attached = Mutex<Option<UnixStream>>;

/// Forwards the machine's output to the debugger. Output without an attached debugger is lost, as
/// on any serial line.
fn pass_on(machine: &mut UnixStream, debugger: &Attached) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = machine.read(&mut buffer) {
        if let Some(debugger) = debugger.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // A debugger that has gone is noticed by its reader, `serve`.
            let _ = debugger.write_all(&buffer[..length]);
        }
    }
    // The machine is gone, so the debugger's connection ends too.
    if let Some(debugger) = debugger.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        let _ = debugger.shutdown(Shutdown::Both);
    }
}

fn accept(listener: &UnixListener, machine: &UnixStream, debugger: &Arc<Attached>) {
    for caller in listener.incoming().flatten() {
        // Without a limit, writing to a debugger that stops reading would hold the lock and keep
        // others from being told.
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

/// Forwards the debugger's input to the machine until the debugger disconnects.
fn serve(mut caller: UnixStream, mut machine: UnixStream, debugger: &Attached) {
    let _ = io::copy(&mut caller, &mut machine);
    *debugger.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Tells a debugger, in answer to each of its first packets, that another one is attached.
fn refuse(mut caller: UnixStream) -> io::Result<()> {
    let sum = TAKEN.bytes().fold(0u8, u8::wrapping_add);
    let answer = format!("+${TAKEN}#{sum:02x}");
    caller.set_read_timeout(Some(TAKEN_LIMIT))?;
    // A packet ends with `#` and its checksum.
    let packets = BufReader::new(caller.try_clone()?).split(b'#');
    for packet in packets.take(TAKEN_ANSWERS) {
        packet?;
        caller.write_all(answer.as_bytes())?;
    }
    Ok(())
}
