//! The runtime that is put into a program which has just been executed: it boots the HRT in the
//! process, and has the program's thread go on there. It is a static program with a C library of
//! its own, which shares nothing with the program's.
#![no_main]

mod begin;
mod block;
mod calls;
mod children;
mod clone;
mod futexes;
mod gate;
mod linux;
mod native;
mod overrides;
mod process;
mod settings;
mod signals;
mod statistics;
mod thread;

use std::ffi::{CStr, c_char, c_int};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;

use dlmalloc::GlobalDlmalloc;
use hvm::Hvm;
use hvm::program::Start;
use kvm_bindings::kvm_regs;

use crate::block::Block;
use crate::children::Beginning;
use crate::settings::Settings;

/// The C library's allocator would move the program's break.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

/// RFLAGS of the program's first instruction: the reserved bit, interrupts enabled, as Linux has
/// them in user mode.
const FLAGS: u64 = 1 << 1 | 1 << 9;
/// How long the HRT may take for a request. Only its own parts have to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// What the library calls first.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    let words = (1..count.max(1) as usize).map(|index| {
        // SAFETY: so many strings are there (C11, 5.1.2.2.1).
        unsafe { CStr::from_ptr(*arguments.add(index)) }.to_string_lossy()
    });
    let settings = Settings::parse(words);
    if let Err(error) = boot(&settings) {
        process::fail_with_hrt(&error);
    }
    let Some(block) = Block::take() else { process::fail("there is no memory for its first thread") };
    // SAFETY: the launcher has left the registers there.
    let start = unsafe { start(settings.registers) };
    process::reserve();
    overrides::start(&settings);
    let mask = linux::set_mask(linux::ALL);
    signals::start();
    if settings.counts {
        statistics::start();
    }
    begin::begin(Beginning { block, start, mask }, linux::fs_base())
}

/// Boots the HRT.
fn boot(settings: &Settings) -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: the descriptors are this program's.
    let (_, file) = unsafe { (File::from_raw_fd(settings.runtime_file), File::from_raw_fd(settings.image_file)) };
    let image = MappedFile::new(&file)?;
    let mut builder = Hvm::builder(image.bytes())
        .cpus(settings.cpus)
        .memory(settings.memory)
        .command_line(&settings.line)
        .limit(LIMIT)
        .faults_as_in_process()
        .leave_signals()
        .descriptors_from(settings.descriptors_from);
    if settings.is_shared {
        builder = builder.share();
    }
    let hvm = builder.boot()?;
    process::keep(hvm);
    // SAFETY: the program is trusted as the HRT is.
    unsafe { process::hvm().merge()? };
    // What the C library itself allocates from now on does not move the program's break either.
    // SAFETY: the calls only change what the allocator does, and give a page back that was mapped
    // for this program's start alone.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 0);
        libc::mallopt(libc::M_MMAP_MAX, c_int::MAX);
        if settings.guard != 0 {
            libc::munmap(settings.guard as *mut libc::c_void, 4096);
        }
    }
    Ok(())
}

/// A file as memory: reading it would touch every page twice.
struct MappedFile {
    start: *mut libc::c_void,
    size: usize,
}

impl MappedFile {
    fn new(file: &File) -> std::io::Result<Self> {
        let size = file.metadata()?.len() as usize;
        // SAFETY: a new mapping, which only reads.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(Self { start, size }) }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped; the file is an image that was built, and does not
        // change while a program is started.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.size) }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the bytes any more.
        unsafe { libc::munmap(self.start, self.size) };
    }
}

/// The program's state.
///
/// # Safety
/// The registers were left at the address.
unsafe fn start(registers: u64) -> Start {
    // SAFETY: the caller answers for it.
    let left = unsafe { (registers as *const libc::user_regs_struct).read() };
    let libc::user_regs_struct {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        rsp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        fs_base,
        ..
    } = left;
    let registers =
        kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags: FLAGS };
    Start { registers, fs_base, vectors: None }
}
