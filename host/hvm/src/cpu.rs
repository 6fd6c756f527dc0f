//! A CPU of the HRT, and the thread that runs it.

use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_MP_STATE_RUNNABLE, kvm_fpu, kvm_mp_state, kvm_regs, kvm_segment};
use kvm_ioctls::{VcpuExit, VcpuFd};
use protocol::boot::{MAGIC, Request};
use protocol::call::{self, Ending, FAILED, MARK, SECOND_MARK, extension, number};

use crate::Error;
use crate::boot_state::Places;
use crate::state::{End, State, Transaction};

/// CR0 when an HRT's CPU enters: protected mode, extension type, numeric error, write protect,
/// paging (SDM Vol. 3A, 2.5).
const CR0: u64 = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: physical address extension.
const CR4: u64 = 1 << 5;
/// EFER: long mode enabled and active, no-execute enabled (SDM Vol. 3A, 2.2.1).
const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11;
/// The reserved bit of RFLAGS that is always set.
const FLAGS: u64 = 2;
/// Initial control words of the x87 and SSE units (SDM Vol. 1, 8.1.5 and 10.2.3); KVM's are 0.
const X87_CONTROL: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;
/// Interval at which a CPU that does not leave the guest is interrupted again.
const KICK_INTERVAL: Duration = Duration::from_millis(1);

/// Gives a CPU its identity: the APIC id, and the timer that KVM's own list of features omits.
pub fn identify(cpuid: &mut CpuId, id: u32, has_deadlines: bool) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            // SDM Vol. 2A, CPUID 01h: EBX bits 31 to 24 are the APIC id; ECX bit 21 x2APIC, bit 24
            // TSC deadline, bit 31 hypervisor.
            0x1 => {
                entry.ebx = entry.ebx & 0x00ff_ffff | id << 24;
                entry.ecx |= 1 << 21 | u32::from(has_deadlines) << 24 | 1 << 31;
            }
            // The id is in EDX of every subleaf.
            0xb | 0x1f => entry.edx = id,
            _ => {}
        }
    }
}

/// Sets the state in which a CPU enters the image.
///
/// # Errors
/// [`Error::Refused`].
pub fn prepare(cpu: &VcpuFd, cpuid: &CpuId, request: &Request, places: &Places) -> Result<(), Error> {
    cpu.set_cpuid2(cpuid).map_err(Error::refused("setting the CPU's features"))?;
    let mut special = cpu.get_sregs().map_err(Error::refused("reading the CPU's state"))?;
    let segment = |selector: u16, kind: u8, is_code: bool| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!is_code),
        s: 1,
        l: u8::from(is_code),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    special.cs = segment(8, 0xb, true);
    let data = segment(16, 0x3, false);
    (special.ds, special.es, special.ss, special.fs, special.gs) = (data, data, data, data, data);
    special.gdt.base = places.descriptors + request.offset;
    special.gdt.limit = places.descriptors_size - 1;
    special.idt.base = 0;
    special.idt.limit = 0;
    (special.cr0, special.cr3, special.cr4, special.efer) = (CR0, places.root, CR4, EFER);
    cpu.set_sregs(&special).map_err(Error::refused("setting the CPU's state"))?;
    let registers = kvm_regs {
        rax: u64::from(MAGIC),
        rbx: places.information,
        rip: request.entry,
        rflags: FLAGS,
        ..Default::default()
    };
    cpu.set_regs(&registers).map_err(Error::refused("setting the CPU's registers"))?;
    let vectors = kvm_fpu { fcw: X87_CONTROL, mxcsr: MXCSR, ..Default::default() };
    cpu.set_fpu(&vectors).map_err(Error::refused("setting the CPU's vector state"))?;
    // KVM would have the others wait for a start-up message.
    let runnable = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
    cpu.set_mp_state(runnable).map_err(Error::refused("starting the CPU"))
}

/// A thread that runs a CPU until the HRT ends.
pub struct Runner {
    thread: JoinHandle<()>,
    has_left: Arc<AtomicBool>,
}

impl Runner {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn start(index: u32, cpu: VcpuFd, state: &Arc<State>) -> Result<Self, Error> {
        ignore_kicks();
        let (state, has_left) = (Arc::clone(state), Arc::new(AtomicBool::new(false)));
        let left = Arc::clone(&has_left);
        let thread = thread::Builder::new()
            .name(format!("hrt-cpu-{index}"))
            .spawn(move || {
                take_only_kicks();
                let end = run(index, cpu, &state);
                left.store(true, Ordering::Release);
                state.end(end);
            })
            .map_err(|why| Error::Refused { what: "starting a thread for the HRT's CPU", why })?;
        Ok(Self { thread, has_left })
    }

    /// Waits for the thread's end, once the HRT has ended.
    pub fn join(self) {
        while !self.has_left.load(Ordering::Acquire) {
            // SAFETY: the thread has not been joined, so its handle is valid; the signal only ends
            // a system call of the thread (`ignore_kicks`).
            unsafe { libc::pthread_kill(self.thread.as_pthread_t(), kick_signal()) };
            thread::sleep(KICK_INTERVAL);
        }
        let _ = self.thread.join();
    }
}

/// The signal that makes a CPU's thread leave the guest.
fn kick_signal() -> i32 {
    libc::SIGRTMIN()
}

/// Installs an empty handler for the signal, so that it interrupts system calls.
fn ignore_kicks() {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: the structure is valid when zeroed, and the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(kick_signal(), &action, std::ptr::null_mut());
    }
}

/// Leaves all signals but the kick to the process's own threads.
fn take_only_kicks() {
    // SAFETY: the set is valid once it is filled, and only this thread's mask changes.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut signals);
        libc::sigdelset(&mut signals, kick_signal());
        libc::pthread_sigmask(libc::SIG_SETMASK, &signals, std::ptr::null_mut());
    }
}

/// Runs a CPU until the HRT ends; returns how.
fn run(index: u32, mut cpu: VcpuFd, state: &State) -> End {
    let failed = |why: String| End::Failed { cpu: index, why };
    loop {
        if let Some(end) = state.ended() {
            return end;
        }
        match cpu.run() {
            Ok(VcpuExit::IoOut(port, bytes)) if port == call::CHARACTER_PORT => {
                bytes.iter().for_each(|&byte| state.say(byte));
            }
            Ok(VcpuExit::IoOut(port, _)) if port == u16::from(call::PORT) => match downcall(&cpu, state) {
                Ok(Some(end)) => return end,
                Ok(None) => {}
                Err(error) => return failed(format!("made a downcall that KVM lost: {error}")),
            },
            Ok(VcpuExit::IoOut(port, _) | VcpuExit::IoIn(port, _)) => {
                return failed(format!("accessed I/O port {port:#x}, which an HVM does not have"));
            }
            Ok(VcpuExit::MmioRead(at, _) | VcpuExit::MmioWrite(at, _)) => {
                return failed(format!("accessed physical address {at:#x}, where there is nothing"));
            }
            Ok(VcpuExit::Shutdown) => return End::TripleFault { cpu: index },
            Ok(VcpuExit::Intr) => {}
            Ok(exit) => return failed(format!("left the guest in a way that is not handled: {exit:?}")),
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {}
            // Linux refused an access through a window. KVM does not say at which address.
            Err(error) if error.errno() == libc::EFAULT => {
                let at = cpu.get_regs().map_or(0, |registers| registers.rip);
                return failed(format!("accessed memory that this process has not, or not so, from {at:#x}"));
            }
            Err(error) => return failed(format!("cannot be run by KVM: {error}")),
        }
    }
}

/// Serves a downcall. Returns how the HRT ended, if it did.
fn downcall(cpu: &VcpuFd, state: &State) -> Result<Option<End>, kvm_ioctls::Error> {
    let mut registers = cpu.get_regs()?;
    let is_downcall = registers.rax == MARK && registers.rbx == SECOND_MARK;
    let answered = |was_asked: bool| (if was_asked { 0 } else { FAILED }, None);
    let (result, end) = match registers.rcx {
        _ if !is_downcall => (FAILED, None),
        number::NULL => (0, None),
        number::INVOKE_DONE => answered(state.answer(&[Transaction::Call, Transaction::ParallelCall], registers.rdx)),
        number::MERGE_DONE => answered(state.answer(&[Transaction::Merge], registers.rdx)),
        extension::END => match Ending::from_number(registers.rdx) {
            Some(ending) => (0, Some(End::Ended { ending, status: registers.rsi as u8 })),
            None => (FAILED, None),
        },
        _ => (FAILED, None),
    };
    registers.rax = result;
    cpu.set_regs(&registers)?;
    Ok(end)
}
