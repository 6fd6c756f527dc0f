//! Debug information for functions that are all assembly, for which the compiler emits none.

/// Begins a function: a symbol by its path, since its own name carries the crate's hash; call frame
/// information; and a compilation unit of its own (DWARF 4, sections 3.1, 3.3 and 6.2) with the
/// function's name and first line. [`end`] ends it.
#[macro_export]
macro_rules! naked_begin {
    ($path:literal) => {
        concat!(
            ".cfi_sections .debug_frame\n.globl \"",
            $path,
            "\"\n.type \"",
            $path,
            "\", @function\n\"",
            $path,
            "\":\n.cfi_startproc\n",
            // Abbreviations: a unit (name, low_pc, high_pc, stmt_list, language), and a subprogram
            // (name, low_pc, high_pc, decl_file, decl_line, external).
            ".pushsection .debug_abbrev.naked, \"\", @progbits\n",
            "77: .byte 1, 0x11, 1, 0x03, 0x08, 0x11, 0x01, 0x12, 0x07, 0x10, 0x17, 0x13, 0x05, 0, 0\n",
            ".byte 2, 0x2e, 0, 0x03, 0x08, 0x11, 0x01, 0x12, 0x07, 0x3a, 0x0b, 0x3b, 0x05, 0x3f, 0x19, 0, 0, 0\n",
            ".popsection\n",
            // Line table: a header with one file, and one row for the whole function.
            ".pushsection .debug_line.naked, \"\", @progbits\n",
            "76: .long 73f - 75f\n75: .short 4\n.long 72f - 74f\n",
            "74: .byte 1, 1, 1, 251, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0\n.asciz \"",
            file!(),
            "\"\n.byte 0, 0, 0, 0\n72: .byte 0, 9, 2\n.quad \"",
            $path,
            "\"\n.byte 3\n.sleb128 ",
            line!(),
            " - 1\n.byte 1, 9\n.short 78f - \"",
            $path,
            "\"\n.byte 0, 1, 1\n73:\n.popsection\n",
            // The compilation unit; its language is Rust (0x1c).
            ".pushsection .debug_info.naked, \"\", @progbits\n.long 79f - 71f\n71: .short 4\n.long 77b\n.byte 8, 1\n.asciz \"",
            file!(),
            "\"\n.quad \"",
            $path,
            "\"\n.quad 78f - \"",
            $path,
            "\"\n.long 76b\n.short 0x1c\n.byte 2\n.asciz \"",
            $path,
            "\"\n.quad \"",
            $path,
            "\"\n.quad 78f - \"",
            $path,
            "\"\n.byte 1\n.short ",
            line!(),
            "\n.byte 0\n79:\n.popsection"
        )
    };
}

/// Ends a function begun with [`begin`].
#[macro_export]
macro_rules! naked_end {
    () => {
        "78: .cfi_endproc"
    };
}

/// Pushes a register that is restored later, with call frame information.
#[macro_export]
macro_rules! naked_save {
    ($register:literal) => {
        concat!("push ", $register, "\n.cfi_adjust_cfa_offset 8\n.cfi_rel_offset ", $register, ", 0")
    };
}

/// Pops a register pushed with [`save`], with call frame information.
#[macro_export]
macro_rules! naked_restore {
    ($register:literal) => {
        concat!("pop ", $register, "\n.cfi_adjust_cfa_offset -8\n.cfi_restore ", $register)
    };
}

/// Pushes the registers that the calling convention preserves (System V ABI, 3.2.1), in the order
/// of `context::Context`.
#[macro_export]
macro_rules! naked_save_preserved {
    () => {
        concat!(
            $crate::cpu::naked::save!("rbp"),
            "\n",
            $crate::cpu::naked::save!("rbx"),
            "\n",
            $crate::cpu::naked::save!("r12"),
            "\n",
            $crate::cpu::naked::save!("r13"),
            "\n",
            $crate::cpu::naked::save!("r14"),
            "\n",
            $crate::cpu::naked::save!("r15")
        )
    };
}

pub use {
    naked_begin as begin, naked_end as end, naked_restore as restore, naked_save as save,
    naked_save_preserved as save_preserved,
};
