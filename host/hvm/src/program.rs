//! Threads of a program that live in the HRT: they do not call a function there and come back, but
//! go on there from where they are, until they end.

use std::arch::naked_asm;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::{kvm_regs, kvm_xsave};
use protocol::group::{COMES_BACK, Group};
pub use protocol::group::{FutexWaiters, function, waited};

use crate::core::Core;
use crate::kick::NUDGE;
use crate::memory::END_OF_ROS;
use crate::partner;
use crate::partners::{Partner, locked};
pub use crate::replay::Step;
pub use crate::serve::Flow;
use crate::serve::Serve;
use crate::state::CallError;
pub use crate::system_call::{fs_base, make as system_call};
use crate::vcpu::Vcpu;

/// The number of the system call by which a thread asks for its registers. Linux has no such call.
const BEGIN: u64 = u64::MAX;

/// The instruction SYSCALL (SDM Vol. 2B).
const SYSTEM_CALL: [u8; 2] = [0x0f, 0x05];

/// The processor state of a thread.
pub struct Start {
    /// General registers.
    pub registers: kvm_regs,
    /// FS base.
    pub fs_base: u64,
    /// Vector state; that of a new program if there is none.
    pub vectors: Option<Box<kvm_xsave>>,
}

/// A CPU of the HRT that runs a thread of the program.
pub struct ProgramCpu<'a> {
    cpu: &'a mut Vcpu,
    member: &'a Member,
}

impl ProgramCpu<'_> {
    /// The general registers. Changes take effect if [`ProgramCpu::use_registers`] follows.
    #[inline]
    pub fn registers(&mut self) -> &mut kvm_regs {
        self.cpu.registers()
    }

    /// Makes the CPU go on with the registers as they are now.
    pub fn use_registers(&mut self) {
        self.cpu.use_registers();
    }

    /// Whether the CPU runs the program's code, and not the kernel's.
    pub fn is_in_program(&mut self) -> bool {
        self.cpu.registers().rip < END_OF_ROS
    }

    /// Whether the CPU is in a function of the kernel that the program has called
    /// ([`function::GATE`]).
    pub fn is_in_called_function(&self) -> bool {
        self.group().in_kernel.load(Ordering::Acquire) != 0
    }

    /// Has such a function end its wait, if it is in one, and its caller come back to the partner
    /// before it goes on.
    pub fn want_back(&self) {
        self.member.core.want_back(self.member.partner.number);
    }

    fn group(&self) -> &Group {
        self.member.core.group(self.member.partner.number)
    }

    /// FS base.
    ///
    /// # Errors
    /// KVM's.
    pub fn fs_base(&self) -> Result<u64, kvm_ioctls::Error> {
        Ok(self.cpu.fd.get_sregs()?.fs.base)
    }

    /// Sets FS base.
    ///
    /// # Errors
    /// KVM's.
    pub fn set_fs_base(&mut self, base: u64) -> Result<(), kvm_ioctls::Error> {
        let mut special = self.cpu.fd.get_sregs()?;
        special.fs.base = base;
        self.cpu.fd.set_sregs(&special)
    }

    /// The vector state, in the standard form of XSAVE (SDM Vol. 1, 13.4).
    ///
    /// # Errors
    /// KVM's.
    pub fn vectors(&self) -> Result<kvm_xsave, kvm_ioctls::Error> {
        self.cpu.fd.get_xsave()
    }

    /// Sets the vector state.
    ///
    /// # Errors
    /// KVM's, also for a state that the CPU does not have.
    pub fn set_vectors(&mut self, vectors: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
        // SAFETY: the HRT's vector state has the size that KVM gives it.
        unsafe { self.cpu.fd.set_xsave(vectors) }
    }

    /// The byte that makes the CPU leave the HRT as soon as it enters it.
    pub fn immediate_exit(&mut self) -> *mut u8 {
        self.cpu.immediate_exit()
    }

    /// Makes the CPU leave the HRT after each instruction, or no longer.
    ///
    /// # Errors
    /// KVM's.
    pub fn step(&mut self, on: bool) -> Result<(), kvm_ioctls::Error> {
        self.cpu.step(on)
    }

    /// Prepares to execute the CPU's next instruction on the calling thread.
    pub fn begin_step(&mut self) -> Option<Step> {
        Step::of(self.cpu)
    }

    /// Gives the CPU the state after a step. Returns false if it was not made.
    pub fn finish_step(&mut self, step: &Step) -> bool {
        step.finish(self.cpu)
    }
}

/// The partner's part of a program's thread.
pub trait Program {
    /// Makes a system call: its number is in RAX, its arguments are in RDI, RSI, RDX, R10, R8 and
    /// R9, and its result goes to RAX. The thread goes on at RIP.
    fn system_call(&mut self, cpu: &mut ProgramCpu<'_>) -> Flow;

    /// Has the thread's next instruction the effect that it has in a process, because Linux refuses
    /// an access of it in the HRT. Returns false if that cannot be.
    fn execute(&mut self, cpu: &mut ProgramCpu<'_>) -> bool;

    /// Called each time before the CPU enters the HRT.
    fn before_entry(&mut self, cpu: &mut ProgramCpu<'_>);
}

/// Whether a signal is SIGTRAP from the library itself, which has a thread leave the HRT that has
/// not done so for long: KVM tries again for ever where Linux has no data for a mapped page, as
/// behind a file's end. It is to have no other effect than that.
///
/// # Safety
/// The information is that of a signal, from Linux.
pub unsafe fn is_nudge(information: &libc::siginfo_t) -> bool {
    // SAFETY: the caller answers for it; a signal that was sent with a value has one.
    information.si_code == libc::SI_QUEUE && unsafe { information.si_value().sival_ptr as usize } == NUDGE
}

/// The calling thread's place in the HRT: an execution group, which is given back with this.
pub struct Member {
    core: Arc<Core>,
    partner: Arc<Partner>,
}

impl Member {
    pub(crate) fn new(core: &Arc<Core>) -> Result<Self, CallError> {
        Ok(Self { core: Arc::clone(core), partner: partner::join(core)? })
    }

    /// Has wake-ups of futexes without waiters answered in the HRT by a table, or no longer with
    /// `None`.
    ///
    /// # Safety
    /// All threads of the process that wait for private futexes are counted there, as
    /// [`FutexWaiters`] says.
    pub unsafe fn answer_futexes(&self, waiters: Option<&'static FutexWaiters>) {
        let at = waiters.map_or(0, |waiters| std::ptr::from_ref(waiters) as u64);
        self.core.group(self.partner.number).futex_waiters.store(at, Ordering::SeqCst);
    }

    /// Sets for how many cycles the thread's CPU polls before it halts, while no more threads run
    /// in the HRT than Linux has CPUs for the process.
    pub fn poll_for(&self, cycles: u64, linux_cpus: u64) {
        let group = self.core.group(self.partner.number);
        group.polls_for.store(cycles, Ordering::Relaxed);
        group.ros_cpus.store(linux_cpus, Ordering::Relaxed);
    }

    /// Has the thread go on in the HRT. Returns once it has ended there.
    ///
    /// # Errors
    /// How the HRT ended; see [`CallError`].
    ///
    /// # Safety
    /// The state is that of a thread of this process, which does not go on elsewhere. The thread
    /// is trusted as the HRT is.
    pub unsafe fn run(&self, start: &Start, program: &mut dyn Program) -> Result<(), CallError> {
        let mut server = Server { member: self, start: Some(start), program, interrupted_at: None };
        partner::call_served(&self.core, &self.partner, begin as *const () as u64, [0; 2], &mut server).map(drop)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        locked(&self.core.partners.free).push(Arc::clone(&self.partner));
    }
}

struct Server<'a> {
    member: &'a Member,
    /// Until the thread has begun.
    start: Option<&'a Start>,
    program: &'a mut dyn Program,
    /// With which registers a signal last made it leave the HRT.
    interrupted_at: Option<kvm_regs>,
}

impl Serve for Server<'_> {
    fn system_call(&mut self, cpu: &mut Vcpu) -> Flow {
        let mut cpu = ProgramCpu { cpu, member: self.member };
        self.interrupted_at = None;
        let start = if cpu.registers().rax == BEGIN { self.start.take() } else { None };
        let Some(start) = start else {
            let registers = cpu.registers();
            if registers.rax == COMES_BACK && cpu.group().is_wanted.swap(0, Ordering::Relaxed) != 0 {
                let registers = cpu.registers();
                (registers.rip, registers.rax) = (registers.rcx, registers.rdx);
                return Flow::On;
            }
            let registers = cpu.registers();
            // As SYSCALL leaves it (SDM Vol. 2B): the kernel's next instruction would only go
            // there.
            registers.rip = registers.rcx;
            return self.program.system_call(&mut cpu);
        };
        *cpu.registers() = start.registers;
        // A program's thread without its variables faults, and says so.
        let _ = cpu.set_fs_base(start.fs_base);
        let _ = start.vectors.as_ref().map(|vectors| cpu.set_vectors(vectors));
        Flow::On
    }

    fn execute(&mut self, cpu: &mut Vcpu) -> bool {
        self.program.execute(&mut ProgramCpu { cpu, member: self.member })
    }

    fn interrupted(&mut self, cpu: &mut Vcpu) {
        if self.start.is_none() && cpu.end_halt() {
            // A process may not do that.
            self.program.execute(&mut ProgramCpu { cpu, member: self.member });
            return;
        }
        let now = *cpu.registers();
        // A thread that seems to stand still may only be in a loop, or have got no time. Executing
        // its instruction here is right in any case but one: a system call that it has not made yet
        // would be made past the server, and might wait with all signals blocked.
        let stands = self.start.is_none()
            && now.rip < END_OF_ROS
            && self.interrupted_at == Some(now)
            && !is_system_call(now.rip);
        self.interrupted_at = Some(now);
        if stands {
            self.program.execute(&mut ProgramCpu { cpu, member: self.member });
        }
    }

    fn before_entry(&mut self, cpu: &mut Vcpu) {
        if self.start.is_none() {
            self.program.before_entry(&mut ProgramCpu { cpu, member: self.member });
        }
    }

    fn is_function(&self) -> bool {
        false
    }
}

/// Whether the instruction SYSCALL is at an address; false also where nothing can be read.
fn is_system_call(at: u64) -> bool {
    let mut bytes = [0_u8; SYSTEM_CALL.len()];
    let [own, other] = [bytes.as_mut_ptr() as u64, at]
        .map(|base| libc::iovec { iov_base: base as *mut libc::c_void, iov_len: SYSTEM_CALL.len() });
    let process = u64::from(std::process::id());
    // SAFETY: the call only writes the bytes.
    let read = unsafe {
        let arguments = [process, &raw const own as u64, 1, &raw const other as u64, 1, 0];
        system_call(libc::SYS_process_vm_readv as u64, arguments)
    };
    read == SYSTEM_CALL.len() as u64 && bytes == SYSTEM_CALL
}

/// Asks for the thread's registers, and goes on with them.
#[unsafe(naked)]
extern "C" fn begin() {
    naked_asm!("mov rax, -1", "syscall", "ud2")
}
