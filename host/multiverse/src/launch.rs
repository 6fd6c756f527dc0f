//! Starting a program: this process becomes it, so that the program has the process id, terminal,
//! parent and exit status that the user of this process expects. A helper process, which is no
//! child of it, puts the runtime into it and ends.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, execvpe, fork, getpid};

use crate::inject::{Plan, Tracee};
use crate::runtime_file::RuntimeFile;

/// The helper's word that it traces the launcher.
const ATTACHED: &str = "attached";
/// Descriptors below the limit that are the runtime's.
const FROM_TOP: u64 = 256;
/// A limit that is higher than this only costs Linux memory.
const HIGHEST: u64 = 1 << 16;

/// A program to start.
pub struct Program<'a> {
    /// Its path or name, and its arguments.
    pub line: &'a [OsString],
    /// What it finds as its own name, if that is not the same.
    pub own_name: Option<&'a OsStr>,
    /// It ignores SIGPIPE.
    pub ignores_pipes: bool,
}

/// Becomes a program whose code runs in the HRT of an image. Returns only if that fails.
///
/// # Errors
/// Fails if a file cannot be opened, the program cannot be executed, or a process cannot be traced
/// here.
pub fn launch(runtime: &Path, image: &Path, words: &[String], program: &Program<'_>) -> Result<()> {
    ensure!(!program.line.is_empty(), "there is no program to run");
    let runtime = RuntimeFile::open(runtime)?;
    let image = File::open(image).with_context(|| format!("{} cannot be read", image.display()))?;
    let lowest = lowest_descriptor()?;
    let plan = Plan {
        runtime_descriptor: duplicate(&runtime.file, lowest)?,
        image_descriptor: duplicate(&image, lowest)?,
        descriptors_from: lowest,
        runtime: &runtime,
        words,
    };
    let (mut from_helper, to_launcher) = pipe()?;
    let (from_launcher, mut to_helper) = pipe()?;
    let launcher = getpid();
    // SAFETY: this process has one thread, so its child may do anything.
    match unsafe { fork() }.context("no helper can be started")? {
        ForkResult::Child => {
            // SAFETY: likewise.
            if unsafe { fork() }.is_ok_and(|fork| fork.is_child()) {
                drop((from_helper, to_helper));
                help(launcher, &plan, from_launcher, to_launcher);
            }
            std::process::exit(0);
        }
        ForkResult::Parent { child } => waitpid(child, None).context("the helper's parent is lost")?,
    };
    drop((from_launcher, to_launcher));
    let mut helper = [0; 4];
    from_helper.read_exact(&mut helper).context("the helper did not start")?;
    // Where Yama restricts tracing, a process may name its tracer. Elsewhere this fails, and need
    // not be.
    // SAFETY: the call only changes who may trace this process.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, i32::from_ne_bytes(helper), 0, 0, 0) };
    to_helper.write_all(&[0]).context("the helper is gone")?;
    let mut said = String::new();
    from_helper.read_to_string(&mut said).context("the helper is gone")?;
    ensure!(said == ATTACHED, "this process cannot be traced, as starting a program in the HRT takes: {said}");
    bail!("{} cannot be executed: {}", Path::new(&program.line[0]).display(), program.execute())
}

impl Program<'_> {
    /// Becomes the program, natively. Returns why that fails.
    ///
    /// Unlike the standard library's way, this leaves the signal mask as it is.
    pub fn execute(&self) -> Errno {
        let string = |bytes: &OsStr| CString::new(bytes.as_bytes()).unwrap_or_default();
        let Some((name, arguments)) = self.line.split_first() else { return Errno::ENOENT };
        let own = string(self.own_name.unwrap_or(name));
        let words: Vec<CString> = std::iter::once(own).chain(arguments.iter().map(|word| string(word))).collect();
        // What the `aero` script tells this program is not the other's.
        let is_own = |name: &OsStr| name.as_bytes().starts_with(b"AERO_");
        let environment = std::env::vars_os()
            .filter(|(name, _)| !is_own(name))
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).unwrap_or_default());
        let environment: Vec<CString> = environment.collect();
        let action = if self.ignores_pipes { SigHandler::SigIgn } else { SigHandler::SigDfl };
        // SAFETY: no handler is set. (Rust's start ignores the signal.)
        let _ = unsafe { signal(Signal::SIGPIPE, action) };
        match execvpe(&string(name), &words, &environment) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }
}

/// The lowest number of descriptors that the program does not notice, at the upper end of those
/// that there can be.
fn lowest_descriptor() -> Result<i32> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit of descriptors is unknown")?;
    Ok(limit.min(HIGHEST).saturating_sub(FROM_TOP) as i32)
}

/// Duplicates a descriptor to a number from `lowest` on, which an exec leaves open.
fn duplicate(file: &File, lowest: i32) -> Result<i32> {
    fcntl(file, FcntlArg::F_DUPFD(lowest)).context("a descriptor cannot be duplicated")
}

/// Traces the launcher until its exec, puts the runtime into it, and lets it go.
fn help(launcher: Pid, plan: &Plan<'_>, mut from_launcher: PipeReader, mut to_launcher: PipeWriter) {
    let _ = to_launcher.write_all(&getpid().as_raw().to_ne_bytes());
    if from_launcher.read_exact(&mut [0]).is_err() {
        return;
    }
    let tracee = Tracee::attach(launcher);
    let said = tracee.as_ref().map_or_else(|error| format!("{error:#}"), |_| ATTACHED.into());
    let _ = to_launcher.write_all(said.as_bytes());
    drop(to_launcher);
    let Ok(tracee) = tracee else { return };
    if let Err(error) = tracee.wait_for_exec().and_then(|has_come| if has_come { tracee.inject(plan) } else { Ok(()) })
    {
        eprintln!("aero: the program cannot be put into the HRT: {error:#}");
        tracee.kill();
    }
}
