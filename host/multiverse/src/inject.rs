//! Putting the runtime into a process that has just executed a program: it is mapped high up by
//! system calls that the process makes itself, and started on a stack of its own, with the
//! program's registers beside it.

use std::cell::RefCell;
use std::fs;
use std::io::{IoSlice, IoSliceMut};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::runtime_file::{RuntimeFile, Segment};

/// Where the runtime is put. Linux puts nothing there by itself: programs, heaps and mappings are
/// at the two ends of the address space.
const BASE: u64 = 0x5000_0000_0000;
/// Size of the runtime's first stack, in bytes.
const STACK_SIZE: u64 = 256 << 10;
const PAGE: u64 = 4096;
/// The instruction `syscall`.
const SYSTEM_CALL: [u8; 2] = [0x0f, 0x05];
/// The variable that says where a user's sockets are.
const RUNTIME_DIRECTORY: &str = "XDG_RUNTIME_DIR";
/// Bytes of the vDSO in which one is looked for.
const VDSO_SIZE: usize = 8192;
/// Types of auxiliary vector entries (System V ABI AMD64, 3.4.3; Linux,
/// include/uapi/linux/auxvec.h).
mod entry {
    pub const NULL: u64 = 0;
    pub const HEADERS: u64 = 3;
    pub const HEADERS_COUNT: u64 = 5;
    pub const BASE: u64 = 7;
    pub const ENTRY: u64 = 9;
    pub const VDSO: u64 = 33;
    /// Extended by libraries' own needs, but the runtime has its own.
    pub const RSEQ: [u64; 2] = [27, 28];
}

/// What is put into a process.
pub struct Plan<'a> {
    /// The runtime.
    pub runtime: &'a RuntimeFile,
    /// The process's descriptor of the runtime's file.
    pub runtime_descriptor: i32,
    /// The process's descriptor of the HRT's image.
    pub image_descriptor: i32,
    /// The lowest number of descriptors that the runtime may use.
    pub descriptors_from: i32,
    /// What the runtime is told.
    pub words: &'a [String],
}

/// A process that is traced.
pub struct Tracee {
    pid: Pid,
    /// Signals that came meanwhile.
    held: RefCell<Vec<Signal>>,
}

impl Tracee {
    /// Traces a process, which runs on.
    ///
    /// # Errors
    /// Fails if Linux does not allow it.
    pub fn attach(pid: Pid) -> Result<Self> {
        let options = Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options).context("Linux forbids it (see /proc/sys/kernel/yama/ptrace_scope)")?;
        Ok(Self { pid, held: RefCell::default() })
    }

    /// Ends the process.
    pub fn kill(&self) {
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
    }

    /// Waits until the process has executed a program. Returns false if it has ended instead.
    ///
    /// # Errors
    /// Fails if the process is lost.
    pub fn wait_for_exec(&self) -> Result<bool> {
        loop {
            match self.wait()? {
                WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => break,
                WaitStatus::Stopped(_, signal) => ptrace::cont(self.pid, signal)?,
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Ok(false),
                _ => ptrace::cont(self.pid, None)?,
            }
        }
        // At the event, Linux still has to set RAX.
        self.go_to_system_call_stop()?;
        Ok(true)
    }

    fn wait(&self) -> Result<WaitStatus> {
        Ok(waitpid(self.pid, Some(WaitPidFlag::__WALL))?)
    }

    /// Lets the process run to the beginning or the end of a system call.
    fn go_to_system_call_stop(&self) -> Result<()> {
        loop {
            ptrace::syscall(self.pid, None)?;
            match self.wait()? {
                WaitStatus::PtraceSyscall(_) => return Ok(()),
                // It comes once the program begins.
                WaitStatus::Stopped(_, signal) => self.held.borrow_mut().push(signal),
                WaitStatus::PtraceEvent(..) => {}
                other => bail!("the program did something else at its start: {other:?}"),
            }
        }
    }

    /// Puts the runtime into the process, starts it there, and lets the process go.
    ///
    /// # Errors
    /// Fails if Linux refuses a step. The process cannot go on then.
    pub fn inject(&self, plan: &Plan<'_>) -> Result<()> {
        let start = ptrace::getregs(self.pid).context("its registers cannot be read")?;
        let vector = self.auxiliary_vector()?;
        let calls = Calls { tracee: self, at: self.system_call_instruction(&vector)?, registers: start };
        let runtime = plan.runtime;
        let stack_start = BASE + runtime.end().next_multiple_of(PAGE) + PAGE;
        let end = stack_start + STACK_SIZE;
        let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let reserve = anonymous | (libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE) as u64;
        calls
            .map(BASE, end - BASE, libc::PROT_NONE, reserve, None)
            .with_context(|| format!("there is no room for the runtime at {BASE:#x}"))?;
        for segment in &runtime.segments {
            self.map(&calls, segment, plan.runtime_descriptor)?;
        }
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        calls.map(stack_start, STACK_SIZE, writable, anonymous | libc::MAP_FIXED as u64, None)?;
        // The runtime's library must not move the program's break: a page behind it is taken while
        // the library starts. Without room for one, the library cannot move it either.
        let heap = calls.call(libc::SYS_brk, [0; 6])?.next_multiple_of(PAGE);
        let guard = calls.map(heap, PAGE, libc::PROT_NONE, reserve, None).map_or(0, |()| heap);
        let stack = first_stack(plan, &start, guard, &vector, end);
        self.write(end - stack.len() as u64, &stack)?;
        let registers = libc::user_regs_struct {
            rip: BASE + runtime.entry,
            rsp: end - stack.len() as u64,
            // No function that the library has to call at the end (System V ABI AMD64, 3.4.1).
            rdx: 0,
            rax: 0,
            orig_rax: u64::MAX,
            ..start
        };
        ptrace::setregs(self.pid, registers).context("its registers cannot be set")?;
        // Until the process is let go, they would only stop it.
        for &signal in self.held.borrow().iter() {
            nix::sys::signal::kill(self.pid, signal).context("a signal cannot be passed on")?;
        }
        ptrace::detach(self.pid, None).context("it cannot be let go")
    }

    /// Maps a part of the runtime.
    fn map(&self, calls: &Calls<'_>, segment: &Segment, descriptor: i32) -> Result<()> {
        let start = BASE + segment.at / PAGE * PAGE;
        let behind_file = BASE + segment.at + segment.in_file;
        let end = (BASE + segment.at + segment.size).next_multiple_of(PAGE);
        let fixed = (libc::MAP_PRIVATE | libc::MAP_FIXED) as u64;
        let mut protection = libc::PROT_READ;
        protection |= if segment.is_code { libc::PROT_EXEC } else { 0 };
        protection |= if segment.is_writable { libc::PROT_WRITE } else { 0 };
        let offset = segment.offset / PAGE * PAGE;
        calls.map(start, behind_file - start, protection, fixed, Some((descriptor, offset)))?;
        if segment.is_writable {
            let zeros = behind_file.next_multiple_of(PAGE);
            self.write(behind_file, &vec![0; (zeros - behind_file) as usize])?;
            if zeros < end {
                calls.map(zeros, end - zeros, protection, fixed | libc::MAP_ANONYMOUS as u64, None)?;
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let place = RemoteIoVec { base: at as usize, len: bytes.len() };
        let written = process_vm_writev(self.pid, &[IoSlice::new(bytes)], &[place]);
        ensure!(written.context("its memory cannot be written")? == bytes.len(), "its memory cannot be written");
        Ok(())
    }

    /// The auxiliary vector: pairs of a type and a value.
    fn auxiliary_vector(&self) -> Result<Vec<(u64, u64)>> {
        let bytes = fs::read(format!("/proc/{}/auxv", self.pid)).context("its auxiliary vector cannot be read")?;
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        Ok(bytes.chunks_exact(16).map(|pair| (word(&pair[..8]), word(&pair[8..]))).collect())
    }

    /// The address of an instruction by which the process makes system calls: the vDSO has one.
    fn system_call_instruction(&self, vector: &[(u64, u64)]) -> Result<u64> {
        let vdso = vector.iter().find(|pair| pair.0 == entry::VDSO).context("Linux gives it no vDSO (vdso=0)")?.1;
        let mut bytes = [0; VDSO_SIZE];
        let place = RemoteIoVec { base: vdso as usize, len: VDSO_SIZE };
        let read = process_vm_readv(self.pid, &mut [IoSliceMut::new(&mut bytes)], &[place]);
        let read = read.context("its vDSO cannot be read")?;
        let at = bytes[..read].windows(2).position(|bytes| bytes == SYSTEM_CALL);
        Ok(vdso + at.context("its vDSO has no system call")? as u64)
    }
}

/// System calls that a process makes for its tracer.
struct Calls<'a> {
    tracee: &'a Tracee,
    /// The instruction's address.
    at: u64,
    registers: libc::user_regs_struct,
}

impl Calls<'_> {
    fn call(&self, number: i64, arguments: [u64; 6]) -> Result<u64> {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        let pid = self.tracee.pid;
        let registers = libc::user_regs_struct {
            rip: self.at,
            rax: number as u64,
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.registers
        };
        ptrace::setregs(pid, registers)?;
        self.tracee.go_to_system_call_stop()?;
        self.tracee.go_to_system_call_stop()?;
        let result = ptrace::getregs(pid)?.rax;
        // Linux's errors are the last 4,095 numbers.
        ensure!(result <= -4096_i64 as u64, "{}", std::io::Error::from_raw_os_error(-(result as i64) as i32));
        Ok(result)
    }

    fn map(&self, at: u64, size: u64, protection: i32, flags: u64, file: Option<(i32, u64)>) -> Result<()> {
        let (descriptor, offset) = file.map_or((u64::MAX, 0), |(file, offset)| (file as u64, offset));
        let mapped = self.call(libc::SYS_mmap, [at, size, protection as u64, flags, descriptor, offset]);
        ensure!(mapped.context("memory cannot be mapped")? == at, "memory cannot be mapped at {at:#x}");
        Ok(())
    }
}

/// The content of the runtime's stack, up to an address: the program's registers, what the runtime
/// is told, and what any program finds (System V ABI AMD64, 3.4.1).
fn first_stack(
    plan: &Plan<'_>,
    start: &libc::user_regs_struct,
    guard: u64,
    vector: &[(u64, u64)],
    end: u64,
) -> Vec<u8> {
    // SAFETY: the structure consists of words only.
    let registers = unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(start).cast::<u8>(), size_of::<libc::user_regs_struct>())
    };
    let registers_at = (end - registers.len() as u64) & !15;
    let of_program = |kind: u64| vector.iter().find(|pair| pair.0 == kind).map_or(0, |pair| pair.1);
    let arguments = [
        "aero-multiverse".to_string(),
        format!("registers={registers_at}"),
        format!("guard={guard}"),
        format!("runtime-file={}", plan.runtime_descriptor),
        format!("image-file={}", plan.image_descriptor),
        format!("descriptors-from={}", plan.descriptors_from),
        format!("program-entry={}", of_program(entry::ENTRY)),
        format!("interpreter={}", of_program(entry::BASE)),
    ];
    // The library's own use of restartable sequences would be the program's thread's.
    let mut environment = vec!["GLIBC_TUNABLES=glibc.pthread.rseq=0".to_string()];
    // Where the library puts sockets.
    environment.extend(std::env::var(RUNTIME_DIRECTORY).map(|value| format!("{RUNTIME_DIRECTORY}={value}")));
    let arguments: Vec<&String> = arguments.iter().chain(plan.words).collect();
    let mut strings = Vec::new();
    let mut offsets = Vec::new();
    for text in arguments.iter().copied().chain(&environment) {
        offsets.push(strings.len() as u64);
        strings.extend(text.as_bytes());
        strings.push(0);
    }
    let strings_at = registers_at - strings.len() as u64;
    let base = BASE;
    let own = [
        (entry::HEADERS, base + plan.runtime.headers.0),
        (entry::HEADERS_COUNT, plan.runtime.headers.1),
        (entry::BASE, 0),
        (entry::ENTRY, base + plan.runtime.entry),
    ];
    let mut words = vec![arguments.len() as u64];
    let mut at = offsets.iter().map(|offset| strings_at + offset);
    words.extend(at.by_ref().take(arguments.len()));
    words.push(0);
    words.extend(at);
    words.push(0);
    for &(kind, value) in vector.iter().filter(|pair| pair.0 != entry::NULL && !entry::RSEQ.contains(&pair.0)) {
        let value = own.iter().find(|pair| pair.0 == kind).map_or(value, |pair| pair.1);
        words.extend([kind, value]);
    }
    words.extend([entry::NULL, 0]);
    let words_at = (strings_at - 8 * words.len() as u64) & !15;
    let mut stack: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    stack.resize((strings_at - words_at) as usize, 0);
    stack.extend(strings);
    stack.extend(registers);
    stack.resize((end - words_at) as usize, 0);
    stack
}
