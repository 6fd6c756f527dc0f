//! Overrides: functions of a program whose calls go to functions in the HRT instead. A file lists
//! them, a line for each:
//!
//! ```text
//! pthread                                        # what the runtime has for these functions
//! sched_yield  aero_thread_yield() = 0           # a function of the kernel's interface
//! dot_product  hrt_dot($1, $2, 256) from dot.so  # a function of one's own
//! ```

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Functions of the C library that the runtime has in versions of its own. Those of a family share
/// data, and are overridden together.
pub const SHIPPED: &[(&str, &[&str])] = &[
    (
        "pthread",
        &[
            "pthread_mutex_lock",
            "pthread_mutex_trylock",
            "pthread_mutex_timedlock",
            "pthread_mutex_clocklock",
            "pthread_mutex_unlock",
            "pthread_cond_wait",
            "pthread_cond_timedwait",
            "pthread_cond_clockwait",
            "pthread_cond_signal",
            "pthread_cond_broadcast",
            "pthread_barrier_wait",
            "pthread_barrier_destroy",
            "pthread_spin_lock",
            "pthread_spin_trylock",
            "pthread_cancel",
        ],
    ),
    ("sched_yield", &["sched_yield"]),
    ("nanosleep", &["nanosleep", "clock_nanosleep"]),
];

/// How many arguments a function may take: those that are passed in registers (System V ABI AMD64,
/// 3.2.3).
pub const MOST_ARGUMENTS: usize = 6;

/// An override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The program's function, or the name of a family of [`SHIPPED`] functions.
    pub symbol: String,
    /// What is called instead; `None` for the runtime's own version.
    pub target: Option<Target>,
}

/// A function that is called instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub function: String,
    /// Its arguments; `None` for those of the call.
    pub arguments: Option<Vec<Argument>>,
    /// What the caller gets instead of its result.
    pub result: Option<i64>,
    /// The library that has it; `None` for a function of the kernel.
    pub library: Option<PathBuf>,
}

/// An argument of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// One of the call's, by its place from 0 on.
    Given(usize),
    /// A number.
    Number(i64),
}

/// Reads a file of overrides. Libraries are looked for beside it.
///
/// # Errors
/// Fails with the line that is wrong.
pub fn read(file: &Path) -> Result<Vec<Override>> {
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let mut overrides: Vec<Override> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let said = || format!("{}, line {}", file.display(), number + 1);
        let Some(mut one) = Override::parse(line).with_context(said)? else { continue };
        if overrides.iter().any(|known| known.symbol == one.symbol) {
            bail!("{}: {} is overridden twice", said(), one.symbol);
        }
        if let Some(library) = one.target.as_mut().and_then(|target| target.library.as_mut()) {
            let beside = file.parent().unwrap_or(Path::new("")).join(&*library);
            *library = beside.canonicalize().with_context(|| format!("{}: {}", said(), beside.display()))?;
        }
        overrides.push(one);
    }
    Ok(overrides)
}

impl Override {
    /// Reads a line; `None` if it says nothing.
    ///
    /// # Errors
    /// Fails with what is wrong.
    pub fn parse(line: &str) -> Result<Option<Self>> {
        let comment = line
            .match_indices('#')
            .find(|(at, _)| line[..*at].chars().all(char::is_whitespace) || line[..*at].ends_with(char::is_whitespace));
        let line = line[..comment.map_or(line.len(), |(at, _)| at)].trim();
        if line.is_empty() {
            return Ok(None);
        }
        let (symbol, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        ensure!(is_name(symbol), "`{symbol}` is no function's name");
        let target = if rest.trim().is_empty() { None } else { Some(Target::parse(rest.trim())?) };
        if target.is_none() && !SHIPPED.iter().any(|(family, _)| *family == symbol) {
            let known: Vec<&str> = SHIPPED.iter().map(|(family, _)| *family).collect();
            bail!(
                "there is no version of `{symbol}` here, only of {}: say which function is called instead",
                known.join(", ")
            );
        }
        Ok(Some(Self { symbol: symbol.into(), target }))
    }
}

impl Target {
    /// Reads `FUNCTION[(ARGUMENTS)] [= RESULT] [from LIBRARY]`.
    fn parse(text: &str) -> Result<Self> {
        let (text, library) = match text.split_once(" from ") {
            Some((text, library)) => (text.trim(), Some(PathBuf::from(library.trim()))),
            None => (text, None),
        };
        let (call, result) = match text.split_once('=') {
            Some((call, result)) => (call.trim(), Some(number(result.trim())?)),
            None => (text, None),
        };
        let (function, arguments) = match call.split_once('(') {
            Some((function, list)) => {
                let list = list.strip_suffix(')').with_context(|| format!("`{call}` has no `)` at its end"))?;
                (function.trim(), Some(arguments(list)?))
            }
            None => (call, None),
        };
        ensure!(is_name(function), "`{function}` is no function's name");
        if library.is_none() {
            let wanted = parameters(function)
                .with_context(|| format!("the kernel has no function `{function}`; `from LIBRARY` names one's own"))?;
            let given = arguments.as_ref().map_or(wanted, Vec::len);
            ensure!(given == wanted, "`{function}` takes {wanted} arguments, not {given}");
        }
        Ok(Self { function: function.into(), arguments, result, library })
    }
}

fn arguments(list: &str) -> Result<Vec<Argument>> {
    let words = list.split(',').map(str::trim).filter(|_| !list.trim().is_empty());
    let arguments = words.map(|word| match word.strip_prefix('$') {
        Some(place) => match place.parse::<usize>() {
            Ok(place @ 1..=MOST_ARGUMENTS) => Ok(Argument::Given(place - 1)),
            _ => bail!("`{word}` is no argument of the call: they are $1 to ${MOST_ARGUMENTS}"),
        },
        None => number(word).map(Argument::Number),
    });
    let arguments = arguments.collect::<Result<Vec<_>>>()?;
    ensure!(arguments.len() <= MOST_ARGUMENTS, "a function takes at most {MOST_ARGUMENTS} arguments here");
    Ok(arguments)
}

fn number(word: &str) -> Result<i64> {
    let value = match word.strip_prefix("0x") {
        Some(digits) if !digits.starts_with(['+', '-']) => i64::from_str_radix(digits, 16),
        _ => word.parse(),
    };
    value.with_context(|| format!("`{word}` is no number"))
}

fn is_name(word: &str) -> bool {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    !word.is_empty() && word.chars().all(is_part) && !word.starts_with(|letter: char| letter.is_ascii_digit())
}

macro_rules! parameters {
    ($($(#[doc = $doc:literal])* fn $name:ident($($parameter:ident: $kind:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        /// How many parameters a function of the kernel's interface has.
        fn parameters(name: &str) -> Option<usize> {
            match name {
                $(stringify!($name) => Some(<[&str]>::len(&[$(stringify!($parameter)),*])),)*
                _ => None,
            }
        }
    };
}
abi::functions!(parameters);

/// The line that says the same.
impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.symbol)?;
        let Some(target) = &self.target else { return Ok(()) };
        write!(f, " {}", target.function)?;
        if let Some(arguments) = &target.arguments {
            let word = |argument: &Argument| match argument {
                Argument::Given(place) => format!("${}", place + 1),
                Argument::Number(number) => number.to_string(),
            };
            write!(f, "({})", arguments.iter().map(word).collect::<Vec<_>>().join(", "))?;
        }
        target.result.map_or(Ok(()), |result| write!(f, " = {result}"))?;
        target.library.as_ref().map_or(Ok(()), |library| write!(f, " from {}", library.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_they_are_read_from() {
        for line in [
            "pthread",
            "sched_yield aero_thread_yield() = 0",
            "lock aero_mutex_lock($1, -1)",
            "dot hrt_dot($2, $1, 256) = 7 from /a place/dot.so",
            "dot hrt_dot from d#t.so",
            "dot hrt_dot(-9223372036854775808) from dot.so",
        ] {
            assert_eq!(Override::parse(line).unwrap().unwrap().to_string(), line);
        }
        assert!(Override::parse("  # nothing").unwrap().is_none());
        let hexadecimal = Override::parse("f g(0x10) from l.so # why").unwrap().unwrap().target.unwrap();
        assert_eq!(hexadecimal.arguments, Some(vec![Argument::Number(16)]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, wrong) in [
            ("malloc", "no version of `malloc` here"),
            ("f aero_mutex_lock($1)", "takes 2 arguments, not 1"),
            ("f aero_mutex_lok($1)", "no function `aero_mutex_lok`"),
            ("f g($7) from l.so", "`$7` is no argument"),
            ("f g($1 from l.so", "no `)`"),
            ("f g() = x from l.so", "`x` is no number"),
            ("f g(--5) from l.so", "`--5` is no number"),
            ("f g(0x-5) from l.so", "`0x-5` is no number"),
            ("f-g h from l.so", "`f-g` is no function's name"),
            ("f g(1,2,3,4,5,6,7) from l.so", "at most 6"),
        ] {
            let said = format!("{:#}", Override::parse(line).unwrap_err());
            assert!(said.contains(wrong), "{line}: {said}");
        }
    }
}
