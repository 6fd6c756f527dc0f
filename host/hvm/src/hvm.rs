//! [`Hvm`]: an HRT beside this process.

use std::mem::offset_of;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::group;
use protocol::ros_event::RosEvent;
use protocol::upcall::{Page, Record, request};
use rings::Rings;

use crate::Error;
use crate::core::{Core, Function, SignalHandler};
use crate::descriptors::Descriptors;
use crate::files::Files;
use crate::hardware::Hardware;
use crate::image::Image;
use crate::kick::Kicks;
use crate::lines::{self, Line, SharedLines, Source};
use crate::partner;
use crate::partners::{Partners, locked};
use crate::program::Member;
use crate::ros_events::RosEvents;
use crate::runner::{self, Runner};
use crate::state::{CallError, End, State, Transaction};
use crate::synchronous::Synchronous;
use crate::vcpu::Vcpu;
use crate::workers::Workers;

/// Describes an HVM.
#[derive(Clone, Debug)]
pub struct Builder<'a> {
    image: &'a [u8],
    cpus: u32,
    memory: u64,
    line: &'a str,
    limit: Duration,
    shared: &'static [Line],
    trace_file: Option<PathBuf>,
    crash_file: Option<PathBuf>,
    faults_as_in_process: bool,
    patches_hypercalls: bool,
    descriptors_from: RawFd,
    kicks: Kicks,
}

impl<'a> Builder<'a> {
    /// The number of CPUs; 1 unless set.
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// The HRT's own memory, in bytes, rounded up to whole pages; 256 MiB unless set. What the HRT
    /// does not touch costs nothing.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// The kernel's command line.
    pub fn command_line(mut self, line: &'a str) -> Self {
        self.line = line;
        self
    }

    /// How long a request to the HRT waits for its answer; 10 seconds unless set.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Puts the HRT's console, its telemetry and its debugger's line on Unix sockets that this
    /// user's processes can connect to (`aero hvm console`, `top` and `gdb`); see [`lines`]. Its
    /// crash file goes to the same directory unless [`Builder::crash_file`] says otherwise.
    pub fn share(mut self) -> Self {
        self.shared = &[Line::Console, Line::Telemetry, Line::Debugger, Line::Events];
        self
    }

    /// As [`Builder::share`], but the console stays this process's ([`Hvm::console`]), and there is
    /// no crash file unless [`Builder::crash_file`] names one.
    pub fn share_without_console(mut self) -> Self {
        self.shared = &[Line::Telemetry, Line::Debugger, Line::Events];
        self
    }

    /// The file for the kernel's state after a crash, which `aero inspect` opens. It is made when
    /// the kernel crashes.
    pub fn crash_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.crash_file = Some(path.into());
        self
    }

    /// The file for the kernel's trace, in the kernel's own format.
    pub fn trace_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.trace_file = Some(path.into());
        self
    }

    /// Gives the HVM descriptors with numbers from this on, as long as there are some. A process
    /// that is not written for this library may expect the low ones to be free.
    pub fn descriptors_from(mut self, least: RawFd) -> Self {
        self.descriptors_from = least;
        self
    }

    /// Makes an access of a called function that Linux refuses have the effect that it has in the
    /// process: the partner thread executes the instruction itself, and gets SIGSEGV or SIGBUS for
    /// it. A handler may mend what is wrong and return; without one the process is killed. The
    /// library takes SIGTRAP for this. Otherwise such an access ends its call with an error.
    pub fn faults_as_in_process(mut self) -> Self {
        self.faults_as_in_process = true;
        self
    }

    /// Leaves every signal to a program whose threads live in the HRT
    /// ([`program`](crate::program)). Its handler of SIGTRAP has to know nudges
    /// ([`is_nudge`](crate::program::is_nudge)). The HRT lives as long as the process then: it
    /// cannot be stopped, reset or dropped before.
    pub fn leave_signals(mut self) -> Self {
        self.kicks = Kicks::Nudges;
        self
    }

    /// For an image of another project: replaces its instructions VMMCALL and VMCALL, on which KVM
    /// answers itself, by a request that reaches this library. The same bytes within another
    /// instruction are replaced too.
    pub fn patch_hypercalls(mut self) -> Self {
        self.patches_hypercalls = true;
        self
    }

    /// Boots the HRT. Returns as soon as its CPUs run.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn boot(self) -> Result<Hvm, Error> {
        let mut image = Image::parse(self.image)?;
        if self.patches_hypercalls {
            image.patch_hypercalls();
        }
        let kinds = if self.shared.is_empty() { &Line::kinds()[..1] } else { &Line::kinds() };
        let hardware =
            Arc::new(Hardware::new(&image, self.cpus, self.memory, kinds, Descriptors::from(self.descriptors_from))?);
        if !self.shared.is_empty() {
            hardware.connect_bell()?;
        }
        let settings = Settings {
            line: self.line.into(),
            limit: self.limit,
            shared: self.shared,
            number: lines::next_number(),
            trace_file: self.trace_file,
            crash_file: self.crash_file,
            faults_as_in_process: self.faults_as_in_process,
            patches_hypercalls: self.patches_hypercalls,
            kicks: self.kicks,
        };
        let (core, runners) = settings.boot(&hardware, &image)?;
        let shared_lines = settings.share(&hardware, &core)?;
        Ok(Hvm { runners: runners.into(), core, workers: Workers::default(), shared_lines, hardware, settings })
    }
}

/// How an HRT is booted, the first time and again.
struct Settings {
    line: String,
    limit: Duration,
    shared: &'static [Line],
    number: u32,
    trace_file: Option<PathBuf>,
    crash_file: Option<PathBuf>,
    faults_as_in_process: bool,
    patches_hypercalls: bool,
    kicks: Kicks,
}

impl Settings {
    /// Boots an image on a machine whose memory is clear.
    fn boot(&self, hardware: &Arc<Hardware>, image: &Image<'_>) -> Result<(Arc<Core>, Vec<Runner>), Error> {
        let places = hardware.load(image, &self.line)?;
        let crash_file = match &self.crash_file {
            None if self.shared.contains(&Line::Console) => Some(lines::path(self.number, &"crash").map_err(unshared)?),
            given => given.clone(),
        };
        let core = Arc::new(Core {
            state: State::default(),
            partners: Partners::default(),
            ros_events: RosEvents::default(),
            limit: self.limit,
            faults_as_in_process: self.faults_as_in_process,
            kicks: self.kicks,
            is_merged: AtomicBool::new(false),
            is_synchronous: AtomicBool::new(false),
            signal_handler: AtomicUsize::new(0),
            takes_cpus_again: AtomicBool::new(false),
            files: Files::new(self.trace_file.clone(), crash_file),
            debugger: match self.shared {
                [] => None,
                _ => Some(hardware.rings(Line::Debugger).map_err(unshared)?),
            },
            hardware: Arc::clone(hardware),
            places,
            has_root: AtomicBool::new(false),
            request: image.request,
        });
        let cpus: Vec<Vcpu> = (0..hardware.cpus).map(|id| core.take_cpu(id)).collect::<Result<_, _>>()?;
        let runners = start_all(&core, cpus)?;
        Ok((core, runners))
    }

    /// Puts lines of the rings on sockets.
    fn share(&self, hardware: &Arc<Hardware>, core: &Arc<Core>) -> Result<Option<SharedLines>, Error> {
        if self.shared.is_empty() {
            return Ok(None);
        }
        let source = |line| match line {
            Line::Events => Ok(Source::Events(Arc::clone(&hardware.recorder))),
            line => hardware.rings(line).map(Source::Rings),
        };
        let weak = Arc::downgrade(core);
        let interrupt = move || {
            weak.upgrade().into_iter().for_each(|core| core.interrupt_for_debugger());
        };
        let (bell, descriptors) = (Arc::clone(&hardware.bell), Arc::clone(&hardware.descriptors));
        SharedLines::new(self.shared, self.number, source, bell, descriptors, interrupt).map(Some).map_err(unshared)
    }
}

/// Starts a thread for each CPU.
fn start_all(core: &Arc<Core>, cpus: Vec<Vcpu>) -> Result<Vec<Runner>, Error> {
    let mut runners = Vec::new();
    for (index, cpu) in cpus.into_iter().enumerate() {
        let run = move |core: &Core| {
            let mut cpu = cpu;
            let end = runner::run(index as u32, &mut cpu, core);
            core.hardware.keep_cpu(index as u32, cpu);
            end
        };
        match Runner::start(index as u32, core, run) {
            Ok(runner) => runners.push(runner),
            Err(error) => {
                stop(core, runners);
                return Err(error);
            }
        }
    }
    Ok(runners)
}

fn unshared(why: std::io::Error) -> Error {
    Error::Refused { what: "putting the HRT's lines on sockets", why }
}

/// An HRT beside this process. Dropping it stops the HRT.
pub struct Hvm {
    core: Arc<Core>,
    runners: Mutex<Vec<Runner>>,
    workers: Workers,
    shared_lines: Option<SharedLines>,
    hardware: Arc<Hardware>,
    settings: Settings,
}

impl Hvm {
    /// Describes an HVM that boots an image: the bytes of an ELF file.
    pub fn builder(image: &[u8]) -> Builder<'_> {
        Builder {
            image,
            cpus: 1,
            memory: 256 << 20,
            line: "",
            limit: Duration::from_secs(10),
            shared: &[],
            trace_file: None,
            crash_file: None,
            faults_as_in_process: false,
            patches_hypercalls: false,
            descriptors_from: 0,
            kicks: Kicks::Signal,
        }
    }

    /// Returns the ROS's side of the HRT's console.
    ///
    /// # Errors
    /// Fails if the descriptor cannot be copied.
    pub fn console(&self) -> std::io::Result<Rings> {
        self.hardware.rings(Line::Console)
    }

    /// Takes the sockets of [`Builder::share`] away, in a process that ends without dropping this.
    pub fn remove_sockets(&self) {
        self.shared_lines.iter().for_each(SharedLines::remove);
    }

    /// Takes the characters that the HRT wrote to the character port, which it does before its
    /// console runs.
    pub fn take_characters(&self) -> Vec<u8> {
        self.core.state.take_said()
    }

    /// How the kernel crashed, if it has ([`End::Crashed`]). It serves nothing any more, but it may
    /// not have ended: its console then has a prompt at which to look at it.
    pub fn crashed(&self) -> Option<End> {
        self.core.state.crashed()
    }

    /// How the HRT ended, if it has.
    pub fn ended(&self) -> Option<End> {
        self.core.state.ended()
    }

    /// Waits until the HRT has ended; `None` if it has not in time.
    pub fn wait(&self, limit: Duration) -> Option<End> {
        self.core.state.wait(limit)
    }

    /// Merges the address spaces: the HRT sees all memory of this process, at the process's own
    /// addresses, and may write to it.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Safety
    /// The HRT is trusted as a thread of this process is.
    pub unsafe fn merge(&self) -> Result<(), CallError> {
        let core = &self.core;
        core.check_process()?;
        if core.is_merged.load(Ordering::Acquire) {
            return Ok(());
        }
        let root = core.places.merged_root;
        // The windows stay as they are when the address spaces are taken apart.
        let mut windows = core.windows();
        let is_first = !core.has_root.load(Ordering::Acquire);
        if is_first {
            if windows.count() == 0 {
                windows.open_all(&core.hardware.vm).map_err(|error| CallError::Refused(error.to_string()))?;
            }
            // The page is part of the boot state.
            let entries: Vec<u8> = windows.root().iter().flat_map(|entry| entry.to_le_bytes()).collect();
            let _ = core.hardware.memory.write(root, &entries);
            core.has_root.store(true, Ordering::Release);
        }
        // The HRT may ask for one as soon as it sees the process's memory.
        drop(windows);
        if !is_first && partner::is_one(core) {
            partner::call(core, group::request::MERGE, root, 0)?;
        } else {
            self.request(Transaction::Merge, request::MERGE, root)?;
        }
        core.is_merged.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes the address spaces apart again.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn unmerge(&self) -> Result<(), CallError> {
        self.core.check_process()?;
        self.request(Transaction::Merge, request::UNMERGE, 0)?;
        self.core.is_merged.store(false, Ordering::Release);
        Ok(())
    }

    /// Calls a function of this process in the HRT and returns its result. The calling thread
    /// becomes the partner thread of an execution group for this: it runs the CPU on which the
    /// function runs, and makes the function's system calls. The function's second argument is 0.
    ///
    /// # Errors
    /// See [`CallError`]. A call that was given up goes on when the thread makes its next one.
    ///
    /// # Safety
    /// The function runs in the kernel's mode, on a stack of 256 KiB, as the calling thread would
    /// run it. It does not unwind, nor jump out of itself, nor fork.
    pub unsafe fn call(&self, function: Function, argument: u64) -> Result<u64, CallError> {
        self.check_merged()?;
        partner::call(&self.core, function as usize as u64, argument, 0)
    }

    /// The largest number of execution groups, and so of threads that have a place in the HRT.
    pub fn most_groups(&self) -> u64 {
        self.core.most_groups()
    }

    /// Ends what [`Member::answer_futexes`] began, for all threads.
    pub fn forward_futexes(&self) {
        for number in 0..self.core.most_groups() {
            self.core.group(number).futex_waiters.store(0, Ordering::SeqCst);
        }
    }

    /// Rate of the time counter, in kHz.
    pub fn cycle_khz(&self) -> u64 {
        self.hardware.cycle_khz
    }

    /// Whether a descriptor is one that the HVM uses; see [`Builder::descriptors_from`].
    pub fn uses(&self, descriptor: RawFd) -> bool {
        self.hardware.descriptors.have(descriptor)
    }

    /// The descriptors that the HVM uses, in their order.
    pub fn used(&self) -> impl Iterator<Item = u32> {
        self.hardware.descriptors.all()
    }

    /// Gives the calling thread a place in the HRT, to go on there ([`Member::run`]).
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn join(&self) -> Result<Member, CallError> {
        self.check_merged()?;
        Member::new(&self.core)
    }

    /// Calls a function of this process at once by as many threads of the process as the HRT has
    /// CPUs, and returns their results. The threads are the library's; each is the partner thread
    /// of an execution group, as for [`Hvm::call`]. The function's second argument is the place of
    /// its result.
    ///
    /// # Errors
    /// The first error of a call; see [`CallError`].
    ///
    /// # Safety
    /// As for [`Hvm::call`], but the thread is the library's.
    pub unsafe fn call_all(&self, function: Function, argument: u64) -> Result<Vec<u64>, CallError> {
        self.check_merged()?;
        self.workers.call(&self.core, function as usize as u64, argument)
    }

    /// Calls a function of this process on a thread of the HRT's first CPU, which has no partner
    /// thread, and returns its result. The function's second argument is 0.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Safety
    /// The function runs in the kernel's mode, on a stack of 256 KiB, on a thread that is none of
    /// this process: it must make no system call and use no thread-local variable.
    pub unsafe fn call_alone(&self, function: Function, argument: u64) -> Result<u64, CallError> {
        let results = self.invoke(Transaction::Call, request::INVOKE, function, argument, 1)?;
        Ok(results[0])
    }

    /// Calls a function of this process on threads of all CPUs of the HRT at once, which have no
    /// partner threads, and returns the results as they came. The function's second argument is
    /// the index of its CPU.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Safety
    /// As for [`Hvm::call_alone`].
    pub unsafe fn call_all_alone(&self, function: Function, argument: u64) -> Result<Vec<u64>, CallError> {
        self.invoke(Transaction::ParallelCall, request::INVOKE_ALL, function, argument, self.core.cpus())
    }

    /// Begins synchronous mode, in which the calling thread's calls take no exit: the HRT's first
    /// CPU polls for them. One thread at a time can do so.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn synchronize(&self) -> Result<Synchronous, CallError> {
        self.check_merged()?;
        Synchronous::start(&self.core)
    }

    /// Sets the function of this process that [`signal_ros`](crate::signal_ros) calls, or removes
    /// it.
    pub fn on_signal(&self, handler: Option<SignalHandler>) {
        let handler = handler.map_or(0, |handler| handler as usize);
        self.core.signal_handler.store(handler, Ordering::Release);
    }

    /// Waits for an event that the HRT posts for this process to serve (Palacios's protocol; the
    /// functions that [`Hvm::call`] calls need none); `None` if none comes in time. It is to be
    /// completed by [`Hvm::complete_event`].
    pub fn next_event(&self, limit: Duration) -> Option<RosEvent> {
        self.core.ros_events.take(limit)
    }

    /// Completes the event that [`Hvm::next_event`] returned. Returns false if there is none to
    /// complete.
    pub fn complete_event(&self, result: u64) -> bool {
        self.core.ros_events.complete(result)
    }

    /// Looks for a function of the kernel that the code of [`program`](crate::program)s may call:
    /// one of [`protocol::group::function`], or of the kernel's interface for programs. `None` if
    /// there is none, or not for them.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn function(&self, name: &str) -> Result<Option<u64>, CallError> {
        self.check_merged()?;
        self.core.state.begin(Transaction::FindFunction, 1)?;
        let record = self.write_record(name.as_ptr() as u64, name.len() as u64);
        self.core.send(request::FIND_FUNCTION, record)?;
        Ok(self.core.answers()?.first().copied().filter(|&at| at != 0))
    }

    /// Writes the record of a request, and returns its address.
    fn write_record(&self, function: u64, argument: u64) -> u64 {
        let record = self.core.places.communication_page + offset_of!(Page, record) as u64;
        self.core.put(record + offset_of!(Record, function) as u64, function);
        self.core.put(record + offset_of!(Record, argument) as u64, argument);
        self.core.request.offset + record
    }

    fn check_merged(&self) -> Result<(), CallError> {
        self.core.check_process()?;
        if self.core.is_merged.load(Ordering::Acquire) { Ok(()) } else { Err(CallError::NotMerged) }
    }

    fn invoke(
        &self,
        what: Transaction,
        request: u64,
        function: Function,
        argument: u64,
        answers: u32,
    ) -> Result<Vec<u64>, CallError> {
        self.check_merged()?;
        let core = &self.core;
        core.state.begin(what, answers)?;
        let record = self.write_record(function as usize as u64, argument);
        core.send(request, record)?;
        core.answers()
    }

    /// Makes a request, and waits for its answer.
    fn request(&self, what: Transaction, request: u64, argument: u64) -> Result<(), CallError> {
        self.core.state.begin(what, 1)?;
        self.core.send(request, argument)?;
        match self.core.answers()?.iter().all(|&answer| answer == 0) {
            true => Ok(()),
            false => Err(CallError::Failed(what)),
        }
    }

    /// Resets the HRT: stops it if it runs, and boots an image, the same as before or another one,
    /// on the same machine with the same settings. The address spaces are not merged then, and the
    /// threads that were partners become such again by their next calls.
    ///
    /// # Errors
    /// See [`Error`]; there is no HRT then, and a further reset may succeed. In a fork of the
    /// process, [`Error::NotHere`].
    pub fn reset(&mut self, image: &[u8]) -> Result<(), Error> {
        if !self.core.is_here() {
            return Err(Error::NotHere);
        }
        let mut image = Image::parse(image)?;
        if self.settings.patches_hypercalls {
            image.patch_hypercalls();
        }
        self.stop();
        self.shared_lines = None;
        partner::give_back(&self.core);
        self.workers = Workers::default();
        let groups = locked(&self.core.partners.all).len() as u64;
        self.hardware.clear(&image, groups)?;
        let (core, runners) = self.settings.boot(&self.hardware, &image)?;
        let handler = self.core.signal_handler.load(Ordering::Acquire);
        core.signal_handler.store(handler, Ordering::Release);
        (self.core, self.runners) = (core, runners.into());
        self.shared_lines = self.settings.share(&self.hardware, &self.core)?;
        Ok(())
    }

    /// Stops the HRT. Returns how it ended, which may be by itself just before. In a fork of the
    /// process it does nothing.
    pub fn stop(&self) -> End {
        if !self.core.is_here() {
            return End::Stopped;
        }
        let runners = std::mem::take(&mut *self.runners.lock().unwrap_or_else(PoisonError::into_inner));
        let end = stop(&self.core, runners);
        self.workers.end();
        end
    }
}

impl Drop for Hvm {
    fn drop(&mut self) {
        self.stop();
        if self.core.is_here() {
            // The threads that were partners keep their groups for longer.
            partner::give_back(&self.core);
        } else {
            // The handles of threads that are not here cannot be used, not even to let them go.
            let runners = self.runners.get_mut().unwrap_or_else(PoisonError::into_inner);
            runners.drain(..).for_each(std::mem::forget);
            self.workers.forget();
        }
    }
}

/// Ends the HRT unless it has ended, and waits for its threads. Returns how it ended.
fn stop(core: &Core, runners: Vec<Runner>) -> End {
    let end = core.state.end(End::Stopped);
    runners.into_iter().for_each(Runner::join);
    partner::join_all(core);
    end
}
