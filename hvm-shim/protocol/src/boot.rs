//! Boot: the tag in an image's Multiboot2 header with which it asks to be an HRT, and the tags in
//! the boot information that its CPUs find.
//!
//! All CPUs of an HRT enter its image at once, in 64-bit mode, with physical memory mapped at an
//! offset that the image chooses, [`MAGIC`] in RAX and the physical address of the Multiboot2 boot
//! information in RBX. There are no firmware, no ACPI tables and no legacy devices.

use core::fmt;

use crate::bytes::{u16_at, u32_at, u64_at};

/// RAX when an HRT's CPU enters the image.
pub const MAGIC: u32 = 0x36d7_6289;
/// RAX when a CPU enters the image again after a triple fault, if the kernel has asked for that
/// ([`crate::call::extension::TAKES_CPUS_AGAIN`]); our extension.
pub const MAGIC_AGAIN: u32 = 0x36d7_628a;
/// First word of a Multiboot2 header (Multiboot2 Specification 2.0, 3.1.1).
pub const HEADER_MAGIC: u32 = 0xe852_50d6;
/// A Multiboot2 header lies in the first 32 KiB of an image, aligned to 8 bytes (3.1).
pub const HEADER_LIMIT: usize = 32 << 10;
/// Type of the tag with which an image asks to be an HRT.
pub const HEADER_TAG: u16 = 0xf00d;
/// Size of that tag, in bytes.
pub const HEADER_TAG_SIZE: u32 = 56;
/// The offset at which an HRT's kernel has physical memory mapped, if it is not 0.
pub const UPPER_HALF: u64 = 0xffff_8000_0000_0000;

/// Flags of an HRT.
pub mod flags {
    /// The image may be loaded anywhere.
    pub const RELOCATABLE: u64 = 1 << 0;
    /// The start-up page tables map pages of 4 KiB.
    pub const MAP_4_KIB: u64 = 1 << 8;
    /// The start-up page tables map pages of 2 MiB.
    pub const MAP_2_MIB: u64 = 1 << 9;
    /// The start-up page tables map pages of 1 GiB.
    pub const MAP_1_GIB: u64 = 1 << 10;
    /// The start-up page tables map pages of 512 GiB.
    pub const MAP_512_GIB: u64 = 1 << 11;
}

/// What an HRT image asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// See [`flags`].
    pub flags: u64,
    /// How much physical memory is to be mapped, in bytes.
    pub map_limit: u64,
    /// Where physical address 0 is to be mapped: 0 or [`UPPER_HALF`].
    pub offset: u64,
    /// The virtual address of the entry.
    pub entry: u64,
    /// The physical address of the page for requests to the HRT; the monitor may choose another.
    pub communication_page: u64,
    /// The vector that interrupts an HRT's CPU for a request.
    pub vector: u8,
}

/// Why an image is no HRT image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRequest {
    /// It has no Multiboot2 header where one must be.
    NoHeader,
    /// The header's words do not add up to 0.
    BadHeader,
    /// A tag's size is impossible; its offset in the header.
    BadTag(usize),
    /// No tag asks for an HRT.
    NoTag,
    /// The tag asks for physical memory to be mapped at an address that is neither 0 nor
    /// [`UPPER_HALF`].
    BadOffset(u64),
}

impl fmt::Display for NoRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str("it has no Multiboot2 header in its first 32 KiB"),
            Self::BadHeader => f.write_str("its Multiboot2 header is damaged: the checksum is wrong"),
            Self::BadTag(offset) => write!(f, "its Multiboot2 header has a tag of an impossible size at {offset}"),
            Self::NoTag => {
                f.write_str("its Multiboot2 header has no HRT tag (0xf00d): it is a kernel for a whole machine")
            }
            Self::BadOffset(offset) => {
                write!(f, "its HRT tag wants memory at {offset:#x}; only 0 and {UPPER_HALF:#x} are possible")
            }
        }
    }
}

impl core::error::Error for NoRequest {}

/// Finds what an image asks for in its first bytes.
///
/// # Errors
/// See [`NoRequest`].
pub fn request(image: &[u8]) -> Result<Request, NoRequest> {
    let beginning = &image[..image.len().min(HEADER_LIMIT)];
    let at = (0..beginning.len()).step_by(8).find(|&at| u32_at(beginning, at) == Some(HEADER_MAGIC));
    let header = &image[at.ok_or(NoRequest::NoHeader)?..];
    let words: [u32; 4] = core::array::from_fn(|index| u32_at(header, 4 * index).unwrap_or(1));
    if words.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word)) != 0 {
        return Err(NoRequest::BadHeader);
    }
    let tags = header.get(..words[2] as usize).ok_or(NoRequest::BadTag(0))?;
    let mut at = 16;
    while let (Some(kind), Some(size)) = (u16_at(tags, at), u32_at(tags, at + 4)) {
        let tag = tags.get(at..at.saturating_add(size as usize)).filter(|tag| tag.len() >= 8);
        let tag = tag.ok_or(NoRequest::BadTag(at))?;
        match kind {
            0 => break,
            HEADER_TAG => return request_of(tag).ok_or(NoRequest::BadTag(at)).and_then(checked),
            _ => at += tag.len().next_multiple_of(8),
        }
    }
    Err(NoRequest::NoTag)
}

fn request_of(tag: &[u8]) -> Option<Request> {
    Some(Request {
        flags: u64_at(tag, 8)?,
        map_limit: u64_at(tag, 16)?,
        offset: u64_at(tag, 24)?,
        entry: u64_at(tag, 32)?,
        communication_page: u64_at(tag, 40)?,
        vector: *tag.get(48)?,
    })
}

fn checked(request: Request) -> Result<Request, NoRequest> {
    match request.offset {
        0 | UPPER_HALF => Ok(request),
        other => Err(NoRequest::BadOffset(other)),
    }
}

/// Type of the tag in the boot information that describes the HRT's machine.
pub const INFORMATION_TAG: u32 = 0xf00d_f00d;
/// Type of the tag with our extensions.
pub const EXTENSION_TAG: u32 = 0xf00d_f00e;
/// Version of our extensions.
pub const EXTENSION_VERSION: u32 = 7;

/// The machine of an HRT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Information {
    /// One past the last APIC id; the HRT's CPUs have those from [`Self::first_apic_id`] on.
    pub apic_count: u32,
    /// The APIC id of the HRT's first CPU.
    pub first_apic_id: u32,
    /// Rate of the time counter, in kHz.
    pub cycle_khz: u64,
    /// What the image asked for, and what it got; see [`flags`].
    pub flags: u64,
    /// How much physical memory is mapped, in bytes.
    pub mapped: u64,
    /// The first byte of physical memory that is the HRT's alone.
    pub first_own: u64,
    /// Physical address of the start-up page tables and descriptor tables.
    pub boot_state: u64,
    /// Where physical address 0 is mapped.
    pub offset: u64,
    /// Physical address of the page for requests to the HRT.
    pub communication_page: u64,
    /// The vector that interrupts a CPU for a request.
    pub vector: u8,
}

/// Size of the tag of an [`Information`], in bytes.
pub const INFORMATION_SIZE: usize = 88;
/// Offset of [`Information::first_apic_id`] in the tag.
pub const FIRST_APIC_ID: usize = 12;

impl Information {
    /// Writes the tag. There is no I/O APIC.
    pub fn to_tag(&self) -> [u8; INFORMATION_SIZE] {
        let mut tag = [0; INFORMATION_SIZE];
        let words = [INFORMATION_TAG, INFORMATION_SIZE as u32, self.apic_count, self.first_apic_id, 0, 0];
        for (word, place) in words.iter().zip(tag.chunks_exact_mut(4)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let Self { cycle_khz, flags, mapped, first_own, boot_state, offset, communication_page, .. } = *self;
        let words = [cycle_khz, flags, mapped, first_own, boot_state, offset, communication_page];
        for (word, place) in words.iter().zip(tag[24..].chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        tag[80] = self.vector;
        tag
    }

    /// Reads the tag; `None` if it is too short.
    pub fn from_tag(tag: &[u8]) -> Option<Self> {
        Some(Self {
            apic_count: u32_at(tag, 8)?,
            first_apic_id: u32_at(tag, FIRST_APIC_ID)?,
            cycle_khz: u64_at(tag, 24)?,
            flags: u64_at(tag, 32)?,
            mapped: u64_at(tag, 40)?,
            first_own: u64_at(tag, 48)?,
            boot_state: u64_at(tag, 56)?,
            offset: u64_at(tag, 64)?,
            communication_page: u64_at(tag, 72)?,
            vector: *tag.get(80)?,
        })
    }
}

/// Our extensions: what an HRT has that the protocol does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extension {
    /// Physical address of the region of rings of bytes to the ROS; 0 if there is none.
    pub rings: u64,
    /// Size of that region, in bytes.
    pub rings_size: u64,
    /// Physical address of the pages of execution groups ([`crate::group::Group`]); 0 if there are
    /// none.
    pub groups: u64,
    /// Number of these pages: one for each group that there can be, and the last one for
    /// synchronous mode.
    pub pages: u64,
}

/// Size of the tag of an [`Extension`], in bytes.
pub const EXTENSION_SIZE: usize = 48;

impl Extension {
    /// Writes the tag.
    pub fn to_tag(&self) -> [u8; EXTENSION_SIZE] {
        let mut tag = [0; EXTENSION_SIZE];
        let words = [EXTENSION_TAG, EXTENSION_SIZE as u32, EXTENSION_VERSION, 0];
        for (word, place) in words.iter().zip(tag.chunks_exact_mut(4)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let words = [self.rings, self.rings_size, self.groups, self.pages];
        for (word, place) in words.iter().zip(tag[16..].chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        tag
    }

    /// Reads the tag; `None` if it is too short or of another version.
    pub fn from_tag(tag: &[u8]) -> Option<Self> {
        (u32_at(tag, 8)? == EXTENSION_VERSION).then_some(())?;
        Some(Self {
            rings: u64_at(tag, 16)?,
            rings_size: u64_at(tag, 24)?,
            groups: u64_at(tag, 32)?,
            pages: u64_at(tag, 40)?,
        })
    }
}

/// Returns the tag of a type in a Multiboot2 boot information; `None` if there is none, or if a
/// tag before it makes no sense.
pub fn tag(information: &[u8], wanted: u32) -> Option<&[u8]> {
    let mut at = 8;
    loop {
        let (kind, size) = (u32_at(information, at)?, u32_at(information, at + 4)? as usize);
        let tag = information.get(at..at.checked_add(size)?).filter(|tag| tag.len() >= 8)?;
        match kind {
            0 => return None,
            _ if kind == wanted => return Some(tag),
            _ => at += tag.len().next_multiple_of(8),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    /// Returns an image with a Multiboot2 header at 64 with the given tags.
    fn image(tags: &[u8]) -> Vec<u8> {
        let length = 16 + tags.len() as u32 + 8;
        let mut image = [0xcc; 64].to_vec();
        let words = [HEADER_MAGIC, 0, length, 0u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(length)];
        words.iter().for_each(|word| image.extend(word.to_le_bytes()));
        image.extend(tags);
        image.extend([0, 0, 0, 0, 8, 0, 0, 0]);
        image
    }

    fn hrt_tag(offset: u64) -> Vec<u8> {
        let mut tag = Vec::new();
        tag.extend(HEADER_TAG.to_le_bytes());
        tag.extend([0, 0]);
        tag.extend(HEADER_TAG_SIZE.to_le_bytes());
        for word in [flags::MAP_1_GIB, 1 << 30, offset, offset + 0x20_0000, 0x1000] {
            tag.extend(word.to_le_bytes());
        }
        tag.extend([0xf1, 0, 0, 0, 0, 0, 0, 0]);
        tag
    }

    #[test]
    fn what_an_image_asks_for_is_found() {
        let request = request(&image(&hrt_tag(UPPER_HALF))).unwrap();
        assert_eq!((request.entry, request.vector), (UPPER_HALF + 0x20_0000, 0xf1));
        assert_eq!((request.flags, request.map_limit, request.communication_page), (flags::MAP_1_GIB, 1 << 30, 0x1000));
    }

    #[test]
    fn an_image_that_is_none_is_refused_by_what_is_wrong() {
        assert_eq!(request(&[0; 100]), Err(NoRequest::NoHeader));
        assert_eq!(request(&image(&[])), Err(NoRequest::NoTag));
        assert_eq!(request(&image(&hrt_tag(5))), Err(NoRequest::BadOffset(5)));
        let mut damaged = image(&hrt_tag(0));
        damaged[72] ^= 1;
        assert_eq!(request(&damaged), Err(NoRequest::BadHeader));
        let mut short = hrt_tag(0);
        short[4] = 3;
        assert_eq!(request(&image(&short)), Err(NoRequest::BadTag(16)));
        let whole = image(&hrt_tag(0));
        for end in 0..whole.len() {
            let _ = request(&whole[..end]);
        }
    }

    #[test]
    fn tags_come_out_as_they_went_in() {
        let information = Information {
            apic_count: 4,
            first_apic_id: 1,
            cycle_khz: 2_000_000,
            flags: flags::MAP_2_MIB,
            mapped: 1 << 32,
            first_own: 1 << 28,
            boot_state: 3 << 20,
            offset: UPPER_HALF,
            communication_page: 0x1000,
            vector: 0xf1,
        };
        let extension = Extension { rings: 1 << 31, rings_size: 1 << 20, groups: 1 << 30, pages: 3 };
        let mut bytes = [0; 8].to_vec();
        bytes.extend(extension.to_tag());
        bytes.extend(information.to_tag());
        bytes.extend([0, 0, 0, 0, 8, 0, 0, 0]);
        let found = tag(&bytes, INFORMATION_TAG).unwrap();
        assert_eq!(Information::from_tag(found), Some(information));
        assert_eq!(u32_at(found, FIRST_APIC_ID), Some(1));
        assert_eq!(tag(&bytes, EXTENSION_TAG).and_then(Extension::from_tag), Some(extension));
        assert_eq!(tag(&bytes, 7), None);
        assert_eq!(tag(&bytes[..100], INFORMATION_TAG), None);
        assert_eq!(Information::from_tag(&found[..80]), None);
    }
}
