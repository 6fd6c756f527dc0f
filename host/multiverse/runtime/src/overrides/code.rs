//! Machine code: what stands in front of a function that is overridden, and before what is called
//! instead.

use std::fs;
use std::os::unix::fs::FileExt;

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Decoder, DecoderOptions, FlowControl, Instruction, InstructionBlock, Mnemonic,
};
use multiverse::overrides::{Argument, MOST_ARGUMENTS};

/// Size of a piece of memory for code, in bytes.
const PIECE: usize = 64 << 10;
/// By how much the size of code may differ between places.
const ROOM: usize = 256;
/// How far a jump with a 32-bit displacement goes, less the size of what is around (SDM Vol. 2A,
/// JMP).
const REACH: u64 = (1 << 31) - (16 << 20);
/// Where programs may have memory.
const LOWEST: u64 = 1 << 16;
const END: u64 = 1 << 47;
/// Size of a jump with a 32-bit displacement.
const JUMP: usize = 5;

/// Memory for code.
pub struct Piece {
    start: u64,
    used: usize,
}

/// The pieces of memory for code that there are.
#[derive(Default)]
pub struct Code {
    pieces: Vec<Piece>,
}

impl Code {
    /// Keeps code at a place that a jump reaches from an address; `make` is given the place and
    /// makes the code, which has the same size everywhere. Returns the place.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn keep(&mut self, near: u64, make: impl Fn(u64) -> Result<Vec<u8>, String>) -> Result<u64, String> {
        let size = make(near)?.len() + ROOM;
        let has_room = |piece: &Piece| piece.start.abs_diff(near) < REACH && piece.used + size <= PIECE;
        let piece = match self.pieces.iter().position(has_room) {
            Some(place) => &mut self.pieces[place],
            None => {
                self.pieces.push(Piece { start: map_near(near)?, used: 0 });
                self.pieces.last_mut().ok_or("there is no memory")?
            }
        };
        let at = piece.start + piece.used as u64;
        let code = make(at)?;
        if piece.used + code.len() > PIECE {
            return Err("it is too long".into());
        }
        // Functions begin at multiples of 16.
        piece.used += code.len().next_multiple_of(16);
        write(at, &code)?;
        Ok(at)
    }
}

/// Writes code, whatever its protection is.
pub fn write(at: u64, code: &[u8]) -> Result<(), String> {
    let file = fs::OpenOptions::new().write(true).open("/proc/self/mem");
    let written = file.and_then(|file| file.write_all_at(code, at));
    written.map_err(|error| format!("its code cannot be changed: {error}"))
}

/// Maps a piece of memory within the reach of an address.
fn map_near(near: u64) -> Result<u64, String> {
    let maps = fs::read_to_string("/proc/self/maps").map_err(|error| format!("/proc/self/maps: {error}"))?;
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap_or(END);
    let used = maps.lines().filter_map(|line| line.split_once(' ')?.0.split_once('-'));
    let mut from = LOWEST;
    let mut gaps: Vec<u64> = Vec::new();
    for (start, end) in used.map(|(start, end)| (number(start), number(end))) {
        let (lowest, highest) = (from.max(near.saturating_sub(REACH)), start.min(near + REACH).min(END));
        // In the middle, because a heap or a stack may want to grow.
        if highest.saturating_sub(lowest) > 4 * PIECE as u64 {
            gaps.push((lowest / 2 + highest / 2).next_multiple_of(4096));
        }
        from = end;
    }
    gaps.sort_by_key(|at| at.abs_diff(near));
    for at in gaps {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: a new mapping, in a gap.
        let mapped = unsafe { libc::mmap(at as *mut _, PIECE, libc::PROT_READ | libc::PROT_EXEC, flags, -1, 0) };
        if mapped as u64 == at {
            return Ok(at);
        }
    }
    Err("there is no room for code near it".into())
}

/// Has a function's calls go to `target` in the HRT, where CS has the kernel's privilege level, and
/// to the function itself elsewhere. Returns the address at which that is from now on.
pub fn replace(code: &mut Code, at: u64, size: u64, target: u64) -> Result<u64, String> {
    // mov r11d, cs; test r11b, 3; jnz (the function itself)
    const IN_HRT: [u8; 13] = [0x41, 0x8c, 0xcb, 0x41, 0xf6, 0xc3, 0x03, 0x0f, 0x85, 14, 0, 0, 0];
    redirect(code, (at, size), target, &IN_HRT)
}

/// As [`replace`], in the HRT and elsewhere.
pub fn lead(code: &mut Code, at: u64, size: u64, target: u64) -> Result<u64, String> {
    redirect(code, (at, size), target, &[])
}

fn redirect(code: &mut Code, (at, size): (u64, u64), target: u64, condition: &[u8]) -> Result<u64, String> {
    let displaced = displaced(at, size)?;
    let behind: usize = displaced.iter().map(Instruction::len).sum();
    let mut front = condition.to_vec();
    jump(&mut front, target);
    let original = front.len() as u64;
    let entry = code.keep(at, |place| {
        let mut code = front.clone();
        let block = InstructionBlock::new(&displaced, place + original);
        let moved = BlockEncoder::encode(64, block, BlockEncoderOptions::NONE);
        code.extend(moved.map_err(|error| format!("its first instructions cannot be moved: {error}"))?.code_buffer);
        jump(&mut code, at + behind as u64);
        Ok(code)
    })?;
    let distance = entry.wrapping_sub(at + JUMP as u64) as u32;
    let mut first = vec![0xe9];
    first.extend(distance.to_le_bytes());
    write(at, &first)?;
    Ok(entry + original)
}

/// The instructions of a function that are executed elsewhere from now on: the first ones, in whose
/// place a jump fits, or all of them if it jumps back to one of those.
fn displaced(at: u64, size: u64) -> Result<Vec<Instruction>, String> {
    // What is smaller ends at a multiple of 16, with nothing behind it up to there.
    if size < JUMP as u64 && !at.is_multiple_of(16) {
        return Err("it is too short".into());
    }
    // SAFETY: so many bytes are mapped: they are the function's, or of its last 16.
    let bytes = unsafe { std::slice::from_raw_parts(at as *const u8, (size as usize).max(16)) };
    let mut all: Vec<Instruction> = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).into_iter().collect();
    let first = all.iter().take_while(|one| one.ip() < at + JUMP as u64).count();
    let end = all.get(first).map_or(at + bytes.len() as u64, Instruction::ip);
    let jumps_back = |one: &Instruction| {
        let is_jump = matches!(one.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch);
        is_jump && (at + 1..end).contains(&one.near_branch_target())
    };
    if !all.iter().any(jumps_back) {
        all.truncate(first);
    } else {
        all.retain(|one| one.ip() < at + size);
        if all.iter().any(|one| one.flow_control() == FlowControl::IndirectBranch) {
            return Err("it jumps back to its first instructions, and by a table".into());
        }
    }
    let is_padding = |one: &Instruction| matches!(one.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
    if !all.iter().filter(|one| one.ip() >= at + size).all(is_padding) {
        return Err("it is too short, and another function follows".into());
    }
    if all.iter().any(Instruction::is_invalid) { Err("its instructions are unknown".into()) } else { Ok(all) }
}

/// Appends a jump to anywhere: `jmp [rip]`, and the address.
fn jump(code: &mut Vec<u8>, to: u64) {
    code.extend([0xff, 0x25, 0, 0, 0, 0]);
    code.extend(to.to_le_bytes());
}

/// The bytes of `mov register, [rsp + displacement]` but for the displacement, and of `mov
/// register, number` but for the number, for the registers of arguments (System V ABI AMD64,
/// 3.2.3).
const LOADS: [[u8; 4]; MOST_ARGUMENTS] = [
    [0x48, 0x8b, 0x7c, 0x24],
    [0x48, 0x8b, 0x74, 0x24],
    [0x48, 0x8b, 0x54, 0x24],
    [0x48, 0x8b, 0x4c, 0x24],
    [0x4c, 0x8b, 0x44, 0x24],
    [0x4c, 0x8b, 0x4c, 0x24],
];
const NUMBERS: [[u8; 2]; MOST_ARGUMENTS] =
    [[0x48, 0xbf], [0x48, 0xbe], [0x48, 0xba], [0x48, 0xb9], [0x49, 0xb8], [0x49, 0xb9]];
/// `push` of R9, R8, RCX, RDX, RSI, RDI: the first argument is then at RSP.
const PUSHES: [u8; 8] = [0x41, 0x51, 0x41, 0x50, 0x51, 0x52, 0x56, 0x57];

/// What is called instead of a function.
pub struct Call<'a> {
    /// The function's address.
    pub function: u64,
    /// Where functions of the kernel are called; `None` for others.
    pub gate: Option<u64>,
    /// Its arguments; `None` for those of the call.
    pub arguments: Option<&'a [Argument]>,
    /// What the caller gets instead of its result.
    pub result: Option<i64>,
}

impl Call<'_> {
    /// The code that makes the call, for any place.
    pub fn code(&self) -> Vec<u8> {
        let mut code = Vec::new();
        if let Some(arguments) = self.arguments {
            code.extend(PUSHES);
            for (place, argument) in arguments.iter().enumerate().take(MOST_ARGUMENTS) {
                match argument {
                    Argument::Given(given) => {
                        code.extend(LOADS[place]);
                        code.push(8 * *given as u8);
                    }
                    Argument::Number(number) => {
                        code.extend(NUMBERS[place]);
                        code.extend(number.to_le_bytes());
                    }
                }
            }
            // add rsp, 48
            code.extend([0x48, 0x83, 0xc4, 8 * MOST_ARGUMENTS as u8]);
        }
        let mut target = self.function;
        if let Some(gate) = self.gate {
            // mov r11, function
            code.extend([0x49, 0xbb]);
            code.extend(self.function.to_le_bytes());
            target = gate;
        }
        match self.result {
            None => jump(&mut code, target),
            Some(result) => {
                // sub rsp, 8; mov rax, target; call rax; add rsp, 8; mov rax, result; ret
                code.extend([0x48, 0x83, 0xec, 8, 0x48, 0xb8]);
                code.extend(target.to_le_bytes());
                code.extend([0xff, 0xd0, 0x48, 0x83, 0xc4, 8, 0x48, 0xb8]);
                code.extend(result.to_le_bytes());
                code.push(0xc3);
            }
        }
        code
    }
}
