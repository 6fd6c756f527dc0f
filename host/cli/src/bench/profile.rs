//! `aero bench --profile`: attributes a benchmark's instructions to functions, from QEMU's log of
//! every instruction.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::thread::{self, JoinHandle};

use addr2line::Loader;
use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol};

use super::measure::{self, Setting};
use build::Image;
use machine::qemu;

/// The code of a time counter reading, as `arch_x64::cpu::model::cycles_in_order` contains it:
/// LFENCE, RDTSC, LFENCE.
const READING: [u8; 8] = [0x0f, 0xae, 0xe8, 0x0f, 0x31, 0x0f, 0xae, 0xe8];
/// Part of the names of all benchmark functions.
const BENCHMARKS: &str = "bench::";
/// Longest way in instructions. A longer stretch between two readings is no measurement.
const LONGEST: usize = 20_000;
/// The project's directory when the image was built, derived from this crate's directory.
const ROOT: &str = match env!("CARGO_MANIFEST_DIR").as_bytes().split_last_chunk::<8>() {
    Some((root, b"host/cli")) => match std::str::from_utf8(root) {
        Ok(root) => root,
        Err(_) => "",
    },
    _ => "",
};
/// Number of ways shown, the most frequent first.
const WAYS: usize = 4;

/// An executed instruction: its CPU and its address.
type Step = (u8, u64);

/// The instructions from one reading to the next: first address, address of the next reading, and
/// count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    from: u64,
    to: u64,
    length: usize,
}

/// How often each way was taken, with one example of its instructions.
#[derive(Default)]
struct Ways {
    /// Addresses at which benchmarks read the time counter, sorted.
    readings: Vec<u64>,
    found: BTreeMap<Way, (usize, Vec<Step>)>,
    current: Option<Vec<Step>>,
}

impl Ways {
    fn add(&mut self, step: Step) {
        if self.readings.binary_search(&step.1).is_ok() {
            if let Some(steps) = self.current.take() {
                let way = Way { from: steps[0].1, to: step.1, length: steps.len() };
                self.found.entry(way).or_insert_with(|| (0, steps)).0 += 1;
            }
            self.current = Some(vec![step]);
        } else if let Some(steps) = &mut self.current {
            steps.push(step);
            if steps.len() > LONGEST {
                self.current = None;
            }
        }
    }
}

/// Parses CPU and address from a line of QEMU's `-d exec`:
/// `Trace 0: 0x7f... [0000000000000000/ffff800000200000/0x...] ...`.
fn parse(line: &[u8]) -> Option<Step> {
    let line = std::str::from_utf8(line).ok()?.strip_prefix("Trace ")?;
    let (cpu, rest) = line.split_once(':')?;
    let address = rest.split_once('/')?.1.split('/').next()?;
    Some((cpu.parse().ok()?, u64::from_str_radix(address, 16).ok()?))
}

/// Returns the addresses at which benchmark functions read the time counter, sorted.
fn readings(bytes: &[u8]) -> Result<Vec<u64>> {
    let file = object::File::parse(bytes).context("the image is no ELF file")?;
    let text = file.section_by_name(".text").context("the image has no code")?;
    let code = text.data()?;
    let is_in_benchmark = |address: u64| {
        let function = file.symbols().find(|symbol| {
            symbol.size() > 0 && (symbol.address()..symbol.address() + symbol.size()).contains(&address)
        });
        let name = function.and_then(|symbol| symbol.name().ok().map(rustc_demangle::demangle));
        name.is_some_and(|name| format!("{name:#}").contains(BENCHMARKS))
    };
    let places = code.windows(READING.len()).enumerate().filter(|(_, window)| *window == READING);
    Ok(places.map(|(at, _)| text.address() + at as u64).filter(|&address| is_in_benchmark(address)).collect())
}

/// A pipe that QEMU writes its log to and that a thread of this process reads.
struct Log {
    write: OwnedFd,
    reader: JoinHandle<Ways>,
}

impl Log {
    fn open(readings: Vec<u64>) -> Result<Self> {
        let mut ends: [RawFd; 2] = [0; 2];
        // SAFETY: `ends` has room for the two descriptors that pipe writes. They stay open across
        // exec, because QEMU opens the writing end by its number.
        ensure!(unsafe { libc::pipe(ends.as_mut_ptr()) } == 0, "no pipe: {}", std::io::Error::last_os_error());
        // SAFETY: pipe has just created both descriptors, and nothing else in this process owns
        // them.
        let (read, write) = unsafe { (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        let reader = thread::spawn(move || {
            let mut ways = Ways { readings, ..Ways::default() };
            let mut input = BufReader::with_capacity(1 << 20, read);
            let mut line = Vec::new();
            while input.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if let Some(step) = parse(&line) {
                    ways.add(step);
                }
                line.clear();
            }
            ways
        });
        Ok(Self { write, reader })
    }

    fn arguments(&self) -> Vec<String> {
        // `-singlestep` makes every instruction a block of its own, and `nochain` logs every
        // executed block.
        let path = format!("/dev/fd/{}", self.write.as_raw_fd());
        ["-singlestep", "-d", "exec,nochain", "-D", &path].map(String::from).to_vec()
    }

    fn finish(self) -> Result<Ways> {
        drop(self.write);
        self.reader.join().ok().context("the log could not be read")
    }
}

/// Runs a benchmark with every instruction in QEMU's log, and prints which functions they belong
/// to.
pub fn run(image: &Image, setting: Setting, name: &str) -> Result<()> {
    ensure!(
        qemu::major_version()? < 9,
        "this needs a QEMU with -singlestep, before version 9; this one is {}",
        qemu::major_version()?
    );
    let bytes = std::fs::read(&image.debug).with_context(|| format!("{} cannot be read", image.debug.display()))?;
    let log = Log::open(readings(&bytes)?)?;
    eprintln!("aero: `bench {name}`, an instruction at a time");
    let report = measure::ours_with(image, setting, &format!("bench --json {name}"), log.arguments());
    let ways = log.finish()?;
    let loader = Loader::new(&image.debug).ok().context("the image has no debug information")?;
    for row in &report?.results {
        println!("{}: median {} {}, {} times", row.name, row.median, row.unit, row.count);
    }
    let mut found: Vec<(&Way, &(usize, Vec<Step>))> = ways.found.iter().collect();
    found.sort_by_key(|(_, (times, _))| std::cmp::Reverse(*times));
    for (way, (times, steps)) in found.into_iter().take(WAYS) {
        println!(
            "\n{times} times {} instructions, from {} to {}",
            way.length,
            function(&loader, way.from, true),
            function(&loader, way.to, true)
        );
        print(&loader, steps);
    }
    Ok(())
}

/// Prints the number of instructions per CPU and function, in the order of first execution.
fn print(loader: &Loader, steps: &[Step]) {
    let mut names: HashMap<u64, String> = HashMap::new();
    let mut counts: Vec<((u8, String), usize)> = Vec::new();
    for &(cpu, address) in steps {
        let name = names.entry(address).or_insert_with(|| function(loader, address, false)).clone();
        match counts.iter_mut().find(|(place, _)| *place == (cpu, name.clone())) {
            Some((_, count)) => *count += 1,
            None => counts.push(((cpu, name), 1)),
        }
    }
    for ((cpu, name), count) in counts {
        println!("{count:>6}  CPU {cpu}  {name}");
    }
}

/// Returns the name of the function that an instruction belongs to. If `called`, that is the
/// function that was called and into which the others are inlined. Otherwise it is the innermost
/// function written in this project, or else the innermost of all.
fn function(loader: &Loader, address: u64, called: bool) -> String {
    let mut names = Vec::new();
    if let Ok(mut frames) = loader.find_frames(address) {
        while let Ok(Some(frame)) = frames.next() {
            let is_ours = frame.location.and_then(|location| location.file).is_some_and(|file| file.starts_with(ROOT));
            let name = frame.function.and_then(|name| name.demangle().ok().map(|name| name.into_owned()));
            names.extend(name.map(|name| (name, is_ours)));
        }
    }
    let name = match called {
        true => names.pop(),
        false => names.iter().find(|(_, is_ours)| *is_ours).or(names.first()).cloned(),
    };
    let symbol = || loader.find_symbol(address).map(|name| format!("{:#}", rustc_demangle::demangle(name)));
    name.map(|(name, _)| name).or_else(symbol).unwrap_or_else(|| format!("{address:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_log_is_understood() {
        let line = b"Trace 1: 0x7fe4b4000100 [0000000000000000/ffff800000201047/00c08033/ff000201] interrupt_common\n";
        assert_eq!(parse(line), Some((1, 0xffff_8000_0020_1047)));
        assert_eq!(parse(b"Stopped execution of TB chain before 0x7fe4 [00/00/0/0] \n"), None);
    }

    #[test]
    fn ways_are_between_readings() {
        let mut ways = Ways { readings: vec![10, 20], ..Ways::default() };
        for address in [1, 10, 11, 12, 20, 21, 10, 11, 12, 20] {
            ways.add((0, address));
        }
        let count = |from, to, length| ways.found.get(&Way { from, to, length }).map(|found| found.0);
        assert_eq!((count(10, 20, 3), count(20, 10, 2), ways.found.len()), (Some(2), Some(1), 2));
    }
}
