//! A message-passing runtime over message queues, and programs on it: on the Aerokernel and as a
//! Linux process.
//!
//! - [`actor`]: the runtime: an actor is a thread with a mailbox.
//! - [`sieve`], [`ring`]: the programs. Their results are the same on any number of CPUs and on
//!   both systems.
//! - [`latencies`]: the runtime's own cost.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod actor;
pub mod latencies;
pub mod ring;
pub mod sieve;

use platform::{cpu_count, cycles, say};

platform::program!(run);

/// A program: its name, its default size, and the function that computes its result from the number
/// of CPUs and the size.
type Program = (&'static str, usize, fn(usize, usize) -> u64);

const PROGRAMS: [Program; 2] = [("sieve", 300, sieve::run), ("ring", 200, ring::run)];

const USAGE: &str = "\
usage: actors [NAME[:SIZE]] [CPUS]
  NAME   sieve (primes), ring (rounds), latencies, or all
  CPUS   number of CPUs; all if none is given";

/// Runs what the arguments ask for and returns the exit status.
pub fn run(arguments: &[&str]) -> i32 {
    let chosen = arguments.get(1).copied().unwrap_or("all");
    let (name, size) = chosen.split_once(':').map_or((chosen, None), |(name, size)| (name, Some(size)));
    let size = size.map(str::parse::<usize>).transpose();
    let cpus = arguments.get(2).map_or(Ok(cpu_count()), |cpus| cpus.parse::<usize>());
    let (Ok(cpus @ 1..=256), Ok(size)) = (cpus, size) else {
        say!("{USAGE}");
        return 2;
    };
    if name == "latencies" {
        latencies::run(cpus);
        return 0;
    }
    let mut programs = PROGRAMS.iter().filter(|program| name == "all" || program.0 == name).peekable();
    if programs.peek().is_none() {
        say!("actors: there is no program `{name}`\n{USAGE}");
        return 2;
    }
    for (name, default, program) in programs {
        let size = size.unwrap_or(*default);
        let start = cycles();
        let result = program(cpus, size);
        say!("result {name}:{size} {result:016x}");
        say!("took {name}:{size} workers {cpus} cycles {}", cycles() - start);
    }
    0
}
