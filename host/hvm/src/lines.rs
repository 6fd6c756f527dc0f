//! Lines of running HRTs on Unix sockets, where other processes of the same user find them: the
//! console, telemetry, and a debugger's.

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use rings::Rings;
use wire::rings::channel::{KIND_CONSOLE, KIND_DEBUGGER, KIND_TELEMETRY};

use crate::bell::Bell;
use crate::descriptors::Descriptors;
use crate::events::Recorder;

/// How often the rings of connected lines are looked at even if nothing was told, in milliseconds.
const LOOK_INTERVAL: i32 = 10;
/// What poll leaves out.
const NOTHING: i32 = -1;
/// Bytes read from a connection at once.
const AT_ONCE: usize = 4096;

/// Counts the HRTs of this process that have lines on sockets.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A line. Those to the kernel have the number of their channel in the rings' region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// The console.
    Console,
    /// Telemetry (`wire::telemetry`).
    Telemetry,
    /// The debugger's line, with gdb's remote protocol.
    Debugger,
    /// The events of all event channels while there is a listener ([`crate::events`]).
    Events,
}

impl Line {
    const ALL: [Self; 4] = [Self::Console, Self::Telemetry, Self::Debugger, Self::Events];

    /// The kinds of the channels to the kernel, by number.
    pub(crate) fn kinds() -> [u32; 3] {
        [KIND_CONSOLE, KIND_TELEMETRY, KIND_DEBUGGER]
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Console => "console",
            Self::Telemetry => "telemetry",
            Self::Debugger => "gdb",
            Self::Events => "events",
        })
    }
}

/// The directory of this user's sockets: in the runtime directory, or in /tmp if there is none.
///
/// # Errors
/// Fails if the directory cannot be made, or belongs to another user.
pub fn directory() -> io::Result<PathBuf> {
    // SAFETY: the call only returns a number.
    let user = unsafe { libc::getuid() };
    let path = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if !runtime.is_empty() => Path::new(&runtime).join("aerokernel"),
        _ => PathBuf::from(format!("/tmp/aerokernel-{user}")),
    };
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(&path)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        let why = format!("{} is no directory of this user alone", path.display());
        return Err(io::Error::new(ErrorKind::PermissionDenied, why));
    }
    Ok(path)
}

/// Lines on sockets. Dropping it takes the sockets away.
pub(crate) struct SharedLines {
    paths: Vec<PathBuf>,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl SharedLines {
    /// Puts lines on sockets, to each of which one process at a time can connect. `bell` is rung
    /// when the HRT has bytes for one of them; `interrupt` makes the HRT read what it waits for.
    ///
    /// # Errors
    /// Fails if a socket or the thread cannot be made.
    pub(crate) fn new(
        lines: &[Line],
        number: u32,
        source: impl Fn(Line) -> io::Result<Source>,
        bell: Arc<Bell>,
        descriptors: Arc<Descriptors>,
        interrupt: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        // Takes away what processes that were killed have left.
        let _ = list();
        bell.begin();
        let mut shared = Self { paths: Vec::new(), bell: Arc::clone(&bell), thread: None };
        let mut served = Vec::new();
        for &line in lines {
            let path = path(number, &line)?;
            // Of an earlier process with this id.
            let _ = fs::remove_file(&path);
            let listener = UnixListener::bind(&path)?;
            shared.paths.push(path.clone());
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            // SAFETY: the descriptor is that of the same socket, and is given over.
            let listener = descriptors.place(listener, |fd| Some(unsafe { UnixListener::from_raw_fd(fd) }));
            served.push(Served { line, source: source(line)?, listener, peer: None });
        }
        let serve = move || serve(&mut served, &bell, &descriptors, &interrupt);
        shared.thread = Some(thread::Builder::new().name("hrt-lines".into()).spawn(serve)?);
        Ok(shared)
    }
}

impl SharedLines {
    /// Takes the sockets away.
    pub(crate) fn remove(&self) {
        self.paths.iter().for_each(|path| drop(fs::remove_file(path)));
    }
}

impl Drop for SharedLines {
    fn drop(&mut self) {
        self.bell.end();
        self.remove();
        self.thread.take().into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// A number for an HRT of this process that has something in the directory.
pub(crate) fn next_number() -> u32 {
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// The path of something of an HRT of this process in the directory.
///
/// # Errors
/// As [`directory`].
pub(crate) fn path(number: u32, what: &dyn fmt::Display) -> io::Result<PathBuf> {
    Ok(directory()?.join(format!("{}.{number}.{what}", std::process::id())))
}

/// Where a line comes from.
pub(crate) enum Source {
    /// The kernel.
    Rings(Rings),
    /// The library.
    Events(Arc<Recorder>),
}

/// A line and the process that is connected to it.
struct Served {
    line: Line,
    source: Source,
    listener: UnixListener,
    peer: Option<Peer>,
}

struct Peer {
    stream: UnixStream,
    /// What the peer has not taken yet.
    to_peer: Vec<u8>,
    /// What the kernel has not taken yet.
    to_kernel: Vec<u8>,
}

impl Peer {
    /// Carries what can be carried without waiting. Returns an error when the peer has gone.
    fn carry(&mut self, source: &Source) -> io::Result<()> {
        match source {
            _ if !self.to_peer.is_empty() => {}
            Source::Rings(rings) => {
                rings.ask_for_word()?;
                self.to_peer = rings.receive()?;
            }
            Source::Events(recorder) => recorder.take(&mut self.to_peer),
        }
        let written = unless_it_waits(self.stream.write(&self.to_peer))?;
        self.to_peer.drain(..written);
        if self.to_kernel.is_empty() {
            let mut buffer = [0; AT_ONCE];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                read => self.to_kernel.extend(&buffer[..unless_it_waits(read)?]),
            }
        }
        let sent = match source {
            Source::Rings(rings) => rings.send(&self.to_kernel)?,
            Source::Events(_) => self.to_kernel.len(),
        };
        self.to_kernel.drain(..sent);
        Ok(())
    }

    /// The events of the stream that there is something to do at.
    fn events(&self) -> i16 {
        let input = if self.to_kernel.is_empty() { libc::POLLIN } else { 0 };
        let output = if self.to_peer.is_empty() { 0 } else { libc::POLLOUT };
        input | output
    }
}

/// Makes "not now" the transfer of no bytes.
fn unless_it_waits(transferred: io::Result<usize>) -> io::Result<usize> {
    match transferred {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

impl Served {
    /// Accepts a peer, or carries bytes between it and the rings.
    fn serve(&mut self, descriptors: &Descriptors) {
        if self.peer.is_none()
            && let Ok((stream, _)) = self.listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            // SAFETY: the descriptor is that of the same socket, and is given over.
            let stream = descriptors.place(stream, |fd| Some(unsafe { UnixStream::from_raw_fd(fd) }));
            let mut to_peer = Vec::new();
            match &self.source {
                Source::Rings(_) if self.line == Line::Console => {}
                // What was said to an earlier peer.
                Source::Rings(rings) => drop(rings.receive()),
                Source::Events(recorder) => recorder.start(&mut to_peer),
            }
            self.peer = Some(Peer { stream, to_peer, to_kernel: Vec::new() });
        }
        if let Some(peer) = &mut self.peer {
            // A connection that fails has ended; the next one is served.
            if peer.carry(&self.source).is_err() {
                self.peer = None;
                if let Source::Events(recorder) = &self.source {
                    recorder.stop();
                }
            }
        }
    }
}

/// Serves the lines until the bell says that they end.
fn serve(lines: &mut [Served], bell: &Bell, descriptors: &Descriptors, interrupt: &dyn Fn()) {
    // It is never in the HRT.
    crate::kick::take_no_signals();
    descriptors.keep_apart();
    while !bell.ends() {
        lines.iter_mut().for_each(|line| line.serve(descriptors));
        let wants_interrupt = |served: &Served| match &served.source {
            Source::Rings(rings) => rings.wants_interrupt().unwrap_or(false),
            Source::Events(_) => false,
        };
        if lines.iter().any(wants_interrupt) {
            interrupt();
        }
        let has_debugger = lines.iter().any(|served| served.line == Line::Debugger && served.peer.is_some());
        bell.set_debugger(has_debugger);
        let is_connected = lines.iter().any(|served| served.peer.is_some());
        let mut wanted = vec![(bell.event().as_raw_fd(), libc::POLLIN)];
        wanted.extend(lines.iter().map(|served| match &served.peer {
            // A peer that has gone would be told of again and again while the kernel takes nothing.
            Some(peer) if peer.events() == 0 => (NOTHING, 0),
            Some(peer) => (peer.stream.as_raw_fd(), peer.events()),
            None => (served.listener.as_raw_fd(), libc::POLLIN),
        }));
        let mut wanted: Vec<_> =
            wanted.into_iter().map(|(fd, events)| libc::pollfd { fd, events, revents: 0 }).collect();
        let limit = if is_connected { LOOK_INTERVAL } else { -1 };
        // SAFETY: there are as many structures as the count says.
        unsafe { libc::poll(wanted.as_mut_ptr(), wanted.len() as libc::nfds_t, limit) };
        let _ = bell.event().read();
    }
}

/// A line that a process has put on a socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The process.
    pub process: u32,
    /// Which of the process's HRTs.
    pub number: u32,
    /// The line.
    pub line: Line,
    /// The socket.
    pub path: PathBuf,
}

/// Returns the lines of this user's processes, and takes away the sockets of those that have ended.
///
/// # Errors
/// Fails if the directory cannot be read.
pub fn list() -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory()?)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((process, number, line)) = parts_of(&name) else { continue };
        if Path::new(&format!("/proc/{process}")).exists() {
            found.push(Found { process, number, line, path });
        } else {
            let _ = fs::remove_file(&path);
        }
    }
    found.sort();
    Ok(found)
}

/// Takes the name of a socket apart; `None` if it is none.
fn parts_of(name: &str) -> Option<(u32, u32, Line)> {
    let (process, rest) = name.split_once('.')?;
    let (number, line) = rest.split_once('.')?;
    let line = Line::ALL.into_iter().find(|known| known.to_string() == line)?;
    Some((process.parse().ok()?, number.parse().ok()?, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_lines_are_taken_for_such() {
        assert_eq!(parts_of("12.3.gdb"), Some((12, 3, Line::Debugger)));
        for other in ["12.3.crash", "12.console", "x.1.console", "12.x.console", ""] {
            assert_eq!(parts_of(other), None, "{other}");
        }
    }
}
