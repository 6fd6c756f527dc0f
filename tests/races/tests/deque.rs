//! The work-stealing deque of examples/forkjoin, in all interleavings that loom finds. The included
//! file is the example's own.
#![cfg(loom)]
#![allow(dead_code, reason = "the included file has more than is explored")]

/// Loom's atomics.
mod atomic {
    pub use loom::sync::atomic::{AtomicIsize, AtomicPtr, Ordering, fence};
}

#[path = "../../../examples/forkjoin/src/deque.rs"]
mod deque;

use std::ptr;

use deque::{Deque, Stolen};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// An item: its taker reads the value, which loom rejects unless the write happened before.
struct Item(UnsafeCell<usize>);

const CAPACITY: usize = 2;

type Items = Deque<Item, CAPACITY>;

fn item(value: usize) -> *mut Item {
    Box::into_raw(Box::new(Item(UnsafeCell::new(value))))
}

/// Consumes an item and returns its value.
fn open(item: *mut Item) -> usize {
    assert!(!item.is_null(), "an empty slot was taken");
    // SAFETY: the pointer comes from `item`. Opening an item twice is the error the tests look for,
    // and loom detects it by its count of allocations.
    let item = unsafe { Box::from_raw(item) };
    item.0.with_mut(|value| {
        // SAFETY: this thread owns the item; loom reports a concurrent access.
        unsafe { ptr::replace(value, usize::MAX) }
    })
}

/// Runs a model in all interleavings with up to three preemptions.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn thief(deque: &Arc<Items>, tries: usize) -> thread::JoinHandle<Vec<usize>> {
    let deque = deque.clone();
    thread::spawn(move || {
        let stolen = (0..tries).filter_map(|_| match deque.steal() {
            Stolen::One(item) => Some(open(item)),
            Stolen::Lost | Stolen::Empty => None,
        });
        stolen.collect()
    })
}

/// Asserts that the items taken and those left in the deque are each item exactly once.
fn assert_each_once(count: usize, mut got: Vec<usize>, deque: &Items) {
    while let Some(item) = deque.pop() {
        got.push(open(item));
    }
    got.sort_unstable();
    assert_eq!(got, (0..count).collect::<Vec<_>>());
}

#[test]
fn an_item_goes_to_its_owner_or_to_one_of_two_thieves() {
    explore(|| {
        let deque = Arc::new(Items::new());
        assert!(deque.push(item(0)));
        let thieves = [thief(&deque, 1), thief(&deque, 1)];
        let mut got: Vec<usize> = deque.pop().map(open).into_iter().collect();
        got.extend(thieves.into_iter().flat_map(|thief| thief.join().expect("a thief ends")));
        assert_each_once(1, got, &deque);
    });
}

#[test]
fn slots_are_used_again_while_a_thief_looks() {
    explore(|| {
        let deque = Arc::new(Items::new());
        let thief = thief(&deque, 2);
        let mut got = Vec::new();
        let mut next = 0;
        for _ in 0..3 {
            let new = item(next);
            if deque.push(new) {
                next += 1;
            } else {
                assert_eq!(open(new), next);
            }
            if next == 2 {
                got.extend(deque.pop().map(open));
            }
        }
        got.extend(thief.join().expect("a thief ends"));
        assert_each_once(next, got, &deque);
    });
}

#[test]
fn thieves_take_the_oldest_and_the_owner_the_youngest() {
    explore(|| {
        let deque = Arc::new(Items::new());
        assert!(deque.push(item(0)) && deque.push(item(1)));
        let refused = item(2);
        let thief = thief(&deque, 1);
        let fits = deque.push(refused);
        let youngest = deque.pop().map(open);
        let stolen = thief.join().expect("a thief ends");
        assert!(!fits || stolen == [0], "a full deque took one more");
        assert_eq!(youngest, Some(if fits { 2 } else { 1 }));
        assert!(stolen.is_empty() || stolen == [0]);
        if !fits {
            assert_eq!(open(refused), 2);
        }
        let count = if fits { 3 } else { 2 };
        assert_each_once(count, stolen.into_iter().chain(youngest).collect(), &deque);
    });
}
