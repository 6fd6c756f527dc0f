//! [`Core`]: the part of an HVM that the threads running its CPUs share.

use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use kvm_bindings::kvm_msi;
use protocol::boot::{MAGIC, MAGIC_AGAIN, Request};
use protocol::call::{Ending, FAILED, MARK, SECOND_MARK, extension, number};
use protocol::group::{self, Begun, Group, SIZE};
use protocol::upcall::{Page, request};
use rings::Rings;

use crate::boot_state::Places;
use crate::files::Files;
use crate::hardware::Hardware;
use crate::kick::Kicks;
use crate::memory::MOST_CPUS;
use crate::partners::Partners;
use crate::ros_events::{Memory, RosEvents};
use crate::state::{CallError, End, State, Transaction};
use crate::vcpu::{Vcpu, now};
use crate::windows::Windows;
use crate::{Error, cpu};

/// The address of a message that interrupts APIC id 0 (SDM Vol. 3A, 11.11.1).
const FIRST_APIC: u32 = 0xfee0_0000;
/// Place of the APIC id in the address. There are as many CPUs as it has room for.
const DESTINATION: u32 = 12;
/// The data of a message that is a non-maskable interrupt (11.11.2).
const NON_MASKABLE: u32 = 0b100 << 8;

/// What the threads that run an HVM's CPUs share.
pub struct Core {
    /// What the HRT does, and how it ended.
    pub state: State,
    /// The execution groups.
    pub partners: Partners,
    /// What the HRT has this process do without a partner.
    pub ros_events: RosEvents,
    /// How long a request waits for its answer.
    pub limit: Duration,
    /// An access that Linux refuses has the effect that it has in the process.
    pub faults_as_in_process: bool,
    /// How threads are made to leave the HRT.
    pub kicks: Kicks,
    /// Whether the address spaces are merged.
    pub is_merged: AtomicBool,
    /// Whether a thread calls in synchronous mode.
    pub is_synchronous: AtomicBool,
    /// The function that the HRT can have called here, 0 for none.
    pub signal_handler: AtomicUsize,
    /// Whether the image takes CPUs again that had a triple fault.
    pub takes_cpus_again: AtomicBool,
    /// What the kernel writes.
    pub files: Files,
    /// The debugger's line, if there is one.
    pub(crate) debugger: Option<Rings>,
    /// The machine.
    pub(crate) hardware: Arc<Hardware>,
    pub(crate) places: Places,
    /// Whether the root table of the merged address space is written.
    pub(crate) has_root: AtomicBool,
    /// What the image asks for.
    pub(crate) request: Request,
}

/// A function of this process that an HRT calls: it gets its argument, and an index if it is called
/// several times at once.
pub type Function = extern "C" fn(argument: u64, index: u64) -> u64;

/// A function of this process that an HRT has called in the process itself.
pub type SignalHandler = extern "C" fn(code: u64);

impl Core {
    /// Takes a CPU that enters the image when it is run.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn take_cpu(&self, id: u32) -> Result<Vcpu, Error> {
        let cpu = self.hardware.take_cpu(id)?;
        cpu::enter(&cpu.fd, &self.request, &self.places, MAGIC)?;
        Ok(cpu)
    }

    /// Has a CPU that had a triple fault enter the image again, where the kernel reports that.
    /// Returns false if the kernel does not, or has crashed already.
    pub fn revive(&self, cpu: &mut Vcpu) -> bool {
        let can = self.takes_cpus_again.load(Ordering::Acquire) && self.state.over().is_none();
        can && cpu::enter(&cpu.fd, &self.request, &self.places, MAGIC_AGAIN).is_ok()
    }

    /// The number of CPUs without partners.
    pub fn cpus(&self) -> u32 {
        self.hardware.cpus
    }

    /// The largest number of execution groups. The page behind theirs is that of the thread that
    /// calls in synchronous mode.
    pub fn most_groups(&self) -> u64 {
        u64::from(MOST_CPUS - self.cpus())
    }

    /// A group's page.
    pub fn group(&self, number: u64) -> &Group {
        let at = number.min(u64::from(MOST_CPUS) - 1) * SIZE as u64;
        // SAFETY: the mapping has a page for each number, and both sides use its words as atomics.
        unsafe { &*((self.hardware.groups.address() + at) as *const Group) }
    }

    /// Ends an event of a group's channel.
    #[inline]
    pub fn end_event(&self, group: &Group, begun: Begun, result: u64) {
        let end = now();
        group.channel.end(begun, result, end);
        let Begun { sequence, kind, detail, at } = begun;
        let number = (std::ptr::from_ref(group) as u64 - self.hardware.groups.address()) / SIZE as u64;
        self.hardware.recorder.record(number, [sequence, kind as u64, detail, result, at, end.saturating_sub(at)]);
    }

    /// Converts a duration to cycles.
    pub fn cycles(&self, duration: Duration) -> u64 {
        (duration.as_micros() as u64).saturating_mul(self.hardware.cycle_khz) / 1000
    }

    /// Whether this is the process that booted the HRT, and no fork of it.
    pub fn is_here(&self) -> bool {
        self.hardware.here.word(0).is_some_and(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Fails in a fork, where the HRT's threads are not, and locks may be held for ever.
    ///
    /// # Errors
    /// [`CallError::OtherProcess`].
    pub fn check_process(&self) -> Result<(), CallError> {
        if self.is_here() { Ok(()) } else { Err(CallError::OtherProcess) }
    }

    /// The windows.
    pub fn windows(&self) -> MutexGuard<'_, Windows> {
        self.hardware.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the window with an address; false if that cannot be.
    pub fn open_window(&self, address: u64) -> bool {
        self.is_merged.load(Ordering::Relaxed) && self.windows().open_at(&self.hardware.vm, address).is_ok()
    }

    /// Writes a request to the communication page and interrupts the HRT's first CPU. The
    /// transaction has begun.
    ///
    /// # Errors
    /// [`CallError::Refused`].
    pub fn send(&self, request: u64, argument: u64) -> Result<(), CallError> {
        let page = self.places.communication_page;
        self.put(page + offset_of!(Page, argument) as u64, argument);
        self.put(page + offset_of!(Page, request) as u64, request);
        match self.interrupt(0, self.request.vector.into()) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.put(page + offset_of!(Page, request) as u64, request::NULL);
                self.state.cancel();
                Err(CallError::Refused(format!("the HRT cannot be interrupted: {error}")))
            }
        }
    }

    /// Interrupts a CPU by its APIC id.
    fn interrupt(&self, id: u32, data: u32) -> Result<(), kvm_ioctls::Error> {
        let address_lo = FIRST_APIC | id << DESTINATION;
        self.hardware.vm.signal_msi(kvm_msi { address_lo, data, ..Default::default() }).map(drop)
    }

    /// Has the kernel end the wait in which a group's thread may be, because its partner wants it.
    pub fn want_back(&self, number: u64) {
        self.group(number).is_wanted.store(1, Ordering::Release);
        // If it fails, the thread comes back at the end of its wait.
        let _ = self.interrupt(self.cpus() + number as u32, self.request.vector.into());
    }

    /// Makes the HRT's first CPU look at the debugger's line.
    pub fn interrupt_for_debugger(&self) {
        // If it fails, the caller tries again while there is something to read.
        let _ = self.interrupt(0, NON_MASKABLE);
    }

    /// Waits for the answers of the transaction that was begun, as [`State::answers`] does. While a
    /// debugger has the HRT stopped, the limit begins anew.
    ///
    /// # Errors
    /// As [`State::answers`].
    pub fn answers(&self) -> Result<Vec<u64>, CallError> {
        loop {
            match self.state.answers(self.limit) {
                Err(CallError::NoAnswer(_)) if self.is_stopped() => {}
                answers => return answers,
            }
        }
    }

    /// Whether a debugger has the HRT stopped. One that has gone without a word does not count.
    pub fn is_stopped(&self) -> bool {
        self.hardware.bell.has_debugger()
            && self.debugger.as_ref().is_some_and(|line| line.is_looking().unwrap_or(false))
    }

    /// Writes a word of the boot state.
    pub fn put(&self, at: u64, word: u64) {
        // The boot state is part of the memory.
        self.hardware.memory.word(at).into_iter().for_each(|place| place.store(word, Ordering::Release));
    }

    /// Calls the function that takes the HRT's signals, on this thread. Returns whether there is
    /// one.
    fn signal(&self, code: u64) -> bool {
        let handler = self.signal_handler.load(Ordering::Acquire);
        if handler == 0 || code == 0 {
            return false;
        }
        // SAFETY: the value comes from `Hvm::on_signal`.
        unsafe { std::mem::transmute::<usize, SignalHandler>(handler)(code) };
        true
    }

    /// The memory that the HRT sees.
    fn seen(&self) -> Memory<'_> {
        let is_merged = self.is_merged.load(Ordering::Relaxed);
        Memory { own: &self.hardware.memory, offset: self.request.offset, is_merged }
    }

    /// Serves a downcall. Returns how the HRT ended, if it did. After a crash its CPUs run on.
    pub fn downcall(&self, index: u32, cpu: &mut Vcpu) -> Option<End> {
        let registers = cpu.registers();
        let is_downcall = registers.rax == MARK && registers.rbx == SECOND_MARK;
        let done = |was_done: bool| (if was_done { 0 } else { FAILED }, None);
        let answer = |to: &[Transaction]| self.state.answer(to, registers.rdx);
        let (result, end) = match registers.rcx {
            _ if !is_downcall => (FAILED, None),
            number::NULL => (0, None),
            number::RESET_HRT => (0, Some(End::Ended { ending: Ending::Reboot, status: 0 })),
            // The others are requests of the ROS, or there is no machine to reset but a process.
            number::INVOKE_DONE => {
                done(answer(&[Transaction::Call, Transaction::ParallelCall, Transaction::Synchronous]))
            }
            number::MERGE_DONE => done(answer(&[Transaction::Merge])),
            number::POST_EVENT => done(self.ros_events.post(&self.seen(), registers.rdx)),
            number::ACKNOWLEDGE_EVENT => done(self.ros_events.acknowledge(&self.seen())),
            number::SIGNAL_ROS => done(self.signal(registers.rdx)),
            extension::GROUP_ADDED => {
                if registers.rdx != 0 {
                    self.partners.give_up_start(|number| {
                        self.group(number).state.load(Ordering::Acquire) == group::state::STARTING
                    });
                }
                done(answer(&[Transaction::AddGroup]))
            }
            extension::FUNCTION => done(answer(&[Transaction::FindFunction])),
            extension::EXPORT => {
                done(self.files.write(registers.rdx, &self.hardware.memory, registers.rsi, registers.rdi))
            }
            extension::TAKES_CPUS_AGAIN => {
                self.takes_cpus_again.store(true, Ordering::Release);
                (0, None)
            }
            extension::CRASHED => {
                let crash = End::Crashed { cpu: index, file: self.files.crash() };
                self.state.crash(crash.clone());
                (0, Some(crash))
            }
            extension::OPEN_WINDOW => done(self.open_window(registers.rdx)),
            extension::END => match Ending::from_number(registers.rdx) {
                Some(ending) => (0, Some(End::Ended { ending, status: registers.rsi as u8 })),
                None => (FAILED, None),
            },
            _ => (FAILED, None),
        };
        registers.rax = result;
        cpu.use_registers();
        end
    }
}
