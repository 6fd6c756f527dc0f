//! Writes a crash file as an ELF core file, which debuggers open together with the kernel's own
//! file. They expect the layout of Linux for x86-64 (`elf.h` and `struct elf_prstatus`).

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, ELFOSABI_LINUX, EM_X86_64, ET_CORE, EV_CURRENT, FileHeader64, Ident, NT_PRPSINFO,
    NT_PRSTATUS, PF_R, PF_W, PN_XNUM, PT_LOAD, PT_NOTE, ProgramHeader64,
};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache, U16, U32, U64, pod};
use wire::crash_file::CrashFile;

/// Alignment of memory in the file, in bytes.
const PAGE: u64 = 4096;
/// Offset added to the index of a CPU that ran no thread, to form a thread id.
const WITHOUT_THREAD: u64 = 1 << 30;
/// The signal that debuggers report as the cause of the end: SIGABRT.
const SIGNAL: u32 = 6;

/// A thread, in the form of a core file.
struct Thread {
    id: u64,
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8 to R15.
    general: [u64; 16],
    instruction_pointer: u64,
    flags: u64,
    thread_pointer: u64,
}

/// A piece of the kernel's address space that the file contains.
struct Segment {
    address: u64,
    size: u64,
    /// Offset of the piece in the content.
    offset: u64,
}

/// The content of a note, built up field by field.
#[derive(Default)]
struct Note(Vec<u8>);

impl Note {
    fn word(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn long(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Pads with zeros up to a length.
    fn up_to(&mut self, length: usize) -> &mut Self {
        self.0.resize(length, 0);
        self
    }

    /// Appends a text, cut to `size - 1` bytes and padded with zeros to `size`.
    fn text(&mut self, text: &str, size: usize) -> &mut Self {
        let end = self.0.len() + size;
        self.0.extend(text.bytes().take(size - 1));
        self.up_to(end)
    }
}

/// Writes the core file of a crashed image, with the memory that the crash file contains.
///
/// # Errors
/// Fails if the file cannot be written.
pub fn write(out: &Path, crash: &CrashFile, image: &str) -> Result<()> {
    let mut content = Vec::new();
    let mut segments: Vec<Segment> = Vec::new();
    let mut pieces: Vec<_> = crash.memory.iter().collect();
    pieces.sort_by_key(|piece| piece.start);
    for piece in pieces {
        let size = piece.bytes.len() as u64;
        match segments.last_mut() {
            Some(last) if last.address + last.size == piece.start => last.size += size,
            _ => segments.push(Segment { address: piece.start, size, offset: content.len() as u64 }),
        }
        content.extend(&piece.bytes);
    }
    write_with(out, &notes(crash, image), &segments, &mut content.as_slice())
}

/// Writes the core file as [`write()`] does, but with all memory, taken from a core file that QEMU
/// has written.
///
/// # Errors
/// Fails if a file cannot be read or written, or if `dump` is no ELF file with memory.
pub fn write_with_memory(out: &Path, crash: &CrashFile, image: &str, dump: &Path) -> Result<()> {
    let mut dump = File::open(dump).context("what QEMU wrote cannot be read")?;
    let mut segments = Vec::new();
    {
        let data = &ReadCache::new(&dump);
        let header = FileHeader64::<LittleEndian>::parse(data)?;
        for segment in header.program_headers(LittleEndian, data)? {
            if segment.p_type(LittleEndian) == PT_LOAD {
                let (offset, size) = segment.file_range(LittleEndian);
                segments.push(Segment { address: segment.p_vaddr(LittleEndian), size, offset });
            }
        }
    }
    ensure!(!segments.is_empty(), "QEMU found no memory in the machine");
    dump.seek(SeekFrom::Start(0))?;
    write_with(out, &notes(crash, image), &segments, &mut dump)
}

fn write_with(out: &Path, notes: &[u8], segments: &[Segment], content: &mut impl io::Read) -> Result<()> {
    let count = u16::try_from(1 + segments.len()).ok().filter(|&count| count < PN_XNUM);
    let count =
        count.ok_or_else(|| anyhow!("{} pieces of memory are more than a core file can have", segments.len()))?;
    let header_size = size_of::<FileHeader64<LittleEndian>>() as u64;
    let notes_at = header_size + u64::from(count) * size_of::<ProgramHeader64<LittleEndian>>() as u64;
    let content_at = (notes_at + notes.len() as u64).next_multiple_of(PAGE);
    let header = FileHeader64 {
        e_ident: Ident {
            magic: ELFMAG,
            class: ELFCLASS64,
            data: ELFDATA2LSB,
            version: EV_CURRENT,
            // LLDB uses this field to tell which system's notes follow.
            os_abi: ELFOSABI_LINUX,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: half(ET_CORE),
        e_machine: half(EM_X86_64),
        e_version: word(EV_CURRENT.into()),
        e_entry: long(0),
        e_phoff: long(header_size),
        e_shoff: long(0),
        e_flags: word(0),
        e_ehsize: half(header_size as u16),
        e_phentsize: half(size_of::<ProgramHeader64<LittleEndian>>() as u16),
        e_phnum: half(count),
        e_shentsize: half(0),
        e_shnum: half(0),
        e_shstrndx: half(0),
    };
    let mut headers = pod::bytes_of(&header).to_vec();
    let of_notes = Segment { address: 0, size: notes.len() as u64, offset: notes_at };
    headers.extend(pod::bytes_of(&program_header(PT_NOTE, 0, &of_notes)));
    for segment in segments {
        let placed = Segment { offset: content_at + segment.offset, ..*segment };
        headers.extend(pod::bytes_of(&program_header(PT_LOAD, PF_R | PF_W, &placed)));
    }
    let mut write = || {
        let mut file = File::create(out)?;
        file.write_all(&headers)?;
        file.write_all(notes)?;
        file.seek(SeekFrom::Start(content_at))?;
        io::copy(content, &mut file)
    };
    write().with_context(|| format!("{} cannot be written", out.display()))?;
    Ok(())
}

fn program_header(kind: u32, flags: u32, segment: &Segment) -> ProgramHeader64<LittleEndian> {
    ProgramHeader64 {
        p_type: word(kind),
        p_flags: word(flags),
        p_offset: long(segment.offset),
        p_vaddr: long(segment.address),
        p_paddr: long(0),
        p_filesz: long(segment.size),
        p_memsz: long(segment.size),
        p_align: long(1),
    }
}

fn half(value: u16) -> U16<LittleEndian> {
    U16::new(LittleEndian, value)
}

fn word(value: u32) -> U32<LittleEndian> {
    U32::new(LittleEndian, value)
}

fn long(value: u64) -> U64<LittleEndian> {
    U64::new(LittleEndian, value)
}

/// Returns the notes: the crashed CPU's thread first, then those of the other CPUs, then the
/// waiting threads.
fn notes(crash: &CrashFile, image: &str) -> Vec<u8> {
    let mut notes = Note::default();
    for (index, thread) in threads(crash).iter().enumerate() {
        note(&mut notes, NT_PRSTATUS, &status(thread));
        if index == 0 {
            note(&mut notes, NT_PRPSINFO, &information(crash, image, thread));
        }
    }
    notes.0
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

fn note(notes: &mut Note, kind: u32, content: &Note) {
    notes.word(5).word(content.0.len() as u32).word(kind).text("CORE", 8);
    notes.0.extend(&content.0);
    let end = notes.0.len().next_multiple_of(4);
    notes.up_to(end);
}

/// Returns a thread's `struct elf_prstatus`.
fn status(thread: &Thread) -> Note {
    let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] = thread.general;
    let mut out = Note::default();
    out.up_to(12).word(SIGNAL).up_to(32).word(thread.id as u32).up_to(112);
    let no_system_call = u64::MAX;
    for register in [r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, no_system_call] {
        out.long(register);
    }
    // RIP, CS, flags, RSP, SS, the bases of FS and GS, DS, ES, FS, GS. The selectors are not
    // recorded.
    for register in [thread.instruction_pointer, 0, thread.flags, rsp, 0, thread.thread_pointer, 0, 0, 0, 0, 0] {
        out.long(register);
    }
    out.up_to(336);
    out
}

/// Returns `struct elf_prpsinfo`, with the image's file name and the reason of the crash.
fn information(crash: &CrashFile, image: &str, thread: &Thread) -> Note {
    let mut out = Note::default();
    let reason = crash.header.what.lines().next().unwrap_or_default();
    out.up_to(24).word(thread.id as u32).up_to(40).text(image, 16).text(reason, 80);
    out
}
