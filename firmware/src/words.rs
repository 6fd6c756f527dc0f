//! The kernel command line: words separated by white space, each `key` or `key=value`. A value in
//! double quotes may contain spaces.

/// A word of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// The part before the first `=`, or the whole word.
    pub key: &'a str,
    /// The part after the first `=`, without quotes; empty if there is none.
    pub value: &'a str,
}

/// Returns the words of `line`, in order.
pub fn words(line: &str) -> impl Iterator<Item = Word<'_>> {
    let mut rest = line;
    core::iter::from_fn(move || {
        rest = rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        let mut quoted = false;
        let end = rest
            .find(|character: char| {
                quoted ^= character == '"';
                character.is_whitespace() && !quoted
            })
            .unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        rest = tail;
        // GRUB puts the quotes around the whole word.
        let (key, value) = unquoted(word).split_once('=').unwrap_or((unquoted(word), ""));
        Some(Word { key, value: unquoted(value) })
    })
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').map_or(text, |inner| inner.strip_suffix('"').unwrap_or(inner))
}

/// Returns the value of the last word with this key.
pub fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    words(line).filter(|word| word.key == key).last().map(|word| word.value)
}

/// Parses a number as a user writes it: decimal, or hexadecimal with `0x`. Any `_` among the digits
/// is ignored.
pub fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.is_empty() {
        return None;
    }
    let mut result = 0u64;
    for character in digits.chars().filter(|&character| character != '_') {
        result = result.checked_mul(radix)?.checked_add(u64::from(character.to_digit(radix as u32)?))?;
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_split_on_spaces_outside_quotes() {
        let all: Vec<_> = words("  log=debug run=\"cpus; mem\"  solo ").map(|word| (word.key, word.value)).collect();
        assert_eq!(all, [("log", "debug"), ("run", "cpus; mem"), ("solo", "")]);
        assert_eq!(value("a=1 a=2", "a"), Some("2"));
        assert_eq!(value("a=1", "b"), None);
        assert_eq!(words("run=\"never closed").next().unwrap().value, "never closed");
        let whole = words("\"run=cpus; mem\"").next().unwrap();
        assert_eq!((whole.key, whole.value), ("run", "cpus; mem"));
    }

    #[test]
    fn numbers_are_checked() {
        assert_eq!(number("0x1F_00"), Some(0x1f00));
        assert_eq!(number("12"), Some(12));
        for wrong in ["", "0x", "12k", "-1", "99999999999999999999"] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }
}
