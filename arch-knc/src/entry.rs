//! The first instructions, at which the card's bootstrap enters the image: in 32-bit mode with
//! paging off, esi pointing to the parameters of the Linux boot protocol, and with descriptor
//! tables that differ from Linux's (MPSS: head_32.S; 3120A).

use arch_x64::boot::start;

use crate::board::Card;

arch_x64::long_mode_entry! {
    // The card has no I/O ports; the host sees POST codes once the registers are mapped.
    stage: [],
    entry: [".globl card_entry", "card_entry:", "cli", "cld", "xor edi, edi"],
    // All of these cards have the same CPU, so there is nothing to check.
    fit: [],
    start: start::<Card>,
    link_address: LINK_ADDRESS,
}

/// The image's address in the linker script.
const LINK_ADDRESS: usize = arch_x64::cpu::paging::PHYSICAL_OFFSET + 0x400_0000;
