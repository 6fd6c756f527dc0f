//! [`Hvm`]: an HRT beside this process.

use std::fs::File;
use std::mem::offset_of;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_msi};
use kvm_ioctls::{Cap, Kvm, VmFd};
use protocol::boot::Extension;
use protocol::upcall::{Page, Record, request};
use rings::{REGION_SIZE, Rings};

use crate::boot_state::{self, Machine, Places};
use crate::cpu::{self, Runner};
use crate::image::Image;
use crate::memory::{Mapping, add_region};
use crate::state::{CallError, End, State, Transaction};
use crate::windows::Windows;
use crate::{Error, support};

/// Physical address of the rings' region; the HRT's memory ends below it.
const RINGS: u64 = 3 << 30;
/// Physical address of the windows' page tables.
const WINDOW_TABLES: u64 = RINGS + REGION_SIZE;
/// Physical addresses that KVM uses itself on some CPUs (KVM's API, KVM_SET_TSS_ADDR and
/// KVM_SET_IDENTITY_MAP_ADDR); nothing else is there.
const KVMS_OWN: u64 = 0xfffb_d000;
const KVMS_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Lines of the I/O APIC that the ROS could raise; the HRT has no I/O APIC, but KVM takes no 0.
const NO_LINES: u64 = 24;
const PAGE: u64 = 4096;
/// The first memory slot behind those of the HRT's own memory and of the rings.
const FIRST_FREE_SLOT: u32 = 2;
/// The address of a message that interrupts APIC id 0 (SDM Vol. 3A, 11.11.1).
const FIRST_APIC: u32 = 0xfee0_0000;
/// Largest number of CPUs: the kernel's.
const MOST_CPUS: u32 = 256;

/// Describes an HVM.
#[derive(Clone, Debug)]
pub struct Builder<'a> {
    image: &'a [u8],
    cpus: u32,
    memory: u64,
    line: &'a str,
    limit: Duration,
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

    /// Boots the HRT. Returns as soon as its CPUs run.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn boot(self) -> Result<Hvm, Error> {
        let image = Image::parse(self.image)?;
        let kvm = support::open()?;
        let most = (kvm.get_max_vcpus() as u32).min(MOST_CPUS);
        if self.cpus == 0 || self.cpus > most {
            return Err(Error::BadCpus { asked: self.cpus, most });
        }
        let least = image.end().next_multiple_of(PAGE) + boot_state::SIZE;
        let size = self.memory.checked_next_multiple_of(PAGE).filter(|size| (least..=RINGS).contains(size));
        let size = size.ok_or(Error::BadSize { asked: self.memory, least, most: RINGS })?;

        let vm = kvm.create_vm().map_err(Error::refused("creating a virtual machine"))?;
        let (memory, rings_file) = (Mapping::private(size as usize)?, rings_file()?);
        let rings = Mapping::shared(&rings_file, REGION_SIZE as usize)?;
        prepare_apics(&vm)?;
        for (slot, (at, mapping)) in [(0, &memory), (RINGS, &rings)].into_iter().enumerate() {
            add_region(&vm, slot as u32, at, mapping)?;
        }
        image.load(&memory)?;
        let mut cpuid =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::refused("reading KVM's features"))?;
        let first = vm.create_vcpu(0).map_err(Error::refused("creating a CPU"))?;
        let machine = Machine {
            cpus: self.cpus,
            cycle_khz: first.get_tsc_khz().map_err(Error::refused("reading the time counter's rate"))?.into(),
            has_large_pages: has_large_pages(&cpuid),
            rings: Extension { rings: RINGS, rings_size: REGION_SIZE },
            line: self.line,
        };
        let places = boot_state::write(&memory, &image.request, &machine)?;
        let mut cpus = vec![first];
        for id in 1..self.cpus {
            cpus.push(vm.create_vcpu(id.into()).map_err(Error::refused("creating a CPU"))?);
        }
        let has_deadlines = kvm.check_extension(Cap::TscDeadlineTimer);
        for (id, cpu) in cpus.iter().enumerate() {
            cpu::identify(&mut cpuid, id as u32, has_deadlines);
            cpu::prepare(cpu, &cpuid, &image.request, &places)?;
        }
        let windows =
            Windows::new(&vm, WINDOW_TABLES, FIRST_FREE_SLOT, machine.has_large_pages, support::address_bits())?;
        let mut runners = Vec::new();
        let state = Arc::default();
        for (index, cpu) in cpus.into_iter().enumerate() {
            match Runner::start(index as u32, cpu, &state) {
                Ok(runner) => runners.push(runner),
                Err(error) => {
                    stop(&state, runners);
                    return Err(error);
                }
            }
        }
        Ok(Hvm {
            state,
            runners: runners.into(),
            rings_file,
            process: std::process::id(),
            cpus: self.cpus,
            limit: self.limit,
            offset: image.request.offset,
            vector: image.request.vector,
            places,
            windows: Mutex::new(Merged { windows, is_merged: false }),
            vm,
            memory,
            _kvm: kvm,
            _rings: rings,
        })
    }
}

/// A file in memory with the rings' region.
fn rings_file() -> Result<File, Error> {
    // SAFETY: the name is a string that ends with a zero byte.
    let file = unsafe { libc::memfd_create(c"hrt-rings".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(Error::last("creating memory for the HRT's rings"));
    }
    // SAFETY: the descriptor is new and has no other owner.
    let file = unsafe { File::from_raw_fd(file) };
    let filled = file.set_len(REGION_SIZE).and_then(|()| file.write_all_at(&rings::empty_region(), 0));
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
    state: Arc<State>,
    runners: Mutex<Vec<Runner>>,
    rings_file: File,
    /// The process that booted the HRT.
    process: u32,
    cpus: u32,
    limit: Duration,
    offset: u64,
    vector: u8,
    places: Places,
    // In this order: the machine goes before its memory.
    vm: VmFd,
    windows: Mutex<Merged>,
    memory: Mapping,
    _kvm: Kvm,
    _rings: Mapping,
}

/// What the HRT sees of the process.
struct Merged {
    windows: Windows,
    is_merged: bool,
}

/// A function of this process that an HRT calls: it gets its argument and the index of the CPU.
pub type Function = extern "C" fn(argument: u64, cpu: u64) -> u64;

impl Hvm {
    /// Describes an HVM that boots an image: the bytes of an ELF file.
    pub fn builder(image: &[u8]) -> Builder<'_> {
        Builder { image, cpus: 1, memory: 256 << 20, line: "", limit: Duration::from_secs(10) }
    }

    /// Returns the ROS's side of the HRT's console.
    ///
    /// # Errors
    /// Fails if the descriptor cannot be copied.
    pub fn console(&self) -> std::io::Result<Rings> {
        Ok(Rings::new(self.rings_file.try_clone()?, 0))
    }

    /// Takes the characters that the HRT wrote to the character port, which it does before its
    /// console runs.
    pub fn take_characters(&self) -> Vec<u8> {
        self.state.take_said()
    }

    /// How the HRT ended, if it has.
    pub fn ended(&self) -> Option<End> {
        self.state.ended()
    }

    /// Waits until the HRT has ended; `None` if it has not in time.
    pub fn wait(&self, limit: Duration) -> Option<End> {
        self.state.wait(limit)
    }

    /// Merges the address spaces: the HRT sees all memory of this process, at the process's own
    /// addresses, and may write to it. Memory that is mapped later is seen if other memory was
    /// mapped in the same GiB; merging again adds the rest.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Safety
    /// The HRT is trusted as a thread of this process is.
    pub unsafe fn merge(&self) -> Result<(), CallError> {
        self.check_process()?;
        let mut merged = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        merged.windows.open_all(&self.vm).map_err(|error| CallError::Refused(error.to_string()))?;
        let root: Vec<u8> = merged.windows.root().iter().flat_map(|entry| entry.to_le_bytes()).collect();
        // The page is part of the boot state.
        let _ = self.memory.write(self.places.merged_root, &root);
        self.request(Transaction::Merge, request::MERGE, self.places.merged_root, 1)?;
        merged.is_merged = true;
        Ok(())
    }

    /// Takes the address spaces apart again.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn unmerge(&self) -> Result<(), CallError> {
        self.check_process()?;
        let mut merged = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        self.request(Transaction::Merge, request::UNMERGE, 0, 1)?;
        merged.is_merged = false;
        Ok(())
    }

    /// Calls a function of this process in the HRT, on its first CPU, and returns its result.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Safety
    /// The function runs in the kernel's mode, on a stack of 256 KiB, on a thread that is none of
    /// this process: it must make no system call and use no thread-local variable.
    pub unsafe fn call(&self, function: Function, argument: u64) -> Result<u64, CallError> {
        let results = self.invoke(Transaction::Call, request::INVOKE, function, argument, 1)?;
        Ok(results[0])
    }

    /// Calls a function of this process on all CPUs of the HRT at once, and returns the results as
    /// they came.
    ///
    /// # Errors
    /// See [`CallError`].
    ///
    /// # Safety
    /// As for [`Hvm::call`].
    pub unsafe fn call_all(&self, function: Function, argument: u64) -> Result<Vec<u64>, CallError> {
        self.invoke(Transaction::ParallelCall, request::INVOKE_ALL, function, argument, self.cpus)
    }

    fn invoke(
        &self,
        what: Transaction,
        request: u64,
        function: Function,
        argument: u64,
        answers: u32,
    ) -> Result<Vec<u64>, CallError> {
        self.check_process()?;
        if !self.windows.lock().unwrap_or_else(PoisonError::into_inner).is_merged {
            return Err(CallError::NotMerged);
        }
        self.state.begin(what, answers)?;
        let record = self.places.communication_page + offset_of!(Page, record) as u64;
        self.put(record + offset_of!(Record, function) as u64, function as usize as u64);
        self.put(record + offset_of!(Record, argument) as u64, argument);
        self.send(request, self.offset + record)?;
        self.state.answers(self.limit)
    }

    /// Fails in a fork, where the HRT's threads are not, and locks may be held for ever.
    fn check_process(&self) -> Result<(), CallError> {
        if std::process::id() == self.process { Ok(()) } else { Err(CallError::OtherProcess) }
    }

    /// Makes a request with so many answers, and waits for them.
    fn request(&self, what: Transaction, request: u64, argument: u64, answers: u32) -> Result<(), CallError> {
        self.state.begin(what, answers)?;
        self.send(request, argument)?;
        match self.state.answers(self.limit)?.iter().all(|&answer| answer == 0) {
            true => Ok(()),
            false => Err(CallError::Failed(what)),
        }
    }

    /// Writes a request to the communication page and interrupts the HRT's first CPU. The
    /// transaction has begun.
    fn send(&self, request: u64, argument: u64) -> Result<(), CallError> {
        let page = self.places.communication_page;
        self.put(page + offset_of!(Page, argument) as u64, argument);
        self.put(page + offset_of!(Page, request) as u64, request);
        let message = kvm_msi { address_lo: FIRST_APIC, data: self.vector.into(), ..Default::default() };
        match self.vm.signal_msi(message) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.put(page + offset_of!(Page, request) as u64, request::NULL);
                self.state.cancel();
                Err(CallError::Refused(format!("the HRT cannot be interrupted: {error}")))
            }
        }
    }

    /// Writes a word of the boot state.
    fn put(&self, at: u64, word: u64) {
        // The boot state is part of the memory.
        self.memory.word(at).into_iter().for_each(|place| place.store(word, Ordering::Release));
    }

    /// Stops the HRT. Returns how it ended, which may be by itself just before. In a fork of the
    /// process it does nothing.
    pub fn stop(&self) -> End {
        if self.check_process().is_err() {
            return End::Stopped;
        }
        let runners = std::mem::take(&mut *self.runners.lock().unwrap_or_else(PoisonError::into_inner));
        stop(&self.state, runners)
    }
}

impl Drop for Hvm {
    fn drop(&mut self) {
        self.stop();
        if self.check_process().is_err() {
            // The handles of threads that are not here cannot be used, not even to let them go.
            let runners = self.runners.get_mut().unwrap_or_else(PoisonError::into_inner);
            runners.drain(..).for_each(std::mem::forget);
        }
    }
}

/// Ends the HRT unless it has ended, and waits for its threads. Returns how it ended.
fn stop(state: &State, runners: Vec<Runner>) -> End {
    let end = state.end(End::Stopped);
    runners.into_iter().for_each(Runner::join);
    end
}
