//! The queue of bytes for the console's device, which is slower than its writers.

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// Capacity in bytes: 0.7 s of a line at 115,200 baud.
pub const CAPACITY: usize = 8 * 1024;
/// Number of bytes offered to the device at once: the size of a 16550's FIFO.
const CHUNK: usize = 16;

/// A ring buffer with one user at a time, under the console's lock. Its memory is atomic, so that a
/// crash can empty it while the lock's holder is stopped halfway through an operation.
pub struct Queue {
    bytes: [AtomicU8; CAPACITY],
    /// Total numbers of bytes pushed and sent, modulo the word size.
    pushed: AtomicUsize,
    sent: AtomicUsize,
}

impl Queue {
    pub const fn new() -> Self {
        Self { bytes: [const { AtomicU8::new(0) }; CAPACITY], pushed: AtomicUsize::new(0), sent: AtomicUsize::new(0) }
    }

    pub fn len(&self) -> usize {
        self.pushed.load(Ordering::Acquire).wrapping_sub(self.sent.load(Ordering::Relaxed))
    }

    /// Returns the number of bytes the queue can still take.
    pub fn room(&self) -> usize {
        CAPACITY - self.len()
    }

    /// Takes as many of the bytes as fit. Returns how many.
    pub fn push(&self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        let pushed = self.pushed.load(Ordering::Relaxed);
        for (offset, &byte) in bytes[..taken].iter().enumerate() {
            self.bytes[pushed.wrapping_add(offset) % CAPACITY].store(byte, Ordering::Relaxed);
        }
        self.pushed.store(pushed.wrapping_add(taken), Ordering::Release);
        taken
    }

    /// Offers bytes to `device`, which returns how many it took, until it takes none or none are
    /// left.
    pub fn send(&self, mut device: impl FnMut(&[u8]) -> usize) {
        loop {
            let mut chunk = [0; CHUNK];
            let offered = self.len().min(CHUNK);
            let sent = self.sent.load(Ordering::Relaxed);
            for (offset, byte) in chunk[..offered].iter_mut().enumerate() {
                *byte = self.bytes[sent.wrapping_add(offset) % CAPACITY].load(Ordering::Relaxed);
            }
            if offered == 0 {
                return;
            }
            let taken = device(&chunk[..offered]);
            if taken == 0 {
                return;
            }
            self.sent.store(sent.wrapping_add(taken), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    use super::{CAPACITY, Queue};

    /// A device that alternately takes `per_call` bytes and none.
    fn slow<'a>(per_call: usize, line: &'a mut Vec<u8>) -> impl FnMut(&[u8]) -> usize + 'a {
        let mut busy = false;
        move |bytes| {
            busy = !busy;
            let taken = if busy { bytes.len().min(per_call) } else { 0 };
            line.extend_from_slice(&bytes[..taken]);
            taken
        }
    }

    #[test]
    fn everything_arrives_once_and_in_order() {
        let queue = Box::new(Queue::new());
        let text: Vec<u8> = (0..3 * CAPACITY).map(|index| (index % 251) as u8).collect();
        for per_call in [1, 7, 16] {
            let (mut line, mut pushed) = (Vec::new(), 0);
            while line.len() < text.len() {
                pushed += queue.push(&text[pushed..]);
                queue.send(slow(per_call, &mut line));
            }
            assert!(line == text, "with {per_call} bytes a call");
            assert_eq!(queue.len(), 0);
        }
    }

    #[test]
    fn a_full_queue_takes_no_more_and_loses_nothing() {
        let queue = Box::new(Queue::new());
        assert_eq!(queue.push(&vec![b'a'; CAPACITY + 5]), CAPACITY);
        assert_eq!(queue.room(), 0);
        assert_eq!(queue.push(b"b"), 0);
        let mut line = Vec::new();
        queue.send(slow(3, &mut line));
        assert_eq!(queue.push(b"bcde"), 3);
        queue.send(|bytes| {
            line.extend_from_slice(bytes);
            bytes.len()
        });
        assert_eq!(line.len(), CAPACITY + 3);
        assert_eq!(&line[CAPACITY..], b"bcd");
    }
}
