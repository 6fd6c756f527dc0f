//! The primes below a bound, by a chain of actors, each of which filters out the multiples of its
//! prime.

use alloc::vec::Vec;

use platform::checksum;

use crate::actor::{self, Actor, Address, Mailbox};

/// The message that ends a sequence of numbers.
const END: u64 = 0;

/// Finds the primes below `bound` and returns their checksum.
pub fn run(cpus: usize, bound: usize) -> u64 {
    platform::move_to(0);
    let (results, found) = actor::mailbox();
    let first = actor::spawn(1 % cpus, move |mailbox| filter(&mailbox, &results, cpus, 1));
    let start = first.address().clone();
    let source =
        actor::spawn(0, move |_: Mailbox<u64>| (2..bound as u64).chain([END]).for_each(|number| start.send(number)));
    // The last actor of the chain passes the end on, after all before it have sent their primes.
    let primes: Vec<u64> = core::iter::repeat_with(|| found.receive()).take_while(|&prime| prime != END).collect();
    source.join();
    first.join();
    checksum(primes)
}

/// The life of an actor whose prime is the first number it receives.
fn filter(mailbox: &Mailbox<u64>, results: &Address<u64>, cpus: usize, index: usize) {
    let prime = mailbox.receive();
    results.send(prime);
    if prime == END {
        return;
    }
    let mut next: Option<Actor<u64>> = None;
    loop {
        let number = mailbox.receive();
        if number != END && number.is_multiple_of(prime) {
            continue;
        }
        let follower = next.get_or_insert_with(|| {
            let results = results.clone();
            actor::spawn((index + 1) % cpus, move |mailbox| filter(&mailbox, &results, cpus, index + 1))
        });
        follower.address().send(number);
        if number == END {
            break;
        }
    }
    if let Some(follower) = next {
        follower.join();
    }
}
