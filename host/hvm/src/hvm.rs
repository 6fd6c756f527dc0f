//! [`Hvm`]: an HRT beside this process.

use std::arch::asm;
use std::fs::File;
use std::mem::offset_of;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VmFd};
use protocol::boot::Extension;
use protocol::call::{MARK, PORT, RINGS_PORT, SECOND_MARK, number};
use protocol::group;
use protocol::upcall::{Page, Record, request};
use rings::{REGION_SIZE, Rings};

use crate::boot_state::{self, Machine};
use crate::core::{Core, Function, SignalHandler, Template};
use crate::events::Recorder;
use crate::files::Files;
use crate::image::Image;
use crate::lines::{self, Bell, Line, SharedLines, Source};
use crate::memory::{MOST_CPUS, Mapping, add_region};
use crate::partner;
use crate::partners::Partners;
use crate::runner::{self, Runner};
use crate::state::{CallError, End, State, Transaction};
use crate::synchronous::Synchronous;
use crate::vcpu::Vcpu;
use crate::windows::Windows;
use crate::workers::Workers;
use crate::{Error, support};

/// Physical address of the rings' region; the HRT's memory ends below it.
const RINGS: u64 = 3 << 30;
/// Physical address of the windows' page tables.
const WINDOW_TABLES: u64 = RINGS + REGION_SIZE;
/// Physical address of the execution groups' pages.
const GROUPS: u64 = RINGS + (256 << 20);
/// Physical addresses that KVM uses itself on some CPUs (KVM's API, KVM_SET_TSS_ADDR and
/// KVM_SET_IDENTITY_MAP_ADDR); nothing else is there.
const KVMS_OWN: u64 = 0xfffb_d000;
const KVMS_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Lines of the I/O APIC that the ROS could raise; the HRT has no I/O APIC, but KVM takes no 0.
const NO_LINES: u64 = 24;
const PAGE: u64 = 4096;
/// The first memory slot behind those of the HRT's own memory, the rings and the groups.
const FIRST_FREE_SLOT: u32 = 3;

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

    /// As [`Builder::share`], but the console stays this process's ([`Hvm::console`]).
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

    /// Makes an access of a called function that Linux refuses have the effect that it has in the
    /// process: the partner thread executes the instruction itself, and gets SIGSEGV or SIGBUS for
    /// it. A handler may mend what is wrong and return; without one the process is killed. The
    /// library takes SIGTRAP for this. Otherwise such an access ends its call with an error.
    pub fn faults_as_in_process(mut self) -> Self {
        self.faults_as_in_process = true;
        self
    }

    /// Boots the HRT. Returns as soon as its CPUs run.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn boot(self) -> Result<Hvm, Error> {
        let image = Image::parse(self.image)?;
        let kvm = support::open()?;
        let size = self.check(&kvm, &image)?;
        let vm = kvm.create_vm().map_err(Error::refused("creating a virtual machine"))?;
        let kinds = if self.shared.is_empty() { &Line::kinds()[..1] } else { &Line::kinds() };
        let (memory, rings_file) = (Mapping::huge(size as usize)?, rings_file(kinds)?);
        let (number, bell) = (lines::next_number(), Arc::new(Bell::new().map_err(unshared)?));
        let crash_file = match &self.crash_file {
            None if !self.shared.is_empty() => Some(lines::path(number, &"crash").map_err(unshared)?),
            given => given.clone(),
        };
        let rings = Mapping::shared(&rings_file, REGION_SIZE as usize)?;
        let groups = Mapping::private(MOST_CPUS as usize * group::SIZE)?;
        let here = Mapping::wiped_in_forks()?;
        here.word(0).into_iter().for_each(|word| word.store(1, Ordering::Relaxed));
        prepare_apics(&vm)?;
        for (slot, (at, mapping)) in [(0, &memory), (RINGS, &rings), (GROUPS, &groups)].into_iter().enumerate() {
            add_region(&vm, slot as u32, at, mapping)?;
        }
        image.load(&memory)?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::refused("reading KVM's features"))?;
        let first = vm.create_vcpu(0).map_err(Error::refused("creating a CPU"))?;
        let machine = Machine {
            cpus: self.cpus,
            cycle_khz: first.get_tsc_khz().map_err(Error::refused("reading the time counter's rate"))?.into(),
            has_large_pages: has_large_pages(&cpuid),
            extension: Extension {
                rings: RINGS,
                rings_size: REGION_SIZE,
                groups: GROUPS,
                pages: u64::from(MOST_CPUS - self.cpus) + 1,
            },
            line: self.line,
        };
        let places = boot_state::write(&memory, image.end().next_multiple_of(PAGE), &image.request, &machine)?;
        let windows =
            Windows::new(&vm, WINDOW_TABLES, FIRST_FREE_SLOT, machine.has_large_pages, support::address_bits())?;
        let has_deadlines = kvm.check_extension(Cap::TscDeadlineTimer);
        let core = Arc::new(Core {
            state: State::default(),
            partners: Partners::default(),
            limit: self.limit,
            faults_as_in_process: self.faults_as_in_process,
            is_merged: AtomicBool::new(false),
            is_synchronous: AtomicBool::new(false),
            signal_handler: AtomicUsize::new(0),
            debugger: match self.shared {
                [] => None,
                _ => Some(rings_of(&rings_file, Line::Debugger).map_err(unshared)?),
            },
            takes_cpus_again: AtomicBool::new(false),
            recorder: Arc::new(Recorder::new()?),
            files: Files::new(self.trace_file, crash_file),
            vm,
            windows: Mutex::new(windows),
            memory,
            groups,
            places,
            template: Template { cpuid, has_deadlines, request: image.request },
            cpus: self.cpus,
            cycle_khz: machine.cycle_khz,
            here,
        });
        let others = (1..self.cpus).map(|id| core.create_cpu(id));
        let cpus: Vec<Vcpu> = std::iter::once(core.prepare(first, 0)).chain(others).collect::<Result<_, _>>()?;
        let shared_lines = match self.shared {
            [] => None,
            shared => Some(share(shared, number, &core, &rings_file, bell)?),
        };
        Ok(Hvm {
            runners: start_all(&core, cpus)?.into(),
            core,
            workers: Workers::default(),
            _shared_lines: shared_lines,
            rings_file,
            _kvm: kvm,
            _rings: rings,
        })
    }

    /// Checks the number of CPUs and the size of the memory, and returns the latter.
    fn check(&self, kvm: &Kvm, image: &Image<'_>) -> Result<u64, Error> {
        let most = (kvm.get_max_vcpus() as u32).min(MOST_CPUS);
        if self.cpus == 0 || self.cpus > most {
            return Err(Error::BadCpus { asked: self.cpus, most });
        }
        let least = image.end().next_multiple_of(PAGE) + boot_state::SIZE;
        let size = self.memory.checked_next_multiple_of(PAGE).filter(|size| (least..=RINGS).contains(size));
        size.ok_or(Error::BadSize { asked: self.memory, least, most: RINGS })
    }
}

/// Starts a thread for each CPU.
fn start_all(core: &Arc<Core>, cpus: Vec<Vcpu>) -> Result<Vec<Runner>, Error> {
    let mut runners = Vec::new();
    for (index, cpu) in cpus.into_iter().enumerate() {
        match Runner::start(index as u32, core, move |core| runner::run(index as u32, &mut { cpu }, core)) {
            Ok(runner) => runners.push(runner),
            Err(error) => {
                stop(core, runners);
                return Err(error);
            }
        }
    }
    Ok(runners)
}

fn rings_of(file: &File, line: Line) -> std::io::Result<Rings> {
    Ok(Rings::new(file.try_clone()?, 0, line as u32))
}

fn unshared(why: std::io::Error) -> Error {
    Error::Refused { what: "putting the HRT's lines on sockets", why }
}

/// Puts lines of the rings on sockets.
fn share(
    shared: &[Line],
    number: u32,
    core: &Arc<Core>,
    rings_file: &File,
    bell: Arc<Bell>,
) -> Result<SharedLines, Error> {
    let address = IoEventAddress::Pio(RINGS_PORT.into());
    core.vm
        .register_ioevent(bell.event(), &address, NoDatamatch)
        .map_err(Error::refused("having KVM tell of bytes in the rings"))?;
    let source = |line| match line {
        Line::Events => Ok(Source::Events(Arc::clone(&core.recorder))),
        line => rings_of(rings_file, line).map(Source::Rings),
    };
    let weak = Arc::downgrade(core);
    let interrupt = move || {
        weak.upgrade().into_iter().for_each(|core| core.interrupt_for_debugger());
    };
    SharedLines::new(shared, number, source, bell, interrupt).map_err(unshared)
}

/// A file in memory with the rings' region.
fn rings_file(kinds: &[u32]) -> Result<File, Error> {
    // SAFETY: the name is a string that ends with a zero byte.
    let file = unsafe { libc::memfd_create(c"hrt-rings".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(Error::last("creating memory for the HRT's rings"));
    }
    // SAFETY: the descriptor is new and has no other owner.
    let file = unsafe { File::from_raw_fd(file) };
    let filled = file.set_len(REGION_SIZE).and_then(|()| file.write_all_at(&rings::empty_region(kinds), 0));
    filled.map_err(|why| Error::Refused { what: "filling the HRT's rings", why })?;
    Ok(file)
}

/// Gives the machine local APICs, and nothing else of an interrupt controller.
fn prepare_apics(vm: &VmFd) -> Result<(), Error> {
    vm.set_identity_map_address(KVMS_IDENTITY_MAP).map_err(Error::refused("placing KVM's own pages"))?;
    vm.set_tss_address(KVMS_OWN as usize).map_err(Error::refused("placing KVM's own pages"))?;
    let apics = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [NO_LINES, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&apics).map_err(Error::refused("creating the APICs"))
}

/// Whether the guest's page tables may have leaves of 1 GiB (SDM Vol. 2A, CPUID 80000001h: EDX bit
/// 26).
fn has_large_pages(cpuid: &kvm_bindings::CpuId) -> bool {
    cpuid.as_slice().iter().any(|entry| entry.function == 0x8000_0001 && entry.edx & 1 << 26 != 0)
}

/// An HRT beside this process. Dropping it stops the HRT.
pub struct Hvm {
    core: Arc<Core>,
    runners: Mutex<Vec<Runner>>,
    workers: Workers,
    _shared_lines: Option<SharedLines>,
    rings_file: File,
    _kvm: Kvm,
    _rings: Mapping,
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
        }
    }

    /// Returns the ROS's side of the HRT's console.
    ///
    /// # Errors
    /// Fails if the descriptor cannot be copied.
    pub fn console(&self) -> std::io::Result<Rings> {
        rings_of(&self.rings_file, Line::Console)
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
        let is_first = {
            let mut windows = core.windows();
            let is_first = windows.count() == 0;
            if is_first {
                windows.open_all(&core.vm).map_err(|error| CallError::Refused(error.to_string()))?;
                // The page is part of the boot state.
                let entries: Vec<u8> = windows.root().iter().flat_map(|entry| entry.to_le_bytes()).collect();
                let _ = core.memory.write(root, &entries);
            }
            is_first
        };
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

    /// Sets the function of this process that [`signal_ros`] calls, or removes it.
    pub fn on_signal(&self, handler: Option<SignalHandler>) {
        let handler = handler.map_or(0, |handler| handler as usize);
        self.core.signal_handler.store(handler, Ordering::Release);
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
        let record = core.places.communication_page + offset_of!(Page, record) as u64;
        core.put(record + offset_of!(Record, function) as u64, function as usize as u64);
        core.put(record + offset_of!(Record, argument) as u64, argument);
        core.send(request, core.template.request.offset + record)?;
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
        if !self.core.is_here() {
            // The handles of threads that are not here cannot be used, not even to let them go.
            let runners = self.runners.get_mut().unwrap_or_else(PoisonError::into_inner);
            runners.drain(..).for_each(std::mem::forget);
            self.workers.forget();
        }
    }
}

/// Has the function called in the ROS that [`Hvm::on_signal`] set, with a code. Returns whether
/// there is one. Only functions in the HRT can do this; elsewhere it returns false.
pub fn signal_ros(code: u64) -> bool {
    let (selector, result): (u64, u64);
    // SAFETY: the first instruction only reads a register.
    unsafe { asm!("mov {}, cs", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    // The privilege level (SDM Vol. 3A, 5.5): in a process the next instruction is forbidden.
    if selector & 3 != 0 {
        return false;
    }
    // SAFETY: the instruction asks the monitor, which changes RAX alone and whose function the ROS
    // answers for. LLVM reserves RBX.
    unsafe {
        asm!(
            "xchg {mark}, rbx",
            "out {port}, eax",
            "xchg {mark}, rbx",
            port = const PORT,
            mark = inout(reg) SECOND_MARK => _,
            inout("rax") MARK => result,
            in("rcx") number::SIGNAL_ROS,
            in("rdx") code,
        );
    }
    result == 0
}

/// Ends the HRT unless it has ended, and waits for its threads. Returns how it ended.
fn stop(core: &Core, runners: Vec<Runner>) -> End {
    let end = core.state.end(End::Stopped);
    runners.into_iter().for_each(Runner::join);
    partner::join_all(core);
    end
}
