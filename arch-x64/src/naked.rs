//! Code that is all assembly: what a debugger wants to know of it, which the compiler does not tell.

/// Begins a function: a symbol by its path, since its own name carries the crate's hash, and call frame information. That ends
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

/// Pushes a register whose value is wanted back, and tells unwinders.
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

/// Pushes what the calling convention preserves (System V ABI, 3.2.1), in the order that `context::Context` has it.
macro_rules! save_preserved {
    () => {
        concat!(
            $crate::naked::save!("rbp"),
            "\n",
            $crate::naked::save!("rbx"),
            "\n",
            $crate::naked::save!("r12"),
            "\n",
            $crate::naked::save!("r13"),
            "\n",
            $crate::naked::save!("r14"),
            "\n",
            $crate::naked::save!("r15")
        )
    };
}

pub(crate) use {begin, restore, save, save_preserved};
