//! Running a CPU of the HRT, by as few instructions as it takes.
//!
//! KVM's request is made directly: the library's function sets errno, which a function in the HRT
//! may be using, and takes several times as long.

use std::arch::x86_64::_rdtsc;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_GUESTDBG_ENABLE,
    KVM_GUESTDBG_SINGLESTEP, KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, kvm_debugregs, kvm_guest_debug,
    kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_run, kvm_sregs, kvm_vcpu_events__bindgen_ty_1, kvm_xcrs,
};
use kvm_ioctls::{SyncReg, VcpuFd};

use protocol::call::{REFUSED_CODE, REFUSED_VECTOR};

use crate::memory::END_OF_ROS;
use crate::system_call;

/// The request `_IO(KVMIO, 0x80)` (Linux, include/uapi/linux/kvm.h).
const KVM_RUN: u64 = 0xae80;

/// Initial values of DR6, DR7 and XCR0 (SDM Vol. 3A, table 10-1 and 2.6).
const INITIAL_DR6: u64 = 0xffff_0ff0;
const INITIAL_DR7: u64 = 0x400;
const X87_ONLY: u64 = 1;
/// Length of the instruction HLT (SDM Vol. 2A).
const HALT: u64 = 1;

/// A CPU of the HRT whose general registers KVM leaves where both can reach them.
pub struct Vcpu {
    /// For everything else.
    pub fd: VcpuFd,
    file: u64,
    shared: *mut kvm_run,
    /// Its state as KVM made it.
    fresh: Box<Fresh>,
}

struct Fresh {
    special: kvm_sregs,
    apic: kvm_lapic_state,
}

// SAFETY: the pointer is to the mapping that `fd` owns, and is used by the owner of the CPU only.
unsafe impl Send for Vcpu {}

/// Why a CPU left the HRT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It wrote to an I/O port.
    Out {
        /// The port.
        port: u16,
        /// The lowest byte of what it wrote.
        byte: u8,
    },
    /// It read from an I/O port.
    In {
        /// The port.
        port: u16,
    },
    /// It accessed physical memory that it was not given.
    Mmio {
        /// The address.
        at: u64,
    },
    /// A signal came.
    Interrupted,
    /// Linux refuses an access.
    Refused,
    /// It made a single step.
    Step,
    /// It had a triple fault.
    Shutdown,
    /// Something else, by KVM's number.
    Other(u32),
    /// KVM failed, by Linux's error number.
    Failed(i32),
}

impl Vcpu {
    /// Takes over a new CPU.
    ///
    /// # Errors
    /// KVM's.
    pub fn new(mut fd: VcpuFd) -> Result<Self, kvm_ioctls::Error> {
        fd.set_sync_valid_reg(SyncReg::Register);
        let (file, shared) = (fd.as_raw_fd() as u64, &raw mut *fd.get_kvm_run());
        let fresh = Box::new(Fresh { special: fd.get_sregs()?, apic: fd.get_lapic()? });
        Ok(Self { fd, file, shared, fresh })
    }

    /// Gives the CPU the state in which KVM made it, as far as an image finds it.
    ///
    /// # Errors
    /// KVM's.
    pub fn refresh(&mut self) -> Result<(), kvm_ioctls::Error> {
        // SAFETY: as for `registers`; registers that were changed for a run that never came are
        // forgotten.
        unsafe { (*self.shared).kvm_dirty_regs = 0 };
        // The mode of the APIC decides how its registers are read.
        self.fd.set_sregs(&self.fresh.special)?;
        self.fd.set_lapic(&self.fresh.apic)?;
        let (dr6, dr7) = (INITIAL_DR6, INITIAL_DR7);
        self.fd.set_debug_regs(&kvm_debugregs { dr6, dr7, ..Default::default() })?;
        let mut controls = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        controls.xcrs[0].value = X87_ONLY;
        self.fd.set_xcrs(&controls)
    }

    /// Runs the CPU until it leaves the HRT.
    #[inline]
    pub fn run(&mut self) -> Exit {
        // SAFETY: KVM runs the CPU, which changes this process's memory as the code in the HRT, for
        // which the caller of that answers, wants.
        let result = unsafe { system_call::make(libc::SYS_ioctl as u64, [self.file, KVM_RUN, 0, 0, 0, 0]) } as i64;
        if result < 0 {
            return match -result as i32 {
                libc::EINTR | libc::EAGAIN => Exit::Interrupted,
                libc::EFAULT => Exit::Refused,
                error => Exit::Failed(error),
            };
        }
        // SAFETY: KVM has filled the part of the structure that belongs to its reason, and the data
        // of an I/O exit lie within the mapping.
        unsafe {
            let shared = &*self.shared;
            match shared.exit_reason {
                KVM_EXIT_IO => {
                    let io = shared.__bindgen_anon_1.io;
                    if u32::from(io.direction) == KVM_EXIT_IO_OUT {
                        let byte = *self.shared.cast::<u8>().add(io.data_offset as usize);
                        Exit::Out { port: io.port, byte }
                    } else {
                        Exit::In { port: io.port }
                    }
                }
                KVM_EXIT_MMIO => Exit::Mmio { at: shared.__bindgen_anon_1.mmio.phys_addr },
                KVM_EXIT_DEBUG => Exit::Step,
                KVM_EXIT_SHUTDOWN => Exit::Shutdown,
                KVM_EXIT_INTR => Exit::Interrupted,
                reason => Exit::Other(reason),
            }
        }
    }

    /// The byte that makes the CPU leave the HRT as soon as it enters it, while it is not 0.
    pub fn immediate_exit(&mut self) -> *mut u8 {
        // SAFETY: the mapping lives as long as `fd`.
        unsafe { &raw mut (*self.shared).immediate_exit }
    }

    /// Makes the CPU leave the HRT after each instruction, or no longer.
    ///
    /// # Errors
    /// KVM's.
    pub fn step(&self, on: bool) -> Result<(), kvm_ioctls::Error> {
        let control = if on { KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP } else { 0 };
        self.fd.set_guest_debug(&kvm_guest_debug { control, ..Default::default() })
    }

    /// If the CPU waits at HLT of the process's code, ends that, and returns true; it stands at the
    /// instruction then.
    pub fn end_halt(&mut self) -> bool {
        let waits = self.fd.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_HALTED);
        if !waits || self.registers().rip >= END_OF_ROS {
            return false;
        }
        let runs = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
        if self.fd.set_mp_state(runs).is_err() {
            return false;
        }
        self.registers().rip -= HALT;
        self.use_registers();
        true
    }

    /// Makes the CPU go on with the exception by which the kernel learns that Linux refuses an
    /// access of its own. Returns false if KVM does not take it.
    pub fn refuse_access(&mut self) -> bool {
        let set = self.fd.get_vcpu_events().and_then(|mut events| {
            events.exception = kvm_vcpu_events__bindgen_ty_1 {
                injected: 1,
                nr: REFUSED_VECTOR,
                has_error_code: 1,
                error_code: REFUSED_CODE,
                ..events.exception
            };
            self.fd.set_vcpu_events(&events)
        });
        set.is_ok()
    }

    /// The general registers with which the CPU left the HRT. Changes take effect if
    /// [`Vcpu::use_registers`] follows.
    #[inline]
    pub fn registers(&mut self) -> &mut kvm_regs {
        // SAFETY: KVM stores them at each exit, as `new` asked for; the mapping lives as long as
        // `fd`.
        unsafe { &mut (*self.shared).s.regs.regs }
    }

    /// Makes the CPU go on with the registers as they are now.
    #[inline]
    pub fn use_registers(&mut self) {
        // SAFETY: as for `registers`.
        unsafe { (*self.shared).kvm_dirty_regs |= SyncReg::Register as u64 };
    }
}

impl Exit {
    /// Says what a CPU did that it cannot do here.
    pub fn describe(self, at: u64) -> String {
        match self {
            Self::Out { port, .. } | Self::In { port } => {
                format!("accessed I/O port {port:#x}, which an HVM does not have")
            }
            Self::Mmio { at } => format!("accessed physical address {at:#x}, where there is nothing"),
            Self::Refused => format!("accessed memory that this process has not, or not so, from {at:#x}"),
            Self::Failed(error) => {
                format!("cannot be run by KVM: {}", std::io::Error::from_raw_os_error(error))
            }
            exit => format!("left the guest in a way that is not handled: {exit:?}"),
        }
    }
}

/// The time counter.
pub fn now() -> u64 {
    // SAFETY: every CPU that runs KVM has the instruction, and Linux allows it.
    unsafe { _rdtsc() }
}
