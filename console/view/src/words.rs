//! The words of a command line. A word that begins with a quote, `'` or `"`, ends at the next such
//! quote, whatever lies between.

use alloc::vec::Vec;
use core::fmt;

/// Returns the characters with their positions, and whether each is quoted. The quotes themselves
/// count as quoted.
fn scan(line: &str) -> impl Iterator<Item = (usize, char, bool)> {
    let mut quote = None;
    let mut begins_word = true;
    line.char_indices().map(move |(at, character)| {
        let was_quoted = quote.is_some();
        match quote {
            Some(open) if open == character => quote = None,
            None if begins_word && matches!(character, '\'' | '"') => quote = Some(character),
            _ => {}
        }
        begins_word = character.is_whitespace() || character == ';';
        (at, character, was_quoted || quote.is_some())
    })
}

/// Returns the parts of a line between separators that are not quoted.
pub fn parts(line: &str, is_separator: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    let mut separators = scan(line).filter(move |&(_, character, quoted)| !quoted && is_separator(character));
    let mut rest = Some(0);
    core::iter::from_fn(move || {
        let begin = rest?;
        let next = separators.next();
        rest = next.map(|(at, character, _)| at + character.len_utf8());
        Some(&line[begin..next.map_or(line.len(), |(at, ..)| at)])
    })
}

/// Returns the text before and behind the last ` | ` that is not quoted.
pub fn last_filter(line: &str) -> Option<(&str, &str)> {
    let bars = scan(line).filter(|&(_, character, quoted)| character == '|' && !quoted).map(|(at, ..)| at);
    let is_between_spaces = |&at: &usize| line[..at].ends_with(' ') && line[at + 1..].starts_with(' ');
    let at = bars.filter(is_between_spaces).last()?;
    Some((&line[..at - 1], &line[at + 2..]))
}

/// The error of a word whose quote is not closed, or that continues behind its closing quote.
#[derive(Debug, PartialEq, Eq)]
pub struct BadQuote<'a>(&'a str);

impl fmt::Display for BadQuote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: a quote begins a word, and the next one ends it", self.0)
    }
}

/// Returns the words of a line without their quotes.
///
/// # Errors
/// [`BadQuote`].
pub fn words(line: &str) -> Result<Vec<&str>, BadQuote<'_>> {
    let unquoted = |word| match Some(word).filter(|word: &&str| word.starts_with(['\'', '"'])) {
        None => Ok(word),
        Some(quoted) => {
            let (quote, inside) = quoted.split_at(1);
            inside.strip_suffix(quote).filter(|inside| !inside.contains(quote)).ok_or(BadQuote(word))
        }
    };
    parts(line, char::is_whitespace).filter(|word| !word.is_empty()).map(unquoted).collect()
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words("run  a 'b c' \"d; 'e'\" '' don't"), Ok(vec!["run", "a", "b c", "d; 'e'", "", "don't"]));
        assert_eq!(words("run 'a b"), Err(BadQuote("'a b")));
        assert_eq!(words("run 'a'b"), Err(BadQuote("'a'b")));
        assert_eq!(words("run '"), Err(BadQuote("'")));
        assert_eq!(words("run 'a''b'"), Err(BadQuote("'a''b'")));
    }

    #[test]
    fn separators_in_quotes_are_none() {
        assert_eq!(parts("a; run 'b;c';d", |character| character == ';').collect::<Vec<_>>(), ["a", " run 'b;c'", "d"]);
        assert_eq!(parts("", |character| character == ';').collect::<Vec<_>>(), [""]);
        assert_eq!(last_filter("log 'a | b' | grep x | head 2"), Some(("log 'a | b' | grep x", "head 2")));
        assert_eq!(last_filter("log 'a | b'"), None);
        assert_eq!(last_filter("a|b | c"), Some(("a|b", "c")));
    }
}
