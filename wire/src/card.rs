//! The instructions by which the spin loops of a card's kernel are recognised.

/// Number of cycles for which the kernel's spin loops wait with DELAY. The constant makes these
/// instructions unmistakable where another instruction has to replace them.
pub const SPIN_CYCLES: u32 = 32;
/// Encoding of DELAY for the cycles in EAX, which follows `mov eax, SPIN_CYCLES` (Xeon Phi ISA
/// reference, DELAY).
pub const DELAY: [u8; 4] = [0xc5, 0xfa, 0xae, 0xf0];
