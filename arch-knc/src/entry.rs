//! The first instructions, where the card's bootstrap enters the image: 32-bit, paging off, esi the Linux boot protocol's parameters, and
//! descriptor tables that are not Linux's (MPSS: head_32.S; 3120A).

use crate::start::start;

arch_x64::long_mode_entry! {
    // There are no ports; the host sees POST codes once the registers are mapped.
    stage: [],
    entry: [".globl card_entry", "card_entry:", "cli", "cld", "xor edi, edi"],
    // All of these cards are alike.
    fit: [],
    start: start,
    link_address: LINK_ADDRESS,
}

/// Where the linker script puts the image.
const LINK_ADDRESS: usize = arch_x64::paging::PHYSICAL_OFFSET + 0x400_0000;
