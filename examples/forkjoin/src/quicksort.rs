//! Quicksort of random words.

use alloc::vec::Vec;

use platform::checksum;

use crate::Random;
use crate::parallel::join;
use crate::worker::Worker;

/// Up to this many elements, insertion sort is used.
const SMALL: usize = 32;
/// Below this many elements, nothing is forked.
const ALONE: usize = 512;

/// Sorts `count` words and returns their checksum.
pub fn run(worker: &Worker, count: usize) -> u64 {
    let mut random = Random::new(count as u64);
    let mut words: Vec<u64> = (0..count).map(|_| random.next()).collect();
    sort(worker, &mut words);
    assert!(words.is_sorted(), "quicksort left the words unsorted");
    checksum(words)
}

fn sort(worker: &Worker, words: &mut [u64]) {
    if words.len() <= SMALL {
        return insertion_sort(words);
    }
    let (low, high) = split(words);
    if low.len() + high.len() < ALONE {
        sort(worker, low);
        sort(worker, high);
    } else {
        join(worker, |worker| sort(worker, low), |worker| sort(worker, high));
    }
}

fn insertion_sort(words: &mut [u64]) {
    for end in 1..words.len() {
        let mut at = end;
        while at > 0 && words[at - 1] > words[at] {
            words.swap(at - 1, at);
            at -= 1;
        }
    }
}

/// Splits into two parts, none of the first greater than any of the second (Hoare's partition
/// around the median of three).
fn split(words: &mut [u64]) -> (&mut [u64], &mut [u64]) {
    let (first, middle, last) = (words[0], words[words.len() / 2], words[words.len() - 1]);
    let pivot = first.min(middle).max(first.max(middle).min(last));
    let (mut low, mut high) = (0, words.len() - 1);
    loop {
        while words[low] < pivot {
            low += 1;
        }
        while words[high] > pivot {
            high -= 1;
        }
        if low >= high {
            return words.split_at_mut(low.max(1));
        }
        words.swap(low, high);
        low += 1;
        high -= 1;
    }
}
