//! Adds file and line to the backtraces in the kernel's output.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use addr2line::Loader;

use build::{Image, pack};

/// Physical address the image is linked at.
const LINKED_AT: u64 = 0x20_0000;

/// Reads output as it comes, and knows what to add at the end of a line.
pub struct SourceLines {
    loader: Option<Loader>,
    line: Vec<u8>,
    /// How far the image was moved from where it was linked.
    moved: u64,
    programs: BTreeMap<String, ProgramLines>,
}

/// What is known of a program: its frames name it, and the function, whose address in the file tells where it was loaded.
struct ProgramLines {
    loader: Loader,
    functions: BTreeMap<String, Vec<u64>>,
}

/// Behind a function that did not call the one before, but was interrupted: its address is exact.
const INTERRUPTED: &str = ", interrupted";

/// Images are loaded at multiples of this.
const PAGE: u64 = 4096;

impl ProgramLines {
    fn new(debug: &Path) -> Option<Self> {
        let bytes = fs::read(debug).ok()?;
        let mut functions: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (start, (_, name)) in pack::functions(&object::File::parse(&*bytes).ok()?, 0).ok()? {
            functions.entry(name).or_default().push(start.into());
        }
        Some(Self { loader: Loader::new(debug).ok()?, functions })
    }

    /// The address in the file of what was loaded at `address`, in the function called `name`.
    fn linked(&self, address: u64, name: &str, offset: u64) -> Option<u64> {
        let base = address.checked_sub(offset)?;
        let starts = self.functions.get(name)?;
        Some(starts.iter().find(|start| base.wrapping_sub(**start).is_multiple_of(PAGE))? + offset)
    }
}

impl SourceLines {
    /// For an image; where it has no debug information, nothing is added.
    pub fn new(image: &Image) -> Self {
        let programs = image.programs.iter();
        let programs = programs.filter_map(|(name, debug)| Some((name.clone(), ProgramLines::new(debug)?)));
        Self { loader: Loader::new(&image.debug).ok(), line: Vec::new(), moved: 0, programs: programs.collect() }
    }

    /// Tells where the image was loaded, instead of the kernel's own word on it.
    pub fn set_image_start(&mut self, start: u64) {
        self.moved = start.wrapping_sub(LINKED_AT);
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
        let interrupted = line.strip_suffix(INTERRUPTED);
        let line = interrupted.unwrap_or(line);
        let (number, address) = frame(line)?;
        let (loader, linked) = match program_frame(line) {
            Some((program, name, offset)) => {
                let program = self.programs.get(program)?;
                (&program.loader, program.linked(address, name, offset)?)
            }
            None => (self.loader.as_ref()?, address.wrapping_sub(self.moved)),
        };
        // A return address points behind the call.
        let back = u64::from(number != 0 && interrupted.is_none());
        let mut frames = loader.find_frames(linked.wrapping_sub(back)).ok()?;
        let mut places = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            places.extend(frame.location.and_then(|location| describe(&location)));
        }
        // Code that was inlined, and where it is in the function that is named.
        let inner = places.first()?;
        let outer = places.last().filter(|outer| *outer != inner);
        Some(outer.map_or_else(|| format!("  at {inner}"), |outer| format!("  at {inner}, inlined at {outer}")))
    }
}

fn describe(location: &addr2line::Location) -> Option<String> {
    let file = location.file?;
    let file = file.strip_prefix(env!("CARGO_MANIFEST_DIR").strip_suffix("host/machine").unwrap_or("")).unwrap_or(file);
    // Code the compiler made up has no line.
    Some(location.line.map_or_else(|| file.to_string(), |line| format!("{file}:{line}")))
}

/// Number and address of a backtrace's line: `  #1 0xffff800000201234 name+0x10`.
fn frame(line: &str) -> Option<(u32, u64)> {
    // The first line of a command's output has a control character in front.
    let line = line.trim_start_matches(|character: char| character.is_whitespace() || character.is_control());
    let (number, rest) = line.strip_prefix('#')?.split_once(" 0x")?;
    let address = rest.split(' ').next()?;
    Some((number.parse().ok()?, u64::from_str_radix(address, 16).ok()?))
}

/// Program, function and offset of a backtrace's line in a program: `  #1 0xffffb00000001234 program!function+0x10`.
fn program_frame(line: &str) -> Option<(&str, &str, u64)> {
    let (program, function) = line.split_once(" 0x")?.1.split_once(' ')?.1.split_once('!')?;
    let (name, offset) = function.rsplit_once("+0x")?;
    let is_name =
        |text: &str| text.chars().all(|character| character.is_ascii_alphanumeric() || "-_.".contains(character));
    is_name(program).then_some((program, name, u64::from_str_radix(offset, 16).ok()?))
}

/// The address in the kernel's own word on where it was loaded. Programs are further up.
fn image_address(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("image at 0x").filter(|(before, _)| !before.contains("in thread"))?;
    let digits = rest.split(|character: char| !character.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_recognised() {
        assert_eq!(frame("  #12 0xffff800000201234 kernel::f+0x10"), Some((12, 0xffff_8000_0020_1234)));
        assert_eq!(frame("\u{2}  #0 0x12 f+0x1"), Some((0, 0x12)));
        assert_eq!(frame("no frame # 0x12"), None);
        assert_eq!(image_address("by PVH, image at 0x2000000, 254 MiB"), Some(0x200_0000));
        assert_eq!(image_address("in thread 6 \"main\" on CPU 0, image at 0xffffb00000000000; backtrace:"), None);
        let line = "  #5 0xffffb000000024e0 hello-c!<f as g>::run::<fn() -> !>+0x1b0";
        assert_eq!(program_frame(line), Some(("hello-c", "<f as g>::run::<fn() -> !>", 0x1b0)));
        assert_eq!(program_frame("  #5 0xffff8000002024e0 run::<fn() -> !>+0x1b0"), None);
    }

    #[test]
    fn other_output_passes_unchanged() {
        let nothing = Path::new("/nonexistent").to_path_buf();
        let mut lines = SourceLines::new(&Image { boot: nothing.clone(), debug: nothing, programs: Vec::new() });
        let text = b"aero> threads\r\n#x 0x\r\n\x1b[A\xff";
        assert_eq!(lines.add(text), text);
    }
}
