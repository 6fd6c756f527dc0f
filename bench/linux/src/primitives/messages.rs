//! Messages between threads: event file descriptors and pipes.

use report::Counter;

use crate::system::{check, on_cpu};
use crate::{Benchmark, Error, Outcome, benchmark, cycles, repeat, samples};

/// The benchmarks.
pub const BENCHMARKS: &[Benchmark] = &[
    benchmark("eventfd_ping_pong_local", 1, |counter| ping_pong(counter, 0, [eventfd()?, eventfd()?])),
    benchmark("eventfd_ping_pong_remote", 2, |counter| ping_pong(counter, 1, [eventfd()?, eventfd()?])),
    benchmark("pipe_ping_pong_local", 1, |counter| ping_pong(counter, 0, [pipe()?, pipe()?])),
    benchmark("pipe_ping_pong_remote", 2, |counter| ping_pong(counter, 1, [pipe()?, pipe()?])),
    benchmark("pipe_message", 2, stream),
];

/// The two ends of a message queue: one to write to, one to read from.
#[derive(Clone, Copy)]
struct Ends {
    write: i32,
    read: i32,
}

fn eventfd() -> Result<Ends, Error> {
    // SAFETY: the call takes no pointers, only two numbers.
    let descriptor = check(unsafe { libc::eventfd(0, 0) })? as i32;
    Ok(Ends { write: descriptor, read: descriptor })
}

fn pipe() -> Result<Ends, Error> {
    let mut ends = [0; 2];
    // SAFETY: the array has room for the two descriptors that the call writes.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) })?;
    Ok(Ends { write: ends[1], read: ends[0] })
}

impl Ends {
    fn send(self, word: u64) -> bool {
        // SAFETY: the buffer is the eight bytes of a local.
        unsafe { libc::write(self.write, (&raw const word).cast(), 8) == 8 }
    }

    fn receive(self) -> Option<u64> {
        let mut word = 0u64;
        // SAFETY: the buffer is a local with room for eight bytes.
        (unsafe { libc::read(self.read, (&raw mut word).cast(), 8) } == 8).then_some(word)
    }
}

/// The message that ends the partner thread.
const END: u64 = 1 << 32;

fn ping_pong(counter: Counter, cpu: usize, [there, back]: [Ends; 2]) -> Outcome {
    let partner = on_cpu(cpu, move || {
        while let Some(word) = there.receive() {
            if word == END || !back.send(word + 1) {
                return;
            }
        }
    });
    let mut number = 0;
    let samples = repeat(
        counter,
        || {
            number += 2;
            (there.send(number), back.receive(), number)
        },
        |(sent, answer, number)| sent && answer == Some(number + 1),
    );
    there.send(END);
    partner.join().map_err(|_| "the partner ended early")?;
    samples
}

/// Number of messages in a stream.
const STREAM: u64 = 64;

fn stream(counter: Counter) -> Outcome {
    let (messages, sums) = (pipe()?, pipe()?);
    let consumer = on_cpu(1, move || {
        loop {
            let mut sum = 0;
            for _ in 0..STREAM {
                match messages.receive() {
                    None | Some(END) => return,
                    Some(message) => sum += message,
                }
            }
            sums.send(sum);
        }
    });
    let mut samples = samples(counter)?;
    while !samples.is_complete() {
        let start = cycles();
        let sent = (0..STREAM).all(|message| messages.send(message));
        let sum = sums.receive();
        samples.add_shared(start, cycles(), STREAM);
        if !sent || sum != Some(STREAM * (STREAM - 1) / 2) {
            return Err("messages got lost".into());
        }
    }
    messages.send(END);
    consumer.join().map_err(|_| "the consumer ended early")?;
    Ok(samples)
}
