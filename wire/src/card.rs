//! A card's console rings, and the instructions by which its kernel's spin loops are recognised.
//! The console is one ring per direction, in a region of the card's memory that the host can read
//! and write; both sides poll (layout of the 3120A's loader). Neither side trusts what the other
//! wrote.
//!
//! A region consists of a header, channel descriptors and rings; a ring consists of a header and,
//! from [`ring::DATA`] on, its bytes. Words have 32 bits and are little-endian. Offsets are in
//! bytes; those of rings count from the region's start.

/// First word of a region: "PHIR" in the loader's layout.
pub const REGION_MAGIC: u32 = 0x5249_4850;
/// Version of the layout, the second word of a region.
pub const VERSION: u32 = 1;
/// Number of cycles for which the kernel's spin loops wait with DELAY. The constant makes these
/// instructions unmistakable where another instruction has to replace them.
pub const SPIN_CYCLES: u32 = 32;
/// Encoding of DELAY for the cycles in EAX, which follows `mov eax, SPIN_CYCLES` (Xeon Phi ISA
/// reference, DELAY).
pub const DELAY: [u8; 4] = [0xc5, 0xfa, 0xae, 0xf0];

/// Offsets in a region.
pub mod region {
    /// The region's size in bytes.
    pub const SIZE: u64 = 8;
    /// The number of channels.
    pub const CHANNELS: u64 = 12;
    /// The card's flags.
    pub const CARD_FLAGS: u64 = 24;
    /// The flag that is set while the card's kernel runs.
    pub const CARD_IS_UP: u32 = 1 << 0;
    /// Offset of the first channel's descriptor.
    pub const FIRST_CHANNEL: u64 = 64;
    /// Size of a channel's descriptor in bytes.
    pub const CHANNEL_SIZE: u64 = 64;
}

/// Offsets of the words in a channel's descriptor.
pub mod channel {
    /// The channel's kind.
    pub const KIND: u64 = 0;
    /// The kind of a console.
    pub const KIND_CONSOLE: u32 = 1;
    /// Offset of the ring to the card; the next word is the size of the ring's data in bytes.
    pub const TO_CARD: u64 = 8;
    /// Offset of the ring to the host, followed by its size likewise.
    pub const TO_HOST: u64 = 16;
}

/// Offsets in a ring. The indices count bytes and wrap at 2^32; the size of the data is a power of
/// two.
pub mod ring {
    /// First word of a ring.
    pub const MAGIC: u32 = u32::from_le_bytes(*b"RING");
    /// The size of the data in bytes.
    pub const SIZE: u64 = 4;
    /// The producer's index.
    pub const HEAD: u64 = 64;
    /// The consumer's index.
    pub const TAIL: u64 = 128;
    /// The first byte of the data.
    pub const DATA: u64 = 192;
}
