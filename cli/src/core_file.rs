//! A crash file as an ELF core file, which debuggers open beside the kernel's own file (`elf.h` and `struct elf_prstatus` of Linux for
//! x86-64, which is what they read).

use kernel::crash_file::CrashFile;
use object::elf::{EM_X86_64, ET_CORE, NT_PRPSINFO, NT_PRSTATUS, PF_R, PF_W, PT_LOAD, PT_NOTE};

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// Alignment of memory in the file.
const PAGE: usize = 4096;
/// Added to the number of a CPU that ran no thread.
const WITHOUT_THREAD: u64 = 1 << 30;
/// What a debugger says the end was: SIGABRT.
const SIGNAL: u16 = 6;

/// A thread, as a core file has it.
struct Thread {
    id: u64,
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8 to R15.
    general: [u64; 16],
    instruction_pointer: u64,
    flags: u64,
    thread_pointer: u64,
}

/// A piece of a file.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn half(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn word(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn long(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Zeros up to a length.
    fn up_to(&mut self, length: usize) -> &mut Self {
        self.0.resize(length, 0);
        self
    }

    fn text(&mut self, text: &str, size: usize) -> &mut Self {
        let end = self.0.len() + size;
        self.0.extend(text.bytes().take(size - 1));
        self.up_to(end)
    }
}

/// The core file of a crash: the crashed CPU's thread first, then those of the other CPUs, then those that wait.
pub fn write(crash: &CrashFile) -> Vec<u8> {
    let mut notes = Bytes::default();
    let threads = threads(crash);
    for (index, thread) in threads.iter().enumerate() {
        note(&mut notes, NT_PRSTATUS, &status(thread));
        if index == 0 {
            note(&mut notes, NT_PRPSINFO, &information(crash, thread));
        }
    }
    let segments = segments(crash);
    let mut offset = HEADER_SIZE + (1 + segments.len()) * PROGRAM_HEADER_SIZE;
    let mut out = Bytes::default();
    // Class 64, little endian, version 1.
    out.0.extend([0x7f, b'E', b'L', b'F', 2, 1, 1]);
    out.up_to(16).half(ET_CORE).half(EM_X86_64).word(1).long(0).long(HEADER_SIZE as u64).long(0).word(0);
    out.half(HEADER_SIZE as u16)
        .half(PROGRAM_HEADER_SIZE as u16)
        .half(1 + segments.len() as u16)
        .half(0)
        .half(0)
        .half(0);
    let size = notes.0.len() as u64;
    program_header(&mut out, PT_NOTE, 0, (offset as u64, 0, size), 4);
    offset = (offset + notes.0.len()).next_multiple_of(PAGE);
    let first = offset;
    for (start, bytes) in &segments {
        program_header(&mut out, PT_LOAD, PF_R | PF_W, (offset as u64, *start, bytes.len() as u64), 1);
        offset += bytes.len();
    }
    out.0.extend(notes.0);
    out.up_to(first);
    segments.iter().for_each(|(_, bytes)| out.0.extend(bytes));
    out.0
}

fn program_header(out: &mut Bytes, kind: u32, flags: u32, (offset, address, size): (u64, u64, u64), alignment: u64) {
    out.word(kind).word(flags).long(offset).long(address).long(0).long(size).long(size).long(alignment);
}

/// The crash's memory, sorted, pieces that follow on each other joined.
fn segments(crash: &CrashFile) -> Vec<(u64, Vec<u8>)> {
    let mut pieces: Vec<_> = crash.memory.iter().collect();
    pieces.sort_by_key(|piece| piece.start);
    let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
    for piece in pieces {
        match joined.last_mut() {
            Some((start, bytes)) if *start + bytes.len() as u64 == piece.start => bytes.extend(&piece.bytes),
            _ => joined.push((piece.start, piece.bytes.clone())),
        }
    }
    joined
}

fn threads(crash: &CrashFile) -> Vec<Thread> {
    let mut running: Vec<_> = crash.registers.iter().collect();
    running.sort_by_key(|registers| (registers.cpu != crash.header.cpu, registers.cpu));
    let running = running.into_iter().map(|registers| Thread {
        id: if registers.thread == 0 { WITHOUT_THREAD + u64::from(registers.cpu) } else { registers.thread },
        general: registers.general,
        instruction_pointer: registers.instruction_pointer,
        flags: registers.flags,
        thread_pointer: 0,
    });
    let waiting = crash.waiting.iter().map(|thread| Thread {
        id: thread.thread,
        general: thread.general,
        instruction_pointer: thread.instruction_pointer,
        flags: 0,
        thread_pointer: thread.thread_pointer,
    });
    running.chain(waiting).collect()
}

fn note(notes: &mut Bytes, kind: u32, content: &Bytes) {
    notes.word(5).word(content.0.len() as u32).word(kind).text("CORE", 8);
    notes.0.extend(&content.0);
    let end = notes.0.len().next_multiple_of(4);
    notes.up_to(end);
}

/// `struct elf_prstatus`.
fn status(thread: &Thread) -> Bytes {
    let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] = thread.general;
    let mut out = Bytes::default();
    out.up_to(12).half(SIGNAL).up_to(32).word(thread.id as u32).up_to(112);
    let no_system_call = u64::MAX;
    for register in [r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, no_system_call] {
        out.long(register);
    }
    // RIP, CS, flags, RSP, SS, the bases of FS and GS, DS, ES, FS, GS: of selectors there is nothing to know.
    for register in [thread.instruction_pointer, 0, thread.flags, rsp, 0, thread.thread_pointer, 0, 0, 0, 0, 0] {
        out.long(register);
    }
    out.up_to(336);
    out
}

/// `struct elf_prpsinfo`: what has crashed, and why.
fn information(crash: &CrashFile, thread: &Thread) -> Bytes {
    let mut out = Bytes::default();
    let reason = crash.header.what.lines().next().unwrap_or_default();
    out.up_to(24).word(thread.id as u32).up_to(40).text("aerokernel", 16).text(reason, 80);
    out
}
