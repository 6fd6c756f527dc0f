//! What a program will ask for that it does not get in an HRT, as far as its file shows.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::{Endianness, SectionIndex};

/// Functions whose import says that a program uses what is not there, or not so, and what it gets.
const FUNCTIONS: [(&str, &str); 16] = [
    ("pkey_alloc", "protection keys: it gets ENOSPC"),
    ("seccomp_init", "filters of system calls: it gets an error"),
    ("seccomp_load", "filters of system calls: it gets an error"),
    ("iopl", "I/O ports: it gets EPERM"),
    ("ioperm", "I/O ports: it gets EPERM"),
    ("sched_getcpu", "the number of its CPU: it gets 0"),
    ("getcpu", "the number of its CPU: it gets 0"),
    ("fork", "processes, which run natively (the programs they execute do not with --follow-exec)"),
    ("vfork", "processes, which run natively (the programs they execute do not with --follow-exec)"),
    ("posix_spawn", "processes, which run natively (the programs they execute do not with --follow-exec)"),
    ("posix_spawnp", "processes, which run natively (the programs they execute do not with --follow-exec)"),
    ("system", "processes, which run natively (the programs they execute do not with --follow-exec)"),
    ("popen", "processes, which run natively (the programs they execute do not with --follow-exec)"),
    ("execve", "other programs in its place, which run natively without --follow-exec"),
    ("execv", "other programs in its place, which run natively without --follow-exec"),
    ("execvp", "other programs in its place, which run natively without --follow-exec"),
];

/// What a file asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// By what it asks: a function, or an instruction's address.
    pub by: String,
    /// What it asks for, and gets.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.by, self.what)
    }
}

/// Reads a program's file, or that of a script's interpreter.
///
/// # Errors
/// Fails for what cannot run in an HRT at all: what is no program for x86-64.
pub fn program(path: &Path) -> Result<(PathBuf, Vec<u8>)> {
    let mut path = path.to_path_buf();
    // Linux follows as many interpreters (fs/exec.c).
    for _ in 0..5 {
        let context = || format!("{} cannot be read", path.display());
        let mut bytes = Vec::new();
        File::open(&path).with_context(context)?.read_to_end(&mut bytes).with_context(context)?;
        let Some(line) = bytes.strip_prefix(b"#!") else {
            machine(&path, &bytes)?;
            let mode = path.metadata().with_context(context)?.permissions().mode();
            let has_privileges = mode & (libc::S_ISUID | libc::S_ISGID) != 0;
            ensure!(!has_privileges, "{} has its owner's privileges, which it would not get here", path.display());
            return Ok((path, bytes));
        };
        let line = String::from_utf8_lossy(line.split(|&byte| byte == b'\n').next().unwrap_or_default()).into_owned();
        let interpreter = line.split_whitespace().next();
        path = interpreter.with_context(|| format!("{} names no interpreter", path.display()))?.into();
    }
    bail!("{} has too many interpreters", path.display())
}

/// Fails for a file that is no program for x86-64.
fn machine(path: &Path, bytes: &[u8]) -> Result<()> {
    // The identification, and the machine at 18 (System V ABI, chapter 4).
    ensure!(bytes.starts_with(&elf::ELFMAG) && bytes.len() > 20, "{} is no program", path.display());
    let is_64 = bytes[4] == elf::ELFCLASS64 && u16::from_le_bytes([bytes[18], bytes[19]]) == elf::EM_X86_64;
    ensure!(is_64, "{} is a program for another machine: an HRT runs those for x86-64, 64 bits", path.display());
    Ok(())
}

/// What a program's or library's file asks for.
///
/// # Errors
/// Fails if the file is damaged.
pub fn findings(bytes: &[u8]) -> Result<Vec<Finding>> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let symbols = sections.symbols(endian, bytes, elf::SHT_DYNSYM)?;
    let mut found = Vec::new();
    for symbol in symbols.iter().filter(|symbol| symbol.st_shndx(endian) == SectionIndex(0).0 as u16) {
        let name = symbols.symbol_name(endian, symbol)?;
        let known = FUNCTIONS.iter().find(|known| known.0.as_bytes() == name);
        found.extend(known.map(|(by, what)| Finding { by: (*by).into(), what: (*what).into() }));
    }
    let mut kinds = BTreeMap::new();
    for section in sections.iter() {
        if section.sh_flags(endian) & u64::from(elf::SHF_EXECINSTR) != 0 {
            look_at_code(section.data(endian, bytes)?, section.sh_addr(endian), &mut kinds);
        }
    }
    found.extend(kinds.into_iter().map(|(what, (at, count))| Finding {
        by: format!("{count} instruction{}, the first at {at:#x}", if count == 1 { "" } else { "s" }),
        what: what.into(),
    }));
    Ok(found)
}

/// Looks for instructions that have another effect in ring 0. Data between code may look like some.
fn look_at_code(code: &[u8], start: u64, kinds: &mut BTreeMap<&'static str, (u64, u64)>) {
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if let Some(what) = effect(&instruction) {
            kinds.entry(what).or_insert((instruction.ip(), 0)).1 += 1;
        }
    }
}

/// What an instruction does in an HRT that it does not do in a process.
fn effect(instruction: &Instruction) -> Option<&'static str> {
    match instruction.mnemonic() {
        // These raise SIGSEGV, as in a process.
        Mnemonic::Hlt | Mnemonic::In | Mnemonic::Out => None,
        _ if instruction.is_invalid() => None,
        _ if instruction.is_privileged() => Some("executed, where a process gets SIGSEGV (or data that looks like it)"),
        _ if instruction.segment_prefix() == Register::GS => Some("memory by GS, which is the HRT's"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_for_this_machine_is_refused() {
        let refused = |bytes: &[u8]| machine(Path::new("x"), bytes).expect_err("it is none").to_string();
        assert_eq!(refused(b"text"), "x is no program");
        let mut header = [0; 64];
        header[..4].copy_from_slice(&elf::ELFMAG);
        (header[4], header[18]) = (elf::ELFCLASS32, elf::EM_386 as u8);
        assert!(refused(&header).contains("another machine"));
        (header[4], header[18]) = (elf::ELFCLASS64, elf::EM_X86_64 as u8);
        assert!(machine(Path::new("x"), &header).is_ok());
        assert!(findings(&header[..20]).is_err());
    }

    #[test]
    fn instructions_of_kernels_are_found() {
        // nop; cli; hlt; mov rax, gs:[0]; mov cr3, rax
        let code = [0x90, 0xfa, 0xf4, 0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x0f, 0x22, 0xd8];
        let mut kinds = BTreeMap::new();
        look_at_code(&code, 0x1000, &mut kinds);
        assert_eq!(kinds.values().copied().collect::<Vec<_>>(), [(0x1001, 2), (0x1003, 1)]);
    }
}
