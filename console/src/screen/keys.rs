//! Keys of a PC keyboard, translated to the bytes that terminals send.

use kernel::command_line::Keyboard as Choice;
use pc_keyboard::layouts::{AnyLayout, De105Key, Us104Key};
use pc_keyboard::{DecodedKey, HandleControl, KeyCode, PS2Keyboard, ScancodeSet1};

use super::text::{SCROLL_BACK, SCROLL_FORWARD};

/// The meaning of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Bytes for the session.
    Bytes(&'static [u8]),
    /// One byte for the session.
    Byte(u8),
    /// A byte that scrolls the view of the screen.
    View(u8),
}

/// A keyboard decoder, from scan codes to the meanings of keys.
pub struct Keyboard(PS2Keyboard<AnyLayout, ScancodeSet1>);

impl Keyboard {
    /// Creates a decoder for a layout.
    pub fn new(layout: Choice) -> Self {
        let layout = match layout {
            Choice::Us => AnyLayout::Us104Key(Us104Key),
            Choice::German => AnyLayout::De105Key(De105Key),
        };
        Self(PS2Keyboard::new(ScancodeSet1::new(), layout, HandleControl::MapLettersToUnicode))
    }

    /// Processes a byte of a scan code. Returns the meaning of the key that the byte completes, if
    /// any.
    pub fn take(&mut self, code: u8) -> Option<Meaning> {
        let Ok(event) = self.0.add_byte(code) else {
            // Noise on the line: decoding starts over with the next byte.
            self.0.clear();
            return None;
        };
        let modifiers = self.0.get_modifiers();
        let (shift, control) = (modifiers.lshift || modifiers.rshift, modifiers.lctrl || modifiers.rctrl);
        match self.0.process_keyevent(event?)? {
            DecodedKey::Unicode('\n') => Some(Meaning::Byte(b'\r')),
            DecodedKey::Unicode('\u{8}') => Some(Meaning::Byte(0x7f)),
            DecodedKey::Unicode('\u{7f}') => Some(Meaning::Bytes(b"\x1b[3~")),
            // The shell's lines are ASCII, so other characters are dropped.
            DecodedKey::Unicode(character) => u8::try_from(character).ok().filter(u8::is_ascii).map(Meaning::Byte),
            DecodedKey::RawKey(key) => raw(key, shift, control),
        }
    }
}

fn raw(key: KeyCode, shift: bool, control: bool) -> Option<Meaning> {
    let bytes: &'static [u8] = match key {
        KeyCode::PageUp if shift => return Some(Meaning::View(SCROLL_BACK)),
        KeyCode::PageDown if shift => return Some(Meaning::View(SCROLL_FORWARD)),
        KeyCode::ArrowUp => b"\x1b[A",
        KeyCode::ArrowDown => b"\x1b[B",
        KeyCode::ArrowRight if control => b"\x1b[1;5C",
        KeyCode::ArrowLeft if control => b"\x1b[1;5D",
        KeyCode::ArrowRight => b"\x1b[C",
        KeyCode::ArrowLeft => b"\x1b[D",
        KeyCode::Home => b"\x1b[H",
        KeyCode::End => b"\x1b[F",
        KeyCode::Delete => b"\x1b[3~",
        _ => return None,
    };
    Some(Meaning::Bytes(bytes))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn typed(layout: Choice, codes: &[u8]) -> Vec<Meaning> {
        let mut keyboard = Keyboard::new(layout);
        codes.iter().filter_map(|&code| keyboard.take(code)).collect()
    }

    #[test]
    fn layouts_differ_and_modifiers_count() {
        // The key to the right of T, and with shift the key to the right of 0.
        let codes = [0x15, 0x95, 0x2a, 0x0c, 0x8c, 0xaa];
        assert_eq!(typed(Choice::Us, &codes), [Meaning::Byte(b'y'), Meaning::Byte(b'_')]);
        assert_eq!(typed(Choice::German, &codes), [Meaning::Byte(b'z'), Meaning::Byte(b'?')]);
        // Ctrl-C.
        assert_eq!(typed(Choice::Us, &[0x1d, 0x2e, 0xae, 0x9d]), [Meaning::Byte(3)]);
    }

    #[test]
    fn keys_without_a_character_are_sequences_or_move_the_view() {
        assert_eq!(typed(Choice::Us, &[0xe0, 0x48, 0xe0, 0xc8]), [Meaning::Bytes(b"\x1b[A")]);
        assert_eq!(typed(Choice::Us, &[0x1c, 0x0e]), [Meaning::Byte(b'\r'), Meaning::Byte(0x7f)]);
        assert_eq!(typed(Choice::Us, &[0x2a, 0xe0, 0x49, 0xe0, 0xc9, 0xaa]), [Meaning::View(SCROLL_BACK)]);
    }

    #[test]
    fn noise_is_followed_by_keys_again() {
        let mut keyboard = Keyboard::new(Choice::Us);
        for code in (0..=255).chain([0xaa, 0xb6, 0x9d, 0xb8]) {
            let _ = keyboard.take(code);
        }
        let meanings: Vec<Meaning> = [0x1e, 0x9e].into_iter().filter_map(|code| keyboard.take(code)).collect();
        assert_eq!(meanings.len(), 1);
    }
}
