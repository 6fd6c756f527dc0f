//! A card's console, and what its kernel's instructions are told apart by. The console is a ring for each direction in a region of the card's
//! memory that the host reads and writes, both sides polling (3120A, its loader's layout). Neither side believes what the other wrote.
//!
//! A region has a header, channel descriptors, and rings; a ring has a header and, from [`ring::DATA`] on, its bytes. Words are 32 bits,
//! little endian; offsets are in bytes, those of rings from the region's start.

/// First word of a region: "PHIR" as the loader's layout has it.
pub const REGION_MAGIC: u32 = 0x5249_4850;
/// The layout's version, the second word.
pub const VERSION: u32 = 1;
/// Cycles for which the kernel's spin loops wait with DELAY: a constant that makes these instructions unmistakable where another must stand for
/// them.
pub const SPIN_CYCLES: u32 = 32;
/// DELAY of EAX's cycles, which stands behind `mov eax, SPIN_CYCLES` (Xeon Phi ISA reference, DELAY).
pub const DELAY: [u8; 4] = [0xc5, 0xfa, 0xae, 0xf0];

/// Offsets in a region.
pub mod region {
    /// Its size.
    pub const SIZE: u64 = 8;
    /// Number of its channels.
    pub const CHANNELS: u64 = 12;
    /// Flags of the card.
    pub const CARD_FLAGS: u64 = 24;
    /// In these: set while the card's kernel runs.
    pub const CARD_IS_UP: u32 = 1 << 0;
    /// The first channel's descriptor, and bytes of each.
    pub const FIRST_CHANNEL: u64 = 64;
    /// See [`FIRST_CHANNEL`].
    pub const CHANNEL_SIZE: u64 = 64;
}

/// A channel's descriptor: the words' offsets in it.
pub mod channel {
    /// What it is for.
    pub const KIND: u64 = 0;
    /// A console.
    pub const KIND_CONSOLE: u32 = 1;
    /// Offset of the ring to the card, and behind it the bytes of its data.
    pub const TO_CARD: u64 = 8;
    /// The same of the ring to the host.
    pub const TO_HOST: u64 = 16;
}

/// Offsets in a ring. The indices count bytes and wrap at 2^32; the data's size is a power of two.
pub mod ring {
    /// Its first word.
    pub const MAGIC: u32 = u32::from_le_bytes(*b"RING");
    /// Bytes of its data.
    pub const SIZE: u64 = 4;
    /// The producer's index.
    pub const HEAD: u64 = 64;
    /// The consumer's index.
    pub const TAIL: u64 = 128;
    /// Its data.
    pub const DATA: u64 = 192;
}
