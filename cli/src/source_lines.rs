//! Adds file and line to the backtraces in the kernel's output.

use std::path::Path;

use addr2line::Loader;

/// Physical address the image is linked at.
const LINKED_AT: u64 = 0x20_0000;

/// Reads output as it comes, and knows what to add at the end of a line.
pub struct SourceLines {
    loader: Option<Loader>,
    line: Vec<u8>,
    /// How far the image was moved from where it was linked.
    moved: u64,
}

impl SourceLines {
    /// For the image whose debug information is in `debug`; without that, nothing is added.
    pub fn new(debug: &Path) -> Self {
        Self { loader: Loader::new(debug).ok(), line: Vec::new(), moved: 0 }
    }

    /// The same bytes, with ` at file:line` before the end of each line of a backtrace.
    pub fn add(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if byte == b'\r' || byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line).into_owned();
                self.line.clear();
                if let Some(address) = image_address(&line) {
                    self.moved = address.wrapping_sub(LINKED_AT);
                }
                if let Some(addition) = self.source_of(&line) {
                    out.extend(addition.as_bytes());
                }
            } else if self.line.len() < 1024 {
                self.line.push(byte);
            }
            out.push(byte);
        }
        out
    }

    fn source_of(&self, line: &str) -> Option<String> {
        let (number, address) = frame(line)?;
        // A return address points behind the call.
        let inside = address.wrapping_sub(u64::from(number != 0)).wrapping_sub(self.moved);
        let location = self.loader.as_ref()?.find_location(inside).ok()??;
        let file = location.file?;
        let file = file.strip_prefix(env!("CARGO_MANIFEST_DIR").strip_suffix("cli").unwrap_or("")).unwrap_or(file);
        // Code the compiler made up has no line.
        Some(location.line.map_or_else(|| format!("  in {file}"), |line| format!("  at {file}:{line}")))
    }
}

/// Number and address of a backtrace's line: `  #1 0xffff800000201234 name+0x10`.
fn frame(line: &str) -> Option<(u32, u64)> {
    let (number, rest) = line.trim_start().strip_prefix('#')?.split_once(" 0x")?;
    let address = rest.split(' ').next()?;
    Some((number.parse().ok()?, u64::from_str_radix(address, 16).ok()?))
}

/// The address in the kernel's own word on where it was loaded.
fn image_address(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("image at 0x")?;
    let digits = rest.split(|character: char| !character.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_recognised() {
        assert_eq!(frame("  #12 0xffff800000201234 kernel::f+0x10"), Some((12, 0xffff_8000_0020_1234)));
        assert_eq!(frame("no frame # 0x12"), None);
        assert_eq!(image_address("by PVH, image at 0x2000000, 254 MiB"), Some(0x200_0000));
    }

    #[test]
    fn other_output_passes_unchanged() {
        let mut lines = SourceLines::new(Path::new("/nonexistent"));
        let text = b"aero> threads\r\n#x 0x\r\n\x1b[A\xff";
        assert_eq!(lines.add(text), text);
    }
}
