//! The smallest program: a thread on each CPU prints a greeting, and the exit status is the number
//! of arguments.
#![no_std]

extern crate alloc;

use alloc::vec::Vec;

use hrt::thread::Builder;
use hrt::{Arguments, cpu, println};

hrt::program!(main);

fn main(arguments: Arguments) -> i32 {
    let threads: Result<Vec<_>, _> = (0..cpu::count())
        .map(|index| Builder::new("greeter").cpu(index).spawn(|| println!("hello from CPU {}", cpu::this())))
        .collect();
    match threads {
        Ok(threads) => threads.into_iter().for_each(|thread| thread.join().unwrap_or_default()),
        Err(error) => {
            println!("hello: {error}");
            return 1;
        }
    }
    for argument in arguments.iter().skip(1) {
        println!("hello, {argument}, {:.3}", 1.0 / argument.len() as f64);
    }
    arguments.iter().count() as i32 - 1
}
