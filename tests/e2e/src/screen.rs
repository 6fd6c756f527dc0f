//! A machine's screen and keyboard through QMP: screenshots, and keys that QEMU presses.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use serde_json::{Value, json};

use crate::LIMIT;

const HEIGHT: RasterHeight = RasterHeight::Size16;
const WEIGHT: FontWeight = FontWeight::Regular;
/// The time for which a key is held.
const KEY_TIME: Duration = Duration::from_millis(30);

/// Returns the arguments of `aero boot` for a machine with an undisplayed screen and a QMP socket.
pub fn options(protocol: &Path) -> [String; 5] {
    let socket = format!("unix:{},server=on,wait=off", protocol.display());
    ["--".into(), "-device".into(), "VGA".into(), "-qmp".into(), socket]
}

/// A machine's screen and keyboard.
pub struct Screen {
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    picture: PathBuf,
}

impl Screen {
    /// Connects to a machine's QMP socket.
    pub fn connect(protocol: &Path) -> Self {
        let stream = UnixStream::connect(protocol).expect("QEMU listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a time");
        let answers = BufReader::new(stream.try_clone().expect("a descriptor can be duplicated"));
        let mut screen = Self { stream, answers, picture: protocol.with_extension("ppm") };
        let mut greeting = String::new();
        screen.answers.read_line(&mut greeting).expect("QEMU greets");
        screen.execute("qmp_capabilities", &json!({}));
        screen
    }

    /// Executes a QMP command and returns its result.
    fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream, "{line}").expect("QEMU takes commands");
        loop {
            let mut answer = String::new();
            self.answers.read_line(&mut answer).expect("QEMU answers");
            let mut answer: Value = serde_json::from_str(&answer).expect("it speaks JSON");
            assert!(answer.get("error").is_none(), "{line}: {answer}");
            if let Some(result) = answer.get_mut("return") {
                return result.take();
            }
        }
    }

    /// Executes a command of QEMU's human monitor and returns its output.
    pub fn monitor(&mut self, command: &str) -> String {
        let said = self.execute("human-monitor-command", &json!({ "command-line": command }));
        said.as_str().unwrap_or_default().into()
    }

    /// Presses keys together, named as QEMU names them, and releases them. QEMU holds them for a
    /// while: the emulated keyboard drops keys that the kernel does not take in time.
    pub fn press(&mut self, keys: &[&str]) {
        let keys: Vec<Value> = keys.iter().map(|key| json!({ "type": "qcode", "data": key })).collect();
        self.execute("send-key", &json!({ "keys": keys, "hold-time": KEY_TIME.as_millis() as u64 }));
    }

    /// Presses keys one after the other.
    pub fn type_in(&mut self, keys: &[&str]) {
        keys.iter().for_each(|key| self.press(&[key]));
    }

    /// Returns a screenshot.
    fn picture(&mut self) -> Vec<u8> {
        let path = self.picture.to_string_lossy().into_owned();
        self.execute("screendump", &json!({ "filename": path }));
        fs::read(&self.picture).expect("QEMU writes a picture")
    }

    /// Returns the text on the screen, as recognised in a screenshot.
    pub fn text(&mut self) -> String {
        recognise(&self.picture())
    }

    /// Returns whether a pixel of this colour (red, green, blue) is on the screen.
    pub fn has_color(&mut self, color: [u8; 3]) -> bool {
        self.picture().rchunks_exact(3).any(|pixel| pixel == color)
    }

    /// Waits until a text is on the screen and returns all text on it.
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        let (mut last, mut shown) = (Vec::new(), String::new());
        loop {
            let picture = self.picture();
            if picture != last {
                shown = recognise(&picture);
                last = picture;
            }
            if shown.contains(text) {
                return shown;
            }
            assert!(Instant::now() < deadline, "{text:?} does not appear on the screen:\n{shown}");
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.picture);
    }
}

/// Returns the text in a screenshot (a binary PPM). Each cell is compared with the glyphs of the
/// font.
fn recognise(picture: &[u8]) -> String {
    let mut header = picture.splitn(4, |&byte| byte == b'\n');
    assert_eq!(header.next(), Some(&b"P6"[..]), "it is no PPM");
    let size = String::from_utf8_lossy(header.next().expect("a size")).into_owned();
    let mut size = size.split(' ').map(|number| number.parse::<usize>().expect("a number"));
    let (width, height) = (size.next().expect("a width"), size.next().expect("a height"));
    let pixels = header.nth(1).expect("pixels");
    let (cell_width, cell_height) = (get_raster_width(WEIGHT, HEIGHT), HEIGHT.val());
    let glyphs: Vec<(char, Vec<bool>)> = (' '..='~').map(|character| (character, glyph(character))).collect();
    let mut text = String::new();
    for row in 0..height / cell_height {
        let mut line = String::new();
        for column in 0..width / cell_width {
            let lit = |index: usize| {
                let (x, y) = (column * cell_width + index % cell_width, row * cell_height + index / cell_width);
                let pixel = &pixels[(y * width + x) * 3..][..3];
                // Text may be coloured, so one bright component makes a pixel part of a glyph.
                pixel.iter().any(|&part| part > 96)
            };
            let cell: Vec<bool> = (0..cell_width * cell_height).map(lit).collect();
            let differs = |glyph: &[bool]| glyph.iter().zip(&cell).filter(|(a, b)| a != b).count();
            let (character, wrong) = glyphs
                .iter()
                .map(|(character, glyph)| (*character, differs(glyph)))
                .min_by_key(|(_, wrong)| *wrong)
                .expect("there are characters");
            // The cursor fills its cell and so matches no glyph.
            line.push(if wrong <= 4 { character } else { '\u{2588}' });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn glyph(character: char) -> Vec<bool> {
    let raster = get_raster(character, WEIGHT, HEIGHT).expect("the font has it");
    let (width, height) = (raster.width(), raster.height());
    // Scaled to the brightness at which the kernel paints text.
    let lit = |index: usize| {
        raster.pixel(index % width, index / width).is_some_and(|drawn| u32::from(drawn) * 0xd0 / 0xff > 96)
    };
    (0..width * height).map(lit).collect()
}
