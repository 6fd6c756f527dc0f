//! Registers in gdb's order, and the target description that tells gdb that order (gdb manual,
//! "i386 Features"): general and segment registers, x87, SSE, AVX and AVX-512 where the CPU has
//! them, and control registers in a feature of our own.

use core::fmt::{self, Write};
use core::num::NonZeroUsize;

use arch_contract::VectorLayout;
use arch_contract::debug::SystemRegisters;
use arch_contract::fault::Registers as General;
use gdbstub::arch::RegId;
use kernel::arch::*;

/// Size of the largest save area, which includes AVX-512 (SDM Vol. 1, 13.5).
const AREA_LIMIT: usize = 2816;
/// Offsets in an FXSAVE area (SDM Vol. 1, table 10-2).
mod legacy {
    pub const CONTROL: usize = 0;
    pub const STATUS: usize = 2;
    pub const TAGS: usize = 4;
    pub const OPCODE: usize = 6;
    pub const INSTRUCTION: usize = 8;
    pub const OPERAND: usize = 16;
    pub const MXCSR: usize = 24;
    pub const STACK: usize = 32;
    pub const XMM: usize = 160;
}

/// The architecture, as gdbstub knows it.
pub enum X64 {}

impl gdbstub::arch::Arch for X64 {
    type Usize = u64;
    type Registers = Registers;
    type BreakpointKind = usize;
    type RegId = Number;
}

/// A register's number in gdb's order.
#[derive(Clone, Copy, Debug)]
pub struct Number(usize);

impl RegId for Number {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let (mut index, mut size) = (0, None);
        Registers::default().for_each(&Vectors::layout(), |piece| {
            if index == id {
                size = NonZeroUsize::new(piece.size());
            }
            index += 1;
        });
        size.map(|size| (Self(id), Some(size)))
    }
}

/// Number of registers in the `g` packet: general registers, instruction pointer, flags, and
/// segments. gdb reads the others one by one, and writes all one by one (gdb manual, "Packets",
/// `g`, `p` and `P`). With the vector registers the packet would have about 2 KiB, usually for
/// nothing: gdb reads one for each thread it lists.
const TOGETHER: usize = 24;

/// All registers of a CPU.
#[derive(Clone)]
pub struct Registers {
    /// General registers, instruction pointer, and flags.
    pub general: General,
    /// Segment and control registers, read-only to gdb.
    pub system: SystemRegisters,
    /// Floating-point and vector state, if known.
    pub vectors: Option<[u8; AREA_LIMIT]>,
    /// The registers are those of a thread that is not running: only callee-saved ones are known.
    pub is_suspended: bool,
}

impl Default for Registers {
    fn default() -> Self {
        Self { general: General::zero(), system: SystemRegisters::zero(), vectors: None, is_suspended: false }
    }
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.general.fmt(f)
    }
}

impl PartialEq for Registers {
    fn eq(&self, other: &Self) -> bool {
        self.general.general == other.general.general
            && self.general.instruction_pointer == other.general.instruction_pointer
            && self.vectors == other.vectors
    }
}

/// A register, or a part of one, in place.
enum Piece<'a> {
    /// Bytes that gdb may change.
    Bytes(&'a mut [u8]),
    /// A number that gdb may only read, and its size in bytes.
    Number(u64, usize),
}

impl Piece<'_> {
    fn size(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Number(_, size) => *size,
        }
    }
}

impl Registers {
    /// Copies a vector state into the registers.
    pub fn set_vectors(&mut self, area: &[u8]) {
        let mut copy = [0; AREA_LIMIT];
        let length = area.len().min(AREA_LIMIT);
        copy[..length].copy_from_slice(&area[..length]);
        self.vectors = Some(copy);
    }

    /// Copies a register to `out` and returns its size; `None` if it is unknown or does not exist.
    pub fn read(&mut self, number: Number, out: &mut [u8]) -> Option<usize> {
        let (mut index, mut length) = (0, None);
        let is_suspended = self.is_suspended;
        self.for_each(&Vectors::layout(), |piece| {
            if index == number.0 && (!is_suspended || is_preserved(index, &piece)) {
                let number;
                let bytes = match piece {
                    Piece::Bytes(bytes) => &*bytes,
                    Piece::Number(value, size) => {
                        number = value.to_le_bytes();
                        &number[..size]
                    }
                };
                if let Some(out) = out.get_mut(..bytes.len()) {
                    out.copy_from_slice(bytes);
                    length = Some(bytes.len());
                }
            }
            index += 1;
        });
        length
    }

    /// Changes a register. Returns false if it does not exist, is read-only, or differs in size
    /// from `value`.
    pub fn write(&mut self, number: Number, value: &[u8]) -> bool {
        let (mut index, mut is_done) = (0, false);
        self.for_each(&Vectors::layout(), |piece| {
            if let Piece::Bytes(bytes) = piece
                && index == number.0
                && bytes.len() == value.len()
            {
                bytes.copy_from_slice(value);
                is_done = true;
            }
            index += 1;
        });
        is_done
    }

    /// Calls `each` with every register in gdb's order.
    fn for_each(&mut self, layout: &VectorLayout, mut each: impl FnMut(Piece<'_>)) {
        let mut word = |register: &mut u64, size: usize| {
            let mut bytes = register.to_le_bytes();
            each(Piece::Bytes(&mut bytes[..size]));
            *register = u64::from_le_bytes(bytes);
        };
        self.general.general.iter_mut().for_each(|register| word(register, 8));
        let mut instruction = self.general.instruction_pointer as u64;
        word(&mut instruction, 8);
        self.general.instruction_pointer = instruction as usize;
        word(&mut self.general.flags, 4);
        self.system.segments.iter().for_each(|&segment| each(Piece::Number(segment.into(), 4)));
        let mut none = [0; AREA_LIMIT];
        let area = self.vectors.as_mut().unwrap_or(&mut none);
        let word = |area: &[u8; AREA_LIMIT], at: usize, size: usize| {
            area[at..at + size].iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte))
        };
        (0..8).for_each(|index| each(Piece::Bytes(&mut area[legacy::STACK + 16 * index..][..10])));
        each(Piece::Number(word(area, legacy::CONTROL, 2), 4));
        each(Piece::Number(word(area, legacy::STATUS, 2), 4));
        each(Piece::Number(full_tags(area[legacy::TAGS]), 4));
        each(Piece::Number(0, 4));
        each(Piece::Number(word(area, legacy::INSTRUCTION, 4), 4));
        each(Piece::Number(0, 4));
        each(Piece::Number(word(area, legacy::OPERAND, 4), 4));
        each(Piece::Number(word(area, legacy::OPCODE, 2), 4));
        (0..16).for_each(|index| each(Piece::Bytes(&mut area[legacy::XMM + 16 * index..][..16])));
        each(Piece::Bytes(&mut area[legacy::MXCSR..][..4]));
        each(Piece::Number(self.system.fs_base, 8));
        each(Piece::Number(self.system.gs_base, 8));
        if let Some(upper) = layout.avx {
            (0..16).for_each(|index| each(Piece::Bytes(&mut area[upper + 16 * index..][..16])));
        }
        if let Some([masks, upper, further]) = layout.avx512 {
            (0..16).for_each(|index| each(Piece::Bytes(&mut area[further + 64 * index..][..16])));
            (0..16).for_each(|index| each(Piece::Bytes(&mut area[further + 64 * index + 16..][..16])));
            (0..8).for_each(|index| each(Piece::Bytes(&mut area[masks + 8 * index..][..8])));
            (0..16).for_each(|index| each(Piece::Bytes(&mut area[upper + 32 * index..][..32])));
            (0..16).for_each(|index| each(Piece::Bytes(&mut area[further + 64 * index + 32..][..32])));
        }
        self.system.control.iter().for_each(|&register| each(Piece::Number(register, 8)));
        self.general.stack_pointer = self.general.general[7] as usize;
        self.general.frame_pointer = self.general.general[6] as usize;
    }
}

/// Returns true if the register with number `index` in gdb's order is known for a thread that is
/// not running: callee-saved registers (System V ABI, 3.2.1), the address where it resumes, and
/// registers that are the same for all threads.
fn is_preserved(index: usize, piece: &Piece<'_>) -> bool {
    const INSTRUCTION_POINTER: usize = 16;
    const SEGMENTS: core::ops::Range<usize> = 18..24;
    const BASES: core::ops::Range<usize> = 57..59;
    match index {
        // RBX, RBP, RSP, R12 to R15.
        1 | 6 | 7 | 12..=INSTRUCTION_POINTER => true,
        _ if SEGMENTS.contains(&index) || BASES.contains(&index) => true,
        // Past the bases, the remaining vector registers are bytes and the control registers are
        // numbers.
        _ => index >= BASES.end && matches!(piece, Piece::Number(..)),
    }
}

/// Expands FXSAVE's tag byte, one bit per register, to the x87 tag word: 0 in use, 3 empty.
fn full_tags(abridged: u8) -> u64 {
    (0..8).filter(|bit| abridged & 1 << bit == 0).fold(0, |tags, bit| tags | 3 << (2 * bit))
}

impl gdbstub::arch::Registers for Registers {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.general.instruction_pointer as u64
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        let mut copy = self.clone();
        let mut index = 0;
        copy.for_each(&Vectors::layout(), |piece| {
            let is_known = !self.is_suspended || is_preserved(index, &piece);
            let mut write = |byte: u8| write_byte(is_known.then_some(byte));
            match piece {
                _ if index >= TOGETHER => {}
                Piece::Bytes(bytes) => bytes.iter().copied().for_each(&mut write),
                Piece::Number(number, size) => number.to_le_bytes()[..size].iter().copied().for_each(&mut write),
            }
            index += 1;
        });
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let (mut rest, mut index, mut enough) = (bytes, 0, true);
        self.for_each(&Vectors::layout(), |piece| {
            index += 1;
            if index > TOGETHER {
                return;
            }
            let Some((given, further)) = rest.split_at_checked(piece.size()) else {
                enough = false;
                return;
            };
            rest = further;
            if let Piece::Bytes(bytes) = piece {
                bytes.copy_from_slice(given);
            }
        });
        if enough { Ok(()) } else { Err(()) }
    }
}

const GENERAL: [&str; 16] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
const SEGMENTS: [&str; 6] = ["cs", "ss", "ds", "es", "fs", "gs"];
const X87: [&str; 8] = ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"];
const CONTROL: [&str; 6] = ["cr0", "cr2", "cr3", "cr4", "cr8", "efer"];
/// Bits of the flags register (SDM Vol. 1, 3.4.3).
const FLAGS: [(&str, u32); 16] = [
    ("CF", 0),
    ("PF", 2),
    ("AF", 4),
    ("ZF", 6),
    ("SF", 7),
    ("TF", 8),
    ("IF", 9),
    ("DF", 10),
    ("OF", 11),
    ("NT", 14),
    ("RF", 16),
    ("VM", 17),
    ("AC", 18),
    ("VIF", 19),
    ("VIP", 20),
    ("ID", 21),
];

/// Writes the target description as XML.
pub fn describe(out: &mut dyn Write, layout: &VectorLayout) -> fmt::Result {
    out.write_str("<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">")?;
    out.write_str("<architecture>i386:x86-64</architecture><feature name=\"org.gnu.gdb.i386.core\">")?;
    out.write_str("<flags id=\"i386_eflags\" size=\"4\">")?;
    for (name, bit) in FLAGS {
        write!(out, "<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>")?;
    }
    out.write_str("</flags>")?;
    for name in GENERAL {
        let kind = if matches!(name, "rbp" | "rsp") { "data_ptr" } else { "int64" };
        register(out, name, 64, kind)?;
    }
    register(out, "rip", 64, "code_ptr")?;
    register(out, "eflags", 32, "i386_eflags")?;
    SEGMENTS.iter().try_for_each(|name| register(out, name, 32, "int32"))?;
    (0..8).try_for_each(|index| numbered(out, "st", index, "", 80, "i387_ext"))?;
    X87.iter().try_for_each(|name| register(out, name, 32, "int\" group=\"float"))?;
    out.write_str("</feature><feature name=\"org.gnu.gdb.i386.sse\">")?;
    vector_types(out)?;
    (0..16).try_for_each(|index| numbered(out, "xmm", index, "", 128, "vec128"))?;
    register(out, "mxcsr", 32, "int\" group=\"vector")?;
    out.write_str("</feature><feature name=\"org.gnu.gdb.i386.segments\">")?;
    register(out, "fs_base", 64, "int")?;
    register(out, "gs_base", 64, "int")?;
    out.write_str("</feature>")?;
    if layout.avx.is_some() {
        out.write_str("<feature name=\"org.gnu.gdb.i386.avx\">")?;
        (0..16).try_for_each(|index| numbered(out, "ymm", index, "h", 128, "uint128"))?;
        out.write_str("</feature>")?;
    }
    if layout.avx512.is_some() {
        out.write_str("<feature name=\"org.gnu.gdb.i386.avx512\">")?;
        vector_types(out)?;
        out.write_str("<vector id=\"v2ui128\" type=\"uint128\" count=\"2\"/>")?;
        (16..32).try_for_each(|index| numbered(out, "xmm", index, "", 128, "vec128"))?;
        (16..32).try_for_each(|index| numbered(out, "ymm", index, "h", 128, "uint128"))?;
        (0..8).try_for_each(|index| numbered(out, "k", index, "", 64, "uint64"))?;
        (0..32).try_for_each(|index| numbered(out, "zmm", index, "h", 256, "v2ui128"))?;
        out.write_str("</feature>")?;
    }
    out.write_str("<feature name=\"org.aerokernel.control\">")?;
    CONTROL.iter().try_for_each(|name| register(out, name, 64, "int64"))?;
    out.write_str("</feature></target>")
}

fn register(out: &mut dyn Write, name: &str, bits: u32, kind: &str) -> fmt::Result {
    write!(out, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>")
}

fn numbered(out: &mut dyn Write, name: &str, index: u32, end: &str, bits: u32, kind: &str) -> fmt::Result {
    write!(out, "<reg name=\"{name}{index}{end}\" bitsize=\"{bits}\" type=\"{kind}\"/>")
}

fn vector_types(out: &mut dyn Write) -> fmt::Result {
    for (id, kind, count) in [
        ("v4f", "ieee_single", 4),
        ("v2d", "ieee_double", 2),
        ("v16i8", "int8", 16),
        ("v8i16", "int16", 8),
        ("v4i32", "int32", 4),
        ("v2i64", "int64", 2),
    ] {
        write!(out, "<vector id=\"{id}\" type=\"{kind}\" count=\"{count}\"/>")?;
    }
    out.write_str("<union id=\"vec128\">")?;
    for (name, kind) in [
        ("v4_float", "v4f"),
        ("v2_double", "v2d"),
        ("v16_int8", "v16i8"),
        ("v8_int16", "v8i16"),
        ("v4_int32", "v4i32"),
        ("v2_int64", "v2i64"),
        ("uint128", "uint128"),
    ] {
        write!(out, "<field name=\"{name}\" type=\"{kind}\"/>")?;
    }
    out.write_str("</union>")
}

/// A writer that keeps the part of a text that begins at an offset, up to the buffer's size.
pub struct Window<'a> {
    skip: u64,
    buffer: &'a mut [u8],
    /// Number of bytes kept.
    pub length: usize,
}

impl<'a> Window<'a> {
    /// Creates a window on the text from `offset` on.
    pub fn new(offset: u64, buffer: &'a mut [u8]) -> Self {
        Self { skip: offset, buffer, length: 0 }
    }
}

impl Write for Window<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let skipped = self.skip.min(text.len() as u64) as usize;
        self.skip -= skipped as u64;
        let bytes = &text.as_bytes()[skipped..];
        let length = bytes.len().min(self.buffer.len() - self.length);
        self.buffer[self.length..self.length + length].copy_from_slice(&bytes[..length]);
        self.length += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_can_be_read_in_pieces() {
        let layout = VectorLayout { size: AREA_LIMIT, avx: Some(576), avx512: Some([1088, 1152, 1664]) };
        let mut whole = String::new();
        describe(&mut whole, &layout).unwrap();
        let mut pieces = Vec::new();
        while pieces.len() < whole.len() {
            let mut buffer = [0; 100];
            let mut window = Window::new(pieces.len() as u64, &mut buffer);
            describe(&mut window, &layout).unwrap();
            let length = window.length;
            pieces.extend_from_slice(&buffer[..length]);
        }
        assert_eq!(pieces, whole.as_bytes());
        assert!(whole.contains("\"zmm31h\"") && whole.contains("\"gs_base\"") && whole.contains("\"cr3\""));
    }

    #[test]
    fn registers_come_back_as_they_went() {
        let layout = VectorLayout { size: AREA_LIMIT, avx: Some(576), avx512: Some([1088, 1152, 1664]) };
        let mut registers = Registers::default();
        let area: Vec<u8> = (0..AREA_LIMIT).map(|index| (index % 251) as u8).collect();
        registers.set_vectors(&area);
        registers.general.general = core::array::from_fn(|index| index as u64 + 1);
        let mut sizes = 0;
        let mut copy = registers.clone();
        copy.for_each(&layout, |piece| {
            sizes += match piece {
                Piece::Bytes(bytes) => bytes.len(),
                Piece::Number(_, size) => size,
            }
        });
        // 16 general, rip, eflags and segments; x87; SSE; bases; AVX; AVX-512; control.
        let expected = 16 * 8 + 8 + 7 * 4 + 8 * 10 + 8 * 4 + 16 * 16 + 4 + 16 + 256 + 2 * 256 + 64 + 32 * 32 + 6 * 8;
        assert_eq!(sizes, expected);
        assert!(copy == registers);
    }
}
