//! `aero bench programs`: programs of the distribution in kernel mode (`aero run`), beside
//! themselves as ordinary processes of the same emulated Linux, by the instructions that both
//! take: the clock of a Linux that counts them advances by a nanosecond for each.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use build::project::root;
use build::{Which, image, runtime};
use machine::ros::{Ros, Settings, Speed, Tree};
use machine::status;

/// What is measured: a name, Debian's package, and the command line.
const PROGRAMS: [(&str, Option<&str>, &str); 7] = [
    ("true, dynamic", None, "./true"),
    ("Lua, seven programs", Some("lua5.4"), "lua5.4 seven.lua 2"),
    ("Perl, seven programs", Some("perl"), "perl seven.pl 1"),
    ("Python, seven programs", Some("python3"), "python3 seven.py 1"),
    ("Racket, seven programs", Some("racket"), "racket seven.rkt 2"),
    ("SBCL, collections and threads", Some("sbcl"), "sbcl --noinform --disable-debugger --load collect.lisp --quit"),
    ("SQLite, on a file", Some("sqlite3"), "sqlite3 made.db -init sql .quit"),
];
const SQL: &str = "create table t(a, b); begin; with recursive n(i) as (select 1 union all select i+1 from n where \
                   i<20000) insert into t select i, i*i from n; commit; select sum(b) from t; create index x on t(b);";
const LIMIT: Duration = Duration::from_secs(3600);
const MEMORY: &str = "6G";
/// What the shell says before a run, and what [`timed`] says behind it.
const RUN: &str = "@run ";
const TIME: &str = "@nanoseconds ";

/// Runs a command, and prints the CPU time of its process and of those that it waited for.
pub fn timed(program: &OsStr, arguments: &[OsString]) -> Result<u8> {
    let ended = Command::new(program).args(arguments).status();
    let ended = ended.with_context(|| format!("{} cannot be run", program.display()))?;
    // SAFETY: the structure consists of words, and Linux fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let times = [usage.ru_utime, usage.ru_stime];
    println!("{TIME}{}", times.iter().map(|time| time.tv_sec * 1_000_000_000 + time.tv_usec * 1000).sum::<i64>());
    Ok(ended.code().map_or(status::FAILED, |code| code as u8))
}

/// Measures the programs whose names begin with one of these, or all.
pub fn run(names: &[String]) -> Result<u8> {
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| name.starts_with(wanted.as_str()));
    let programs: Vec<_> = PROGRAMS.into_iter().filter(|program| is_wanted(program.0)).collect();
    ensure!(!programs.is_empty(), "there is no such program; they are {}", PROGRAMS.map(|it| it.0).join("; "));
    let sources = ["seven.lua", "seven.pl", "seven.py", "seven.rkt", "collect.lisp"];
    let sources = sources.map(|name| root().join("tests/multiverse/languages").join(name));
    let mut files =
        vec![std::env::current_exe()?, runtime::build()?, image::build(Which::Hrt)?.boot, "/bin/true".into()];
    files.extend(sources);
    let packages = programs.iter().filter_map(|program| program.1);
    let trees: Vec<Tree> = packages.map(Tree::of_package).collect::<Result<_>>()?;
    let linux = Settings { cpus: 1, memory: MEMORY, speed: Speed::Counted, files: &files, trees: &trees };
    eprintln!("aero: each program runs twice in an emulated Linux that counts instructions; this takes some minutes");
    let mut said = Vec::new();
    let ended = Ros::execute(&linux, &script(&programs, &files), LIMIT, &mut said)?;
    let said = String::from_utf8_lossy(&said);
    ensure!(ended == status::DONE, "the Linux ended with status {ended}: {said}");
    print!("{}", table(&programs, &said)?);
    Ok(status::DONE)
}

/// The shell's part: each program runs natively and in the HRT, each time once before to have its
/// files read.
fn script(programs: &[(&str, Option<&str>, &str)], files: &[PathBuf]) -> String {
    let name = |index: usize| files[index].file_name().unwrap_or_default().to_string_lossy().into_owned();
    let split = format!("./{} run --stats --built ./{} ./{} -- ", name(0), name(1), name(2));
    let mut script = format!("echo '{SQL}' > sql;");
    for (_, _, command) in programs {
        for run in ["", &split] {
            let clean = "rm -f made.db;";
            let _ = write!(
                script,
                "{clean} {run}{command} >/dev/null 2>&1; {clean} echo '{RUN}'; \
                 ./{} bench --timed {run}{command} >said 2>&1; s=$?; \
                 grep -e '{TIME}' -e aero: -e 'executed natively' said; echo status $s;",
                name(0)
            );
        }
    }
    script
}

/// A run's figures.
#[derive(Debug, PartialEq, Eq)]
struct Figures {
    ns: u64,
    status: u64,
    forwarded: u64,
    executed: u64,
}

/// Reads what the shell has said of a run.
fn figures(part: &str) -> Option<Figures> {
    let ns = part.lines().find_map(|line| line.strip_prefix(TIME)?.parse().ok())?;
    let before = |what: &str| {
        let line = part.lines().find(|line| line.contains(what))?;
        line[..line.find(what)?].split_whitespace().last()?.parse().ok()
    };
    let status = part.lines().find_map(|line| line.strip_prefix("status ")?.parse().ok()).unwrap_or(0);
    Some(Figures {
        ns,
        status,
        forwarded: before(" forwarded call").unwrap_or(0),
        executed: before(" instructions executed natively").unwrap_or(0),
    })
}

fn table(programs: &[(&str, Option<&str>, &str)], said: &str) -> Result<String> {
    let runs: Option<Vec<Figures>> = said.split(RUN).skip(1).map(figures).collect();
    let runs = runs.filter(|runs| runs.len() == 2 * programs.len());
    let mut runs = runs.with_context(|| format!("the Linux has said something else: {said}"))?.into_iter();
    let mut text = format!(
        "CPU time of the process, in millions of instructions\n{:<32} {:>10} {:>10} {:>8} {:>12} {:>10}\n",
        "program", "natively", "in the HRT", "ratio", "forwarded", "by itself"
    );
    while let (Some(natively), Some(split)) = (runs.next(), runs.next()) {
        let (name, _, command) = programs[(programs.len() * 2 - runs.len()) / 2 - 1];
        ensure!(
            natively.status == split.status,
            "`{command}` ends with {} natively, and with {}",
            natively.status,
            split.status
        );
        let [before, after] = [&natively, &split].map(|run| run.ns as f64 / 1e6);
        ensure!(natively.status == 0, "`{command}` fails with {}, also natively", natively.status);
        let ratio = after / before.max(0.001);
        let _ = writeln!(
            text,
            "{name:<32} {before:>10.1} {after:>10.1} {ratio:>8.3} {:>12} {:>10}",
            split.forwarded, split.executed
        );
    }
    let _ = writeln!(
        text,
        "forwarded: system calls that Linux made; by itself: instructions executed natively, for faults"
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read() {
        let said = "\n@nanoseconds 5000\naero: 1 thread, 12 forwarded calls, 3.0 ms in them\n  \
                    4 instructions executed natively, 0.1 ms\nstatus 3\n";
        assert_eq!(figures(said), Some(Figures { ns: 5000, status: 3, forwarded: 12, executed: 4 }));
        assert_eq!(figures("status 3\n"), None);
        let programs = [("one", None, "./one")];
        let run = |ns: u64| format!("{RUN}\n{TIME}{ns}\nstatus 0\n");
        let text = table(&programs, &[run(10_000_000), run(11_000_000)].concat()).expect("a table");
        assert!(
            text.contains("one") && text.contains("10.0") && text.contains("11.0") && text.contains("1.100"),
            "{text}"
        );
        assert!(table(&programs, &run(1)).is_err());
    }
}
