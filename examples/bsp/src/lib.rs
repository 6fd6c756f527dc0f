//! A bulk-synchronous runtime over a collective of threads, and a stencil on it: on the Aerokernel
//! and as a Linux process.
//!
//! - [`member`]: the runtime: members compute and send messages, then all meet, then the messages
//!   are delivered.
//! - [`stencil`]: the program. Its result is the same, to the bit, with any number of members and
//!   on both systems.
//! - [`latencies`]: the runtime's own cost.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod latencies;
pub mod member;
pub mod stencil;

use platform::{cpu_count, cycles, say};

platform::program!(run);

/// The default number of points per side.
const SIDE: usize = 128;

const USAGE: &str = "\
usage: bsp [stencil[:SIDE] | latencies] [MEMBERS]
  SIDE      points on a side of the grid
  MEMBERS   number of members, one per CPU; all CPUs if none is given";

/// Runs what the arguments ask for and returns the exit status.
pub fn run(arguments: &[&str]) -> i32 {
    let chosen = arguments.get(1).copied().unwrap_or("stencil");
    let (name, side) = chosen.split_once(':').unwrap_or((chosen, ""));
    let side = if side.is_empty() { Ok(SIDE) } else { side.parse::<usize>() };
    let members = arguments.get(2).map_or(Ok(cpu_count()), |members| members.parse::<usize>());
    let (Ok(members @ 1..=256), Ok(side @ 3..)) = (members, side) else {
        say!("{USAGE}");
        return 2;
    };
    match name {
        "latencies" => latencies::run(members),
        "stencil" => {
            let start = cycles();
            let result = stencil::run(members, side);
            say!("result stencil:{side} {result:016x}");
            say!("took stencil:{side} workers {members} cycles {}", cycles() - start);
        }
        _ => {
            say!("bsp: there is no program `{name}`\n{USAGE}");
            return 2;
        }
    }
    0
}
