//! A message that circulates in a ring of actors; each mixes its number into it.

use alloc::vec::Vec;

use platform::checksum;

use crate::actor::{self, Mailbox};

/// The number of actors in the ring.
const ACTORS: usize = 8;

/// Sends a message round `rounds` times and returns its final value.
pub fn run(cpus: usize, rounds: usize) -> u64 {
    platform::move_to(0);
    let (address, mailbox) = actor::mailbox();
    // From last to first, because each actor needs the address of the next.
    let mut next = address;
    let mut actors = Vec::new();
    for number in (0..ACTORS as u64).rev() {
        let to = next.clone();
        let relay = move |mailbox: Mailbox<u64>| {
            for _ in 0..rounds {
                to.send(checksum([mailbox.receive(), number]));
            }
        };
        let actor = actor::spawn(number as usize % cpus, relay);
        next = actor.address().clone();
        actors.push(actor);
    }
    let message = (0..rounds).fold(1, |message, _| {
        next.send(message);
        mailbox.receive()
    });
    actors.into_iter().for_each(actor::Actor::join);
    message
}
