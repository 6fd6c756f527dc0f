//! The programs packed into the kernel's image.

use crate::start::boot_information;

/// What can be started.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its name.
    pub name: &'static str,
    /// The ELF file.
    pub elf: &'static [u8],
    /// Its function names, in the format of [`crate::symbols`].
    pub symbols: &'static [u8],
}

/// The image's programs.
pub fn files() -> impl Iterator<Item = File> {
    Archive(boot_information().programs).files()
}

/// What `aero build --hrt` packs behind the image: u32 count; for each file three u32 lengths, of name, ELF file and
/// function names, and then these.
struct Archive(&'static [u8]);

impl Archive {
    /// Its files; ends early where it is damaged.
    fn files(self) -> impl Iterator<Item = File> {
        let mut rest = self.0;
        let count = take_word(&mut rest).unwrap_or(0);
        (0..count).map_while(move |_| {
            let lengths = [take_word(&mut rest)?, take_word(&mut rest)?, take_word(&mut rest)?];
            let [name, elf, symbols] = lengths.map(|length| length as usize);
            Some(File {
                name: core::str::from_utf8(take(&mut rest, name)?).ok()?,
                elf: take(&mut rest, elf)?,
                symbols: take(&mut rest, symbols)?,
            })
        })
    }
}

fn take(bytes: &mut &'static [u8], length: usize) -> Option<&'static [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_word(bytes: &mut &'static [u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?))
}
