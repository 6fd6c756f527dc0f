//! The runtime's own cost: a message there and back, to an actor on the same CPU and on another.

use platform::{Samples, cycles, say};

use crate::actor::{self, Mailbox};

/// Measures the latencies and prints them.
pub fn run(cpus: usize) {
    ping_pong(0).report("ping-pong-same-cpu");
    if cpus < 2 {
        return say!("latency ping-pong-other-cpu needs 2 CPUs");
    }
    ping_pong(1).report("ping-pong-other-cpu");
}

fn ping_pong(cpu: usize) -> Samples {
    platform::move_to(0);
    let (address, mailbox) = actor::mailbox();
    let echo = move |mailbox: Mailbox<u64>| (0..Samples::wanted()).for_each(|_| address.send(mailbox.receive()));
    let actor = actor::spawn(cpu, echo);
    let mut samples = Samples::new();
    for round in 0..Samples::wanted() as u64 {
        let start = cycles();
        actor.address().send(round);
        let answer = mailbox.receive();
        samples.add(start, cycles());
        assert_eq!(answer, round, "another message came back");
    }
    actor.join();
    samples
}
