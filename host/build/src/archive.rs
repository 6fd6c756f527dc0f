//! The archive from which Linux unpacks its initial file system.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const PROGRAM: u32 = 0o100_755;
const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;

/// A cpio archive in the format that Linux unpacks ("newc"; Linux,
/// Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a file of the host at an absolute path, as an executable.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn add_file(&mut self, at: &Path, file: &Path) -> Result<()> {
        let content = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        self.add(&at.display().to_string(), &content);
        Ok(())
    }

    /// Adds a file or a directory, with all that is in it, at an absolute path. A link is what it
    /// leads to; links in a directory stay such.
    ///
    /// # Errors
    /// Fails if something of it cannot be read.
    pub fn add_tree(&mut self, at: &Path, path: &Path) -> Result<()> {
        if !path.is_dir() {
            return self.add_file(at, path);
        }
        let context = || format!("{} cannot be read", path.display());
        for entry in fs::read_dir(path).with_context(context)? {
            let entry = entry.with_context(context)?;
            let (kind, inside, place) =
                (entry.file_type().with_context(context)?, entry.path(), at.join(entry.file_name()));
            if kind.is_symlink() {
                let target = fs::read_link(&inside).with_context(context)?;
                self.add_entry(&place.display().to_string(), LINK, target.as_os_str().as_encoded_bytes());
            } else if kind.is_dir() || kind.is_file() {
                self.add_tree(&place, &inside)?;
            }
        }
        Ok(())
    }

    /// Adds a file with the given content at an absolute path, as an executable.
    pub fn add(&mut self, at: &str, content: &[u8]) {
        self.add_entry(at, PROGRAM, content);
    }

    fn add_entry(&mut self, at: &str, mode: u32, content: &[u8]) {
        let name = at.trim_start_matches('/');
        for (end, _) in name.match_indices('/') {
            self.add_directory(&name[..end]);
        }
        self.entry(name, mode, content);
    }

    /// Adds a directory unless the archive already has it. Its parent must be in the archive.
    pub fn add_directory(&mut self, name: &str) {
        if self.directories.insert(name.to_string()) {
            self.entry(name, DIRECTORY, &[]);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let name_size = name.len() as u32 + 1;
        let size = u32::try_from(content.len()).expect("files are smaller than 4 GiB");
        // Magic, inode, mode, owner, group, links, time, size, four device numbers, name length,
        // checksum.
        let header = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        header.iter().for_each(|field| self.bytes.extend_from_slice(format!("{field:08x}").as_bytes()));
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Ends the archive and returns its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_archive_is_as_the_format_says() {
        let mut archive = Archive::default();
        archive.add("/a", b"hello");
        archive.add("/b/c/d", b"");
        archive.add("/b/e", b"");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000081ed"), "{text}");
        // The header has 110 bytes and the name two, padded to 112; the five content bytes are
        // padded to eight.
        assert_eq!(&bytes[110..120], b"a\0hello\0\0\0");
        assert_eq!(&text[120..126], "070701");
        assert!(bytes.len() % 4 == 0 && text.contains("TRAILER!!!"));
        // Each directory appears once, before its contents.
        let entries: Vec<&str> =
            text.split("070701").skip(1).map(|entry| entry[104..].split('\0').next().unwrap()).collect();
        assert_eq!(entries, ["a", "b", "b/c", "b/c/d", "b/e", "TRAILER!!!"]);
        assert!(text[120..].starts_with("07070100000002000041ed"), "{text}");
    }
}
