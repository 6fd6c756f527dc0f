//! Consoles of running HRTs on Unix sockets, where other processes of the same user find them.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rings::Rings;

/// How often the rings are looked at, in milliseconds: the kernel polls its side as often.
const LOOK_INTERVAL: i32 = 10;
/// How long the other side may leave output lying.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Counts the consoles of this process.
static NUMBER: AtomicU32 = AtomicU32::new(0);

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

/// A console on a socket. Dropping it takes the socket away.
pub struct SharedConsole {
    path: PathBuf,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SharedConsole {
    /// Puts a console on a socket, to which one process at a time can connect.
    ///
    /// # Errors
    /// Fails if the socket or its thread cannot be made.
    pub(crate) fn new(rings: Rings) -> io::Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = directory()?.join(format!("{}.{number}", std::process::id()));
        // Of an earlier process with this id.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let ends = Arc::new(AtomicBool::new(false));
        let may_end = Arc::clone(&ends);
        let serve = move || serve(&listener, &rings, &may_end);
        let thread = thread::Builder::new().name("hrt-console".into()).spawn(serve)?;
        Ok(Self { path, ends, thread: Some(thread) })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SharedConsole {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        let _ = fs::remove_file(&self.path);
        self.thread.take().into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// Serves one connection after the other.
fn serve(listener: &UnixListener, rings: &Rings, ends: &AtomicBool) {
    crate::kick::take_only_kicks();
    while !ends.load(Ordering::Acquire) {
        wait_for(listener.as_raw_fd());
        if let Ok((stream, _)) = listener.accept() {
            // A connection that fails has ended; the next one is served.
            let _ = serve_one(stream, rings, ends);
        }
    }
}

/// Carries bytes between a connection and the rings until one side ends.
fn serve_one(mut stream: UnixStream, rings: &Rings, ends: &AtomicBool) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_LIMIT))?;
    let mut buffer = [0; 1024];
    while !ends.load(Ordering::Acquire) {
        if wait_for(stream.as_raw_fd()) {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            let mut typed = &buffer[..length];
            let start = Instant::now();
            while !typed.is_empty() && !ends.load(Ordering::Acquire) {
                let sent = rings.send(typed)?;
                typed = &typed[sent..];
                stream.write_all(&rings.receive()?)?;
                if start.elapsed() > WRITE_LIMIT {
                    return Err(ErrorKind::TimedOut.into());
                } else if sent == 0 {
                    thread::sleep(Duration::from_millis(LOOK_INTERVAL as u64));
                }
            }
        }
        stream.write_all(&rings.receive()?)?;
    }
    Ok(())
}

/// Waits until a descriptor can be read, but not for long; returns whether it can.
fn wait_for(file: RawFd) -> bool {
    let mut wanted = libc::pollfd { fd: file, events: libc::POLLIN, revents: 0 };
    // SAFETY: the structure is one, as the count says.
    unsafe { libc::poll(&raw mut wanted, 1, LOOK_INTERVAL) > 0 }
}

/// A console that a process has put on a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The process.
    pub process: u32,
    /// The socket.
    pub path: PathBuf,
}

/// Returns the consoles of this user's processes, and takes away the sockets of those that have
/// ended.
///
/// # Errors
/// Fails if the directory cannot be read.
pub fn list() -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory()?)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(process) = name.split_once('.').and_then(|(process, _)| process.parse().ok()) else { continue };
        if Path::new(&format!("/proc/{process}")).exists() {
            found.push(Found { process, path });
        } else {
            let _ = fs::remove_file(&path);
        }
    }
    found.sort_by(|one, other| (one.process, &one.path).cmp(&(other.process, &other.path)));
    Ok(found)
}
