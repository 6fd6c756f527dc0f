//! Functions that are all assembly: what a debugger wants to know of them, which the compiler does not tell it.

/// Begins such a function: a symbol by its path, since its own name carries the crate's hash, and call frame information. That ends
/// with `.cfi_endproc`.
macro_rules! begin {
    ($path:literal) => {
        concat!(
            ".cfi_sections .debug_frame\n.globl \"",
            $path,
            "\"\n.type \"",
            $path,
            "\", @function\n\"",
            $path,
            "\":\n.cfi_startproc"
        )
    };
}

/// Pushes a register whose value the caller wants back.
macro_rules! save {
    ($register:literal) => {
        concat!("push ", $register, "\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset ", $register, ", 0")
    };
}

/// Pops it.
macro_rules! restore {
    ($register:literal) => {
        concat!("pop ", $register, "\n.cfi_adjust_cfa_offset -8\n.cfi_restore ", $register)
    };
}

pub(crate) use {begin, restore, save};
