//! `peek` and `poke`: access to any address, with recovery from faults.

use alloc::format;

use kernel::arch::*;
use kernel::capability::WriteAnyMemory;

use super::{Command, CommandError, CommandResult, Context, Needs, parse_number};

/// Maximum number of bytes that `peek` shows.
const PEEK_LIMIT: u64 = 4096;
const BYTES_PER_LINE: usize = 16;

/// The right of the command `poke`.
// SAFETY: a person types the address and the value.
static WRITE: WriteAnyMemory = unsafe { WriteAnyMemory::claim() };

/// The commands of this module.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "peek",
        needs: Needs::Machine,
        arguments: "ADDRESS [BYTES]",
        about: "shows memory at a virtual address (16 bytes)",
        details: "1, 2, 4 or 8 aligned bytes are read in one access, as device registers need it.\n\
                  An address where nothing is mapped is an error.",
        words: &[],
        run: peek,
    },
    Command {
        name: "poke",
        needs: Needs::Machine,
        arguments: "ADDRESS VALUE [BYTES]",
        about: "writes 1, 2, 4 or 8 bytes (8), little endian, to a virtual address",
        details: "Anything writable can be written, also what the kernel needs: it may crash.\n\
                  An address where nothing is mapped, or that is not writable, is an error.",
        words: &[],
        run: poke,
    },
];

fn address_of(text: &str) -> Result<usize, CommandError> {
    parse_number(text, "the address").map(|address| address as usize)
}

fn peek(context: &mut Context<'_>) -> CommandResult {
    let (address, length) = match context.arguments {
        [address] => (address_of(address)?, BYTES_PER_LINE as u64),
        [address, length] => (address_of(address)?, parse_number(length, "how many bytes")?),
        _ => return Err(CommandError::usage("needs an address")),
    };
    if !(1..=PEEK_LIMIT).contains(&length) {
        return Err(CommandError::usage(format!("shows 1 to {PEEK_LIMIT} bytes, not {length}")));
    }
    let end = address
        .checked_add(length as usize)
        .ok_or_else(|| CommandError::usage("the range passes the end of the address space"))?;
    for line in (address..end).step_by(BYTES_PER_LINE) {
        let mut buffer = [0; BYTES_PER_LINE];
        let bytes = &mut buffer[..BYTES_PER_LINE.min(end - line)];
        AddressSpace::probe_read(line, bytes).map_err(CommandError::failed)?;
        write!(context.out, "{line:016x} ")?;
        for byte in bytes.iter() {
            write!(context.out, " {byte:02x}")?;
        }
        let text = bytes.iter().map(|&byte| if (b' '..=b'~').contains(&byte) { char::from(byte) } else { '.' });
        write!(context.out, "{:1$}  ", "", 3 * (BYTES_PER_LINE - bytes.len()))?;
        text.clone().try_for_each(|character| context.out.write_char(character))?;
        writeln!(context.out)?;
    }
    Ok(())
}

fn poke(context: &mut Context<'_>) -> CommandResult {
    let (address, value, width) = match context.arguments {
        [address, value] => (address, value, 8),
        [address, value, width] => (address, value, parse_number(width, "how many bytes")?),
        _ => return Err(CommandError::usage("needs an address and a value")),
    };
    let (address, value) = (address_of(address)?, parse_number(value, "the value")?);
    if ![1, 2, 4, 8].contains(&width) {
        return Err(CommandError::usage(format!("writes 1, 2, 4 or 8 bytes, not {width}")));
    }
    if width < 8 && value >> (8 * width) != 0 {
        return Err(CommandError::usage(format!("{value:#x} does not fit {width} bytes")));
    }
    WRITE.write(address, &value.to_le_bytes()[..width as usize]).map_err(CommandError::failed)
}
