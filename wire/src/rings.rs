//! Rings of bytes between a kernel and its host, in a region of the kernel's memory that the host
//! can read and write; both sides may poll (layout of the 3120A's loader, whose console this is).
//! Neither side trusts what the other wrote.
//!
//! A region consists of a header, channel descriptors and rings; a ring consists of a header and,
//! from [`ring::DATA`] on, its bytes. Words have 32 bits and are little-endian. Offsets are in
//! bytes; those of rings count from the region's start.

/// First word of a region, "PHIR".
pub const REGION_MAGIC: u32 = 0x5249_4850;
/// Version of the layout, the second word of a region.
pub const VERSION: u32 = 1;
/// Offsets in a region.
pub mod region {
    /// The region's size in bytes.
    pub const SIZE: u64 = 8;
    /// The number of channels.
    pub const CHANNELS: u64 = 12;
    /// The kernel's flags.
    pub const KERNEL_FLAGS: u64 = 24;
    /// The flag that is set while the kernel runs.
    pub const KERNEL_IS_UP: u32 = 1 << 0;
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
    /// The kind of a telemetry line ([`crate::telemetry`]); ours, as the next one.
    pub const KIND_TELEMETRY: u32 = 0x100;
    /// The kind of a debugger's line, with gdb's remote protocol.
    pub const KIND_DEBUGGER: u32 = 0x101;
    /// Offset of the ring to the kernel; the next word is the size of the ring's data in bytes.
    pub const TO_KERNEL: u64 = 8;
    /// Offset of the ring to the host, followed by its size likewise.
    pub const TO_HOST: u64 = 16;
    /// Not 0 while the host wants to be told of bytes to it; the kernel clears it when it tells the
    /// host. Ours, as the next one: a kernel or host that does not know it leaves it 0.
    pub const HOST_WAITS: u64 = 32;
    /// What the kernel does about bytes to it.
    pub const KERNEL_WAITS: u64 = 36;
    /// It wants to be interrupted.
    pub const INTERRUPTED: u32 = 1;
    /// It looks for them all the time; on a debugger's line, because the kernel is stopped.
    pub const LOOKING: u32 = 2;
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
